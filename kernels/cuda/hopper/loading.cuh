/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' kernel: one thread of a block loads factors. */
#ifndef NEAPI_HOPPER_LOADING_CUH
#define NEAPI_HOPPER_LOADING_CUH

#include "plan.cuh"

/* Starts to load a box: 64 rows (columns) of a factor, or with both for the other block too. */
__device__ static inline void load_box(uint32_t to, const CUtensorMap *map, uint32_t full, int x,
                                       int y, int z, bool both)
{
  const uint16_t ALL = 3;
  if (both)
    copy_box_to_all(to, map, full, x, y, z, ALL);
  else
    copy_box(to, map, full, x, y, z);
}

template <bool A_ACROSS>
__device__ static inline void load_left(const job &j, const neapi_tile_group &g, const tile &t,
                                        int k, int part, uint32_t to, uint32_t full)
{
  int row = t.m * TILE_M + part * 64, first = j.left_hidden ? g.hidden : g.first;
  uint32_t at = to + part * PART;
  if (A_ACROSS)
    load_box(at, &j.a, full, row, first + k, 0, t.beside);
  else
    load_box(at, &j.a, full, k, first + row, 0, t.beside);
}

/* part: 64 columns, or where lines lie along K 128. */
template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
__device__ static inline void load_right(const job &j, const neapi_tile_group &g, const tile &t,
                                         int k, int part, uint32_t to, uint32_t full)
{
  const int WIDTH = B_ACROSS ? 64 : TILE_N / 2;
  int column = t.n * TILE_N + part * WIDTH;
  uint32_t at = to + part * (WIDTH / 64) * PART;
  if (EPILOGUE == GATE)
    column = part / 2 * (j.n / 2) + t.n * (TILE_N / 2) + part % 2 * 64;
  if (A_ACROSS)
    load_box(at, &j.b, full, column, (j.right_hidden ? g.hidden : g.first) + k, 0, !t.beside);
  else if (B_ACROSS)
    load_box(at, &j.b, full, column, k, g.slot, !t.beside);
  else
    load_box(at, &j.b, full, k, column, g.slot, !t.beside);
}

/* Starts to load both factors of a tile for one stage: all of the block's own and half of the one
 * that the pair shares, for both. */
template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
__device__ static inline void load_stage(const job &j, const neapi_tile_group &g, const tile &t,
                                         int k, uint32_t to, uint32_t full)
{
  const int LEFT = TILE_M / 64, RIGHT = B_ACROSS ? TILE_N / 64 : 2;
  barrier_expect(full, STAGE);
  if (t.beside) {
    load_left<A_ACROSS>(j, g, t, k, t.rank, to, full);
    for (int i = 0; i < RIGHT; i++)
      load_right<A_ACROSS, B_ACROSS, EPILOGUE>(j, g, t, k, i, to + BYTES_A, full);
  } else {
    for (int i = 0; i < LEFT; i++)
      load_left<A_ACROSS>(j, g, t, k, i, to, full);
    for (int i = 0; i < RIGHT / 2; i++)
      load_right<A_ACROSS, B_ACROSS, EPILOGUE>(j, g, t, k, t.rank * (RIGHT / 2) + i, to + BYTES_A,
                                               full);
  }
}

/* Loads all tiles of the block. */
template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
__device__ static inline void load_tiles(const job &j, ring r, tile_iterator it)
{
  fetch_map(&j.a);
  fetch_map(&j.b);
  for (tile t; next_tile(j, it, t);) {
    const neapi_tile_group &g = j.tiles.group[it.group];
    int depth = A_ACROSS ? g.rows : j.k;
    for (int k = 0; k < depth; k += TILE_K) {
      uint32_t to = shared_address(r.stages + r.stage * STAGE);
      barrier_wait(r.empty + r.stage * 8, r.parity ^ 1);
      load_stage<A_ACROSS, B_ACROSS, EPILOGUE>(j, g, t, k, to, r.full + r.stage * 8);
      advance<EPILOGUE>(r);
    }
  }
}

#endif
