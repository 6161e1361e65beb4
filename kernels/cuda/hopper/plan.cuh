/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the experts' kernel (experts.cu) share: a block's work, its tiles, and
 * its shared memory. */
#ifndef NEAPI_HOPPER_PLAN_CUH
#define NEAPI_HOPPER_PLAN_CUH

#include "hopper.cuh"
#include "tiles.h"

enum {
  PAIR = 2, /* blocks that work together */
  TILE_M = NEAPI_TILE_M,
  TILE_N = 256,
  TILE_K = 64,            /* elements of K in a stage */
  LINE = 128,             /* bytes of a line of a factor in shared memory */
  PART = 64 * TILE_K * 2, /* bytes of 64 rows of a factor */
  BYTES_A = TILE_M / 64 * PART,
  BYTES_B = TILE_N / 64 * PART,
  STAGE = BYTES_A + BYTES_B,
  GROUP = 128,                    /* threads of a warpgroup */
  THREADS = 3 * GROUP,            /* of a block */
  WARPS = 2 * GROUP / WARP,       /* that multiply */
  STORE_WARPS = GROUP / WARP - 1, /* of the third group, whose first warp loads */
  MULTIPLY_REGISTERS = 176,       /* of a thread that multiplies */
  OTHER_REGISTERS = 152,
  ROWS_PER_WARP = 16,                  /* of a tile */
  BUFFER_BYTES = ROWS_PER_WARP * LINE, /* of a staging buffer */
  SIZE = pack<bf16>::SIZE
};

/* What is done with a finished tile. */
typedef enum {
  STORE,    /* out = tile */
  FLOAT,    /* the same, not rounded: out is float */
  GATE,     /* tile: 128 columns of gate, then of up; out = both, activation = silu(gate) * up */
  GATE_BACK /* tile: its gradient; out: gate and up, then their gradients; activation as above;
               dots: of a row of the tile, with activation */
} epilogue;

/* A block's shared memory.
 *
 * Rounded, a tile lies in four staging buffers per warp, 64 columns each, from where the store
 * warps write it while the next one is multiplied. A tile of float would take twice the memory:
 * there the copy engine writes it from the warp's two buffers, 32 columns each, in turn. */
template <epilogue EPILOGUE> struct plan {
  enum {
    BY_STORE_WARPS = EPILOGUE != FLOAT,
    STAGES = BY_STORE_WARPS ? 3 : 4,
    BUFFERS = BY_STORE_WARPS ? 4 : 2,                           /* of a warp that multiplies */
    BARRIERS = STAGES * STAGE + WARPS * BUFFERS * BUFFER_BYTES, /* where they start */
    SHARED = 1024 + BARRIERS + (2 * STAGES + 2) * 8
  };
  static_assert(SHARED <= 227 * 1024, "more than a block's shared memory");
};

typedef struct {
  CUtensorMap a, b, c; /* c: weight gradients */
  neapi_tiles tiles;
  bf16 *out, *activation; /* other results */
  bool left_hidden;  /* rows of the left factor are those of arrays (rows, F); else of (rows, H) */
  bool right_hidden; /* weight gradients: the same of the right factor */
  float *dots;       /* (rows, tiles across) */
  int64_t ld;        /* elements of a row of out */
  int32_t m, n, k;   /* weight gradients: M, N, and K is a slot's rows; else M is its rows */
} job;

/* ---- tiles ----------------------------------------------------------------------------------- */

/* A tile of a block, one of a pair. */
typedef struct {
  int32_t m, n;
  bool beside; /* the pair shares the left factor, else the right one */
  int rank;
} tile;

/* The block's tiles, one after the other. */
typedef struct {
  int32_t round, group;
  int rank;
} tile_iterator;

/* Whether there is a next tile; then what it is. */
__device__ static inline bool next_tile(const job &j, tile_iterator &it, tile &t)
{
  int32_t number = neapi_tiles_number_of(it.round, blockIdx.x / PAIR, gridDim.x / PAIR);
  if (number >= j.tiles.pairs)
    return false;
  neapi_tile_pair p = neapi_tiles_find(&j.tiles, number, &it.group);
  t.beside = p.beside;
  t.rank = it.rank;
  t.m = p.m + (p.beside ? 0 : it.rank);
  t.n = p.n + (p.beside ? it.rank : 0);
  it.round++;
  return true;
}

/* ---- shared memory --------------------------------------------------------------------------- */

/* The stages of a block's ring, and its staging buffers; addresses in shared memory. */
typedef struct {
  unsigned char *stages, *staging;
  uint32_t full, empty;    /* barriers, one per stage */
  uint32_t staged, stored; /* barriers: a tile is in the staging buffers; it has been stored */
  int stage, parity;
} ring;

/* Sets up the ring; every thread of both blocks. */
template <epilogue EPILOGUE> __device__ static inline ring open_ring(unsigned char *stages)
{
  typedef plan<EPILOGUE> p;
  uint32_t barriers = shared_address(stages + p::BARRIERS);
  ring r = {stages,
            stages + p::STAGES * STAGE,
            barriers,
            barriers + p::STAGES * 8,
            barriers + p::STAGES * 16,
            barriers + p::STAGES * 16 + 8,
            0,
            0};
  if (threadIdx.x == 0) {
    for (int s = 0; s < p::STAGES; s++) {
      barrier_init(r.full + s * 8, 1);
      barrier_init(r.empty + s * 8, WARPS * PAIR);
    }
    barrier_init(r.staged, WARPS);
    barrier_init(r.stored, STORE_WARPS);
    fence_barriers();
    fence_shared();
  }
  cluster_meet();
  return r;
}

template <epilogue EPILOGUE> __device__ static inline void advance(ring &r)
{
  if (++r.stage == plan<EPILOGUE>::STAGES) {
    r.stage = 0;
    r.parity ^= 1;
  }
}

#endif
