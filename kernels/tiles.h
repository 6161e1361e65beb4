/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tiles.h: which tile of a grouped product comes when. Plain C, used on both sides of a launch.
 *
 * A group is the product of one slot: its rows times its expert's parameters, or for a weight
 * gradient a sum over its rows. All groups of a launch share the shape of the parameters.
 *
 * Two blocks work together on a pair of tiles: one above the other, or where a group's last line of
 * tiles has none below it, one beside the other. Pairs are numbered through the groups, those with
 * the most rows first (where K is the rows, their tiles take longest). Blocks take them in rounds,
 * in turn first the first and first the last, so that none gets the longer tile every time.
 */
#ifndef NEAPI_TILES_H
#define NEAPI_TILES_H

#include "kernels.h"

/* BAND: pairs down that share what they read of the right factor. GROUPS: as many as fit in the
 * 4 KB of a kernel's parameters. */
enum { NEAPI_TILE_M = 128, NEAPI_BAND = 8, NEAPI_GROUPS = 176 };

typedef struct {
  int32_t slot, first, rows; /* rows first to first + rows - 1 */
  int32_t hidden;            /* the same of arrays (rows, F), where it may be another one */
  int32_t before;            /* pairs of the groups before */
} neapi_tile_group;

typedef struct {
  int32_t count, pairs; /* groups, and pairs of all of them */
  int32_t columns;      /* tiles across a group */
  int32_t m;            /* rows of every group's result; 0: a group's own rows */
  neapi_tile_group group[NEAPI_GROUPS];
} neapi_tiles;

/* A pair's first tile, in its group; beside: the second is at the right, not below. */
typedef struct {
  int32_t m, n, beside;
} neapi_tile_pair;

/* Tiles down a group. */
NEAPI_BOTH_SIDES static inline int32_t neapi_tiles_lines(const neapi_tiles *t,
                                                         const neapi_tile_group *group)
{
  return ((t->m ? t->m : group->rows) + NEAPI_TILE_M - 1) / NEAPI_TILE_M;
}

/* The pair of worker w of so many in a round; past the last pair it has no more. */
NEAPI_BOTH_SIDES static inline int32_t neapi_tiles_number_of(int32_t round, int32_t worker,
                                                             int32_t workers)
{
  return round * workers + (round % 2 ? workers - 1 - worker : worker);
}

/* The pair of a number; *group: where the caller's pair before was, 0 at first. Within a group:
 * band after band, in a band column after column; then what has none below. */
NEAPI_BOTH_SIDES static inline neapi_tile_pair neapi_tiles_find(const neapi_tiles *t,
                                                                int32_t number, int32_t *group)
{
  while (*group + 1 < t->count && number >= t->group[*group + 1].before)
    ++*group;
  const neapi_tile_group *g = &t->group[*group];
  int32_t in_group = number - g->before, deep = neapi_tiles_lines(t, g) / 2;
  if (in_group >= deep * t->columns) {
    neapi_tile_pair last = {2 * deep, 2 * (in_group - deep * t->columns), 1};
    return last;
  }
  int32_t band = in_group / (NEAPI_BAND * t->columns);
  int32_t in_band = in_group - band * NEAPI_BAND * t->columns;
  int32_t left = deep - band * NEAPI_BAND, depth = left < NEAPI_BAND ? left : NEAPI_BAND;
  neapi_tile_pair pair = {2 * (band * NEAPI_BAND + in_band % depth), in_band / depth, 0};
  return pair;
}

/* Adds a slot; 0 where there are GROUPS, which is what one launch takes. */
static inline int neapi_tiles_add(neapi_tiles *t, int64_t slot, int64_t first, int64_t hidden,
                                  int64_t rows)
{
  if (t->count == NEAPI_GROUPS)
    return 0;
  int32_t at = t->count++;
  for (; at && t->group[at - 1].rows < rows; at--)
    t->group[at] = t->group[at - 1];
  neapi_tile_group group = {(int32_t)slot, (int32_t)first, (int32_t)rows, (int32_t)hidden, 0};
  t->group[at] = group;
  return 1;
}

/* Numbers the pairs of the groups that were added. */
static inline void neapi_tiles_number(neapi_tiles *t, int32_t m, int32_t columns)
{
  t->m = m;
  t->columns = columns;
  t->pairs = 0;
  for (int32_t g = 0; g < t->count; g++) {
    int32_t lines = neapi_tiles_lines(t, &t->group[g]);
    t->group[g].before = t->pairs;
    t->pairs += lines / 2 * columns + lines % 2 * ((columns + 1) / 2);
  }
}

#endif
