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
  GROUP = 128,                /* threads of a warpgroup */
  THREADS = 3 * GROUP,        /* of a block */
  WARPS = 2 * GROUP / WARP,   /* that multiply */
  STORERS = GROUP / WARP - 1, /* warps of the third group; its first warp loads */
  MANY = 176,                 /* registers of a thread that multiplies */
  FEW = 152,                  /* of others */
  ROWS_A_WARP = 16,           /* of a tile */
  DESK = ROWS_A_WARP * LINE,
  SIZE = pack<bf16>::SIZE
};

/* What is done with a finished tile. */
typedef enum {
  STORE,    /* out = tile */
  FLOAT,    /* the same, not rounded: out is float */
  GATE,     /* tile: 128 columns of gate, then of up; out = both, activation = silu(gate) * up */
  GATE_BACK /* tile: its gradient; out: gate and up, then their gradients; activation as above */
} ending;

/* A block's shared memory.
 *
 * Rounded, a tile lies on four desks a warp, 64 columns each, from where other warps store it while
 * the next one is multiplied. A tile of float would take twice the room: there the copy engine
 * stores it from the warp's desks, 32 columns each, in turn. */
template <ending END> struct plan {
  enum {
    APART = END != FLOAT,
    STAGES = APART ? 3 : 4,
    DESKS = APART ? 4 : 2,                            /* of a warp that multiplies */
    BARRIERS = STAGES * STAGE + WARPS * DESKS * DESK, /* where they start */
    SHARED = 1024 + BARRIERS + (2 * STAGES + 2) * 8
  };
  static_assert(SHARED <= 227 * 1024, "more than a block's shared memory");
};

typedef struct {
  CUtensorMap a, b, c; /* c: weight gradients */
  neapi_tiles tiles;
  bf16 *out, *activation; /* other results */
  int64_t ld;             /* elements of a row of out */
  int32_t m, n, k;        /* weight gradients: M, N, and K is a slot's rows; else M is its rows */
} job;

/* ---- tiles -------------------------------------------------------------------------------------
 */

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
} walk;

/* Whether there is a next tile; then what it is. */
__device__ static inline bool next_tile(const job &j, walk &w, tile &t)
{
  int32_t number = neapi_tiles_number_of(w.round, blockIdx.x / PAIR, gridDim.x / PAIR);
  if (number >= j.tiles.pairs)
    return false;
  neapi_pair p = neapi_tiles_find(&j.tiles, number, &w.group);
  t.beside = p.beside;
  t.rank = w.rank;
  t.m = p.m + (p.beside ? 0 : w.rank);
  t.n = p.n + (p.beside ? w.rank : 0);
  w.round++;
  return true;
}

/* ---- shared memory -----------------------------------------------------------------------------
 */

/* The stages of a block's ring, and its desks; addresses in shared memory. */
typedef struct {
  unsigned char *stages, *desks;
  uint32_t full, empty; /* barriers, one a stage */
  uint32_t laid, clear; /* barriers: a tile lies on the desks; it has been stored */
  int stage, parity;
} ring;

/* Sets up the ring; every thread of both blocks. */
template <ending END> __device__ static inline ring open_ring(unsigned char *stages)
{
  typedef plan<END> p;
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
    barrier_init(r.laid, WARPS);
    barrier_init(r.clear, STORERS);
    fence_barriers();
    fence_shared();
  }
  cluster_meet();
  return r;
}

template <ending END> __device__ static inline void advance(ring &r)
{
  if (++r.stage == plan<END>::STAGES) {
    r.stage = 0;
    r.parity ^= 1;
  }
}

#endif
