/*
 * tiles.h: which tile of a grouped product comes when. Plain C, used on both sides of a launch.
 *
 * A group is the product of one slot: its rows times its expert's parameters, or for a weight
 * gradient a sum over its rows. All groups of a launch share the shape of the parameters. Tiles are
 * numbered through the groups, those with the most rows first (where K is the rows, their tiles
 * take longest); blocks take them in rounds, in turn first the first and first the last block, so
 * that no block gets the longer tile every time.
 * Where two blocks work together, a tile is for both: `height` rows, half of them each.
 */
#ifndef NEAPI_TILES_H
#define NEAPI_TILES_H

#include <stdint.h>

#ifdef __CUDACC__
#define NEAPI_BOTH_SIDES __host__ __device__
#else
#define NEAPI_BOTH_SIDES
#endif

/* BAND: rows that share what they read of the right factor. GROUPS: as many as fit in the 4 KB of a
 * kernel's parameters. */
enum { NEAPI_TILE_M = 128, NEAPI_BAND = 16 * NEAPI_TILE_M, NEAPI_GROUPS = 224 };

typedef struct {
  int32_t slot, first, rows; /* rows first to first + rows - 1 */
  int32_t before;            /* tiles of the groups before */
} neapi_group;

typedef struct {
  int32_t count, tiles;    /* groups, and tiles of all of them */
  int32_t height, columns; /* rows of a tile; tiles across a group */
  int32_t m;               /* rows of every group's result; 0: a group's own rows */
  neapi_group group[NEAPI_GROUPS];
} neapi_tiles;

typedef struct {
  int32_t m, n; /* tile's place in its group */
} neapi_tile;

/* The tile of block b of so many in a round; past the last tile it has no more. */
NEAPI_BOTH_SIDES static inline int32_t neapi_tiles_number_of(int32_t round, int32_t block,
                                                             int32_t blocks)
{
  return round * blocks + (round % 2 ? blocks - 1 - block : block);
}

/* Tiles down a group. */
NEAPI_BOTH_SIDES static inline int32_t neapi_tiles_lines(const neapi_tiles *t,
                                                         const neapi_group *group)
{
  return ((t->m ? t->m : group->rows) + t->height - 1) / t->height;
}

/* The tile of a number; *group: where the caller's tile before was, 0 at first. Within a group:
 * band after band, in a band column after column. */
NEAPI_BOTH_SIDES static inline neapi_tile neapi_tiles_find(const neapi_tiles *t, int32_t number,
                                                           int32_t *group)
{
  while (*group + 1 < t->count && number >= t->group[*group + 1].before)
    ++*group;
  const neapi_group *g = &t->group[*group];
  int32_t in_group = number - g->before, lines = neapi_tiles_lines(t, g);
  int32_t deep = NEAPI_BAND / t->height, band = in_group / (deep * t->columns);
  int32_t in_band = in_group - band * deep * t->columns;
  int32_t left = lines - band * deep, depth = left < deep ? left : deep;
  neapi_tile tile = {band * deep + in_band % depth, in_band / depth};
  return tile;
}

/* Adds a slot with rows; returns whether there was room. */
static inline int neapi_tiles_add(neapi_tiles *t, int64_t slot, int64_t first, int64_t rows)
{
  if (t->count == NEAPI_GROUPS)
    return 0;
  int32_t at = t->count++;
  for (; at && t->group[at - 1].rows < rows; at--)
    t->group[at] = t->group[at - 1];
  neapi_group group = {(int32_t)slot, (int32_t)first, (int32_t)rows, 0};
  t->group[at] = group;
  return 1;
}

/* Numbers the tiles of the groups that were added. */
static inline void neapi_tiles_number(neapi_tiles *t, int32_t height, int32_t m, int32_t columns)
{
  t->height = height;
  t->m = m;
  t->columns = columns;
  t->tiles = 0;
  for (int32_t g = 0; g < t->count; g++) {
    t->group[g].before = t->tiles;
    t->tiles += neapi_tiles_lines(t, &t->group[g]) * columns;
  }
}

#endif
