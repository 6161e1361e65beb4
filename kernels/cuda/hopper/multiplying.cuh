/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' kernel: two warpgroups of a block multiply, 64 rows of a tile each. */
#ifndef NEAPI_HOPPER_MULTIPLYING_CUH
#define NEAPI_HOPPER_MULTIPLYING_CUH

#include "finishing.cuh"

/* Clears the lines from `from` on of `lines`, where K ends within a stage: they hold other groups'
 * rows. */
__device__ static inline void clear_lines(unsigned char *part, int from, int lines)
{
  int pieces = (lines - from) * (LINE / 16);
  for (int i = threadIdx.x % GROUP; i < pieces; i += GROUP)
    ((uint4 *)(part + from * LINE))[i] = make_uint4(0, 0, 0, 0);
}

/* Both warpgroups clear all of the right factor: neither waits for the other. */
__device__ static inline void clear_rest(unsigned char *left, unsigned char *right, int from,
                                         int id)
{
  clear_lines(left, from, TILE_K);
  for (int i = 0; i < TILE_N / 64; i++)
    clear_lines(right + i * PART, from, TILE_K);
  fence_shared();
  warpgroup_meet(id);
}

template <bool A_ACROSS, bool B_ACROSS>
__device__ static inline void multiply_stage(float (&d)[128], uint32_t left, uint32_t right,
                                             bool first)
{
  const int STEP = 16; /* elements of K of an instruction */
#pragma unroll
  for (int i = 0; i < TILE_K / STEP; i++) {
    uint64_t a = factor(left + i * STEP * (A_ACROSS ? LINE : 2), A_ACROSS ? PART : 0);
    uint64_t b = factor(right + i * STEP * (B_ACROSS ? LINE : 2), B_ACROSS ? PART : 0);
    multiply_add<A_ACROSS, B_ACROSS>(d, a, b, !first || i);
  }
}

/* Tells those who load, in both blocks, that this warp has read a stage. */
__device__ static inline void free_stage(const ring &r, int stage)
{
  if (threadIdx.x % WARP == 0)
    for (int rank = 0; rank < PAIR; rank++)
      barrier_arrive_at(r.empty + stage * 8, rank);
}

/* d = a tile's half of a warpgroup. */
template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
__device__ static inline void multiply_tile(float (&d)[128], ring &r, int depth, int part)
{
  int before = -1; /* stage whose products may be under way */
  for (int k = 0; k < depth; k += TILE_K) {
    barrier_wait(r.full + r.stage * 8, r.parity);
    unsigned char *left = r.stages + r.stage * STAGE + part * PART;
    unsigned char *right = r.stages + r.stage * STAGE + BYTES_A;
    if (A_ACROSS && depth - k < TILE_K)
      clear_rest(left, right, depth - k, part + 1);
    products_begin();
    multiply_stage<A_ACROSS, B_ACROSS>(d, shared_address(left), shared_address(right), k == 0);
    products_commit();
    products_wait<1>();
    if (before >= 0)
      free_stage(r, before);
    before = r.stage;
    advance<EPILOGUE>(r);
  }
  products_wait<0>();
  after_wait(d);
  free_stage(r, before);
}

/* Passes the stages of a tile on, unread. */
template <epilogue EPILOGUE> __device__ static inline void pass_tile(ring &r, int depth)
{
  for (int k = 0; k < depth; k += TILE_K) {
    barrier_wait(r.full + r.stage * 8, r.parity);
    __syncwarp(); /* a lane that came late would find the stage filled again, and wait for ever */
    free_stage(r, r.stage);
    advance<EPILOGUE>(r);
  }
}

/* A warpgroup that multiplies, for all tiles of the block. Where none of its 64 rows is the group's
 * the tensor cores are left to the other one. */
template <bool A_ACROSS, bool B_ACROSS, epilogue EPILOGUE>
__device__ static inline void multiply_tiles(const job &j, ring r, tile_iterator it, int part)
{
  int warp = part * (GROUP / WARP) + threadIdx.x % GROUP / WARP;
  unsigned char *staging = r.staging + warp * plan<EPILOGUE>::BUFFERS * BUFFER_BYTES;
  float d[128] = {};
  for (tile t; next_tile(j, it, t);) {
    const neapi_tile_group &g = j.tiles.group[it.group];
    int depth = A_ACROSS ? g.rows : j.k, rows = A_ACROSS ? j.m : g.rows;
    if (t.m * TILE_M + part * (TILE_M / 2) < rows)
      multiply_tile<A_ACROSS, B_ACROSS, EPILOGUE>(d, r, depth, part);
    else
      pass_tile<EPILOGUE>(r, depth);
    if (plan<EPILOGUE>::BY_STORE_WARPS)
      stage_tile(r, shared_address(staging), (it.round - 1) % 2, d);
    else
      store_floats<EPILOGUE>(j, g, t, warp, staging, d);
  }
  if (!plan<EPILOGUE>::BY_STORE_WARPS && threadIdx.x % WARP == 0)
    stores_finish();
}

#endif
