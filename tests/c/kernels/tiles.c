/* SPDX-License-Identifier: Apache-2.0 */
/* The order of a grouped product's tiles: each comes once, the longest groups first. */
#include "tiles.h"

#include "check.h"
#include "neap.h"

#include <stdlib.h>

enum { MOST_LINES = 80, MOST_COLUMNS = 10 };

static int64_t pick(uint64_t seed, uint64_t index, int64_t low, int64_t high)
{
  return low + (int64_t)(neap_random_bits(seed, 3, index) % (uint64_t)(high - low + 1));
}

/* Groups of any size; every third launch sums over rows, so that m is what they share. */
static void fill(neapi_tiles *t, uint64_t seed)
{
  int64_t groups = seed ? pick(seed, 1, 1, NEAPI_GROUPS) : 0, first = 0;
  t->count = 0;
  for (int64_t g = 0; g < groups; g++) {
    int64_t rows = pick(seed, (uint64_t)(100 + g), 1, g % 5 ? 300 : MOST_LINES * NEAPI_TILE_M);
    neapi_tiles_add(t, g, first, first, rows);
    first += rows;
  }
  int32_t m = seed % 3 ? 0 : (int32_t)pick(seed, 3, 1, MOST_LINES * NEAPI_TILE_M);
  neapi_tiles_number(t, m, (int32_t)pick(seed, 4, 1, MOST_COLUMNS - 1));
}

/* Counts a tile; beside the last column may be one that is none. */
static int64_t see(const neapi_tiles *t, int32_t group, int32_t m, int32_t n, bool beside,
                   unsigned char *seen)
{
  int32_t lines = neapi_tiles_lines(t, &t->group[group]);
  if (m < 0 || m >= lines || n < 0 || n >= t->columns + beside)
    return 1;
  seen[(group * MOST_LINES + m) * MOST_COLUMNS + n]++;
  return 0;
}

/* Walks as so many workers do and counts how often each tile comes. */
static int64_t count_tiles(const neapi_tiles *t, int workers, unsigned char *seen)
{
  int64_t wrong = 0;
  for (int worker = 0; worker < workers; worker++) {
    int32_t group = 0;
    for (int32_t round = 0, number;
         (number = neapi_tiles_number_of(round, worker, workers)) < t->pairs; round++) {
      neapi_tile_pair p = neapi_tiles_find(t, number, &group);
      wrong += see(t, group, p.m, p.n, false, seen);
      wrong += see(t, group, p.m + !p.beside, p.n + p.beside, p.beside, seen);
    }
  }
  return wrong;
}

static void check_walk(uint64_t seed)
{
  static unsigned char seen[NEAPI_GROUPS * MOST_LINES * MOST_COLUMNS];
  static neapi_tiles t;
  fill(&t, seed);
  memset(seen, 0, sizeof seen);
  int64_t wrong = count_tiles(&t, (int)pick(seed, 5, 1, 140), seen);
  for (int32_t g = 0; g < t.count; g++) {
    int32_t lines = neapi_tiles_lines(&t, &t.group[g]);
    wrong += lines * NEAPI_TILE_M < (t.m ? t.m : t.group[g].rows);
    wrong += g && t.group[g].rows > t.group[g - 1].rows;
    for (int32_t m = 0; m < lines; m++)
      for (int32_t n = 0; n < t.columns; n++)
        wrong += seen[(g * MOST_LINES + m) * MOST_COLUMNS + n] != 1;
  }
  check(!wrong, "tiles, seed %d: %d wrong", (int)seed, (int)wrong);
}

static void check_full(void)
{
  static neapi_tiles t;
  for (int g = 0; g < NEAPI_GROUPS; g++)
    check(neapi_tiles_add(&t, g, 0, 0, 1), "tiles: room for group %d", g);
  check(!neapi_tiles_add(&t, NEAPI_GROUPS, 0, 0, 1), "tiles: no room for one more");
  for (int g = 0; g < NEAPI_GROUPS; g++)
    check(t.group[g].slot == g, "tiles: equal groups keep their order");
}

int main(void)
{
  for (uint64_t seed = 0; seed < 60; seed++)
    check_walk(seed);
  check_full();
  return check_done();
}
