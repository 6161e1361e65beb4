/*
 * The experts' products on Hopper: one launch a product for all slots.
 *
 * Two blocks, each on its multiprocessor, work as a pair on tiles of 128 x 256 beside or above each
 * other (tiles.h), one pair of tiles after the other; each loads half of the factor that their
 * tiles share, for both. In a block, one thread has the copy engine load factors, 64 elements of K
 * at a time, into a ring of stages; two warpgroups multiply, 64 rows each, and lay the finished
 * tile down in shared memory, rounded to bf16; from there three more warps store it while the next
 * tile is multiplied. Where it is the product for an activation or its gradient they compute that
 * from the rounded values, as separate passes would. Weight gradients are float; the warpgroups
 * store them.
 *
 * Every element is summed over K in the same order wherever its row stands and whatever other rows
 * there are. So that rows keep their bits, who chooses between these and other products may look at
 * H and F, never at numbers of rows.
 */
#include "hopper.cuh"
#include "hopper_experts.h"
#include "tiles.h"

#include <pthread.h>

enum {
  PAIR = 2, /* blocks that work together */
  TILE_M = NEAPI_TILE_M,
  TILE_N = 256,
  TILE_K = 64,
  LINE = TILE_K * 2, /* bytes of a line of a factor */
  GROUP = 128,       /* threads of a warpgroup */
  THREADS = 3 * GROUP,
  BYTES_A = TILE_M * LINE,
  BYTES_B = TILE_N * LINE,
  STAGE = BYTES_A + BYTES_B,
  PART = 64 * LINE,           /* bytes of 64 rows of a factor */
  ROWS_A_WARP = 16,           /* of a tile */
  DESK = ROWS_A_WARP * 128,   /* bytes: 64 columns of a warp's rows */
  WARPS = 2 * GROUP / WARP,   /* that multiply */
  STORERS = GROUP / WARP - 1, /* warps that store */
  SHELF_ROWS = 5,             /* gates and ups under way to a warp that stores */
  SHELF_ROW = 2 * TILE_N * 2, /* bytes */
  SIZE = pack<bf16>::SIZE
};

/* What is done with a finished tile. */
typedef enum {
  STORE,    /* out = tile */
  FLOAT,    /* the same, not rounded: out is float */
  GATE,     /* tile: 128 columns of gate, then of up; out = both, activation = silu(gate) * up */
  GATE_BACK /* tile: its gradient; out: gate and up, then their gradients; activation as above */
} ending;

/* Where the end of a tile takes long, it is left to other warps: the tile lies on four desks a warp
 * while the next one is multiplied. Else the warps that multiply store it too, two desks at a time,
 * and there is room for one more stage. */
template <ending END> struct plan {
  enum {
    APART = END != FLOAT,
    STAGES = APART ? 3 : 4,
    DESKS = APART ? 4 : 2,                           /* of a warp */
    SHELVES = STAGES * STAGE + WARPS * DESKS * DESK, /* where they start */
    BARRIERS = SHELVES + (END == GATE_BACK ? STORERS * SHELF_ROWS * SHELF_ROW : 0),
    SHARED = 1024 + BARRIERS + (2 * STAGES + 2 + STORERS * SHELF_ROWS) * 8
  };
};

typedef struct {
  CUtensorMap a, b;
  neapi_tiles tiles;
  void *out;
  bf16 *activation;
  int64_t ld, stride; /* of out: elements of a row; weight gradients: of a slot */
  int32_t m, n, k;    /* weight gradients: M, N, and K is a slot's rows; else M is its rows */
} job;

/* ---- loading -----------------------------------------------------------------------------------
 */

/* One of a pair, and what it computes. */
typedef struct {
  int32_t m, n;
  bool beside; /* the pair shares the left factor, else the right one */
  int rank;
} tile;

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
__device__ static inline void load_left(const job &j, const neapi_group &g, const tile &t, int k,
                                        int part, uint32_t to, uint32_t full)
{
  int row = t.m * TILE_M + part * 64;
  if (A_ACROSS)
    load_box(to + part * PART, &j.a, full, row, g.first + k, 0, t.beside);
  else
    load_box(to + part * PART, &j.a, full, k, g.first + row, 0, t.beside);
}

/* part: 64 columns, or where lines lie along K 128. */
template <bool A_ACROSS, bool B_ACROSS, ending END>
__device__ static inline void load_right(const job &j, const neapi_group &g, const tile &t, int k,
                                         int part, uint32_t to, uint32_t full)
{
  const int WIDTH = B_ACROSS ? 64 : TILE_N / 2;
  int column = t.n * TILE_N + part * WIDTH;
  uint32_t at = to + part * WIDTH * LINE;
  if (END == GATE)
    column = part / 2 * (j.n / 2) + t.n * (TILE_N / 2) + part % 2 * 64;
  if (A_ACROSS)
    load_box(at, &j.b, full, column, g.first + k, 0, !t.beside);
  else if (B_ACROSS)
    load_box(at, &j.b, full, column, k, g.slot, !t.beside);
  else
    load_box(at, &j.b, full, k, column, g.slot, !t.beside);
}

/* Starts to load both factors of a tile for 64 elements of K: all of the block's own and half of
 * the one that the pair shares, for both. */
template <bool A_ACROSS, bool B_ACROSS, ending END>
__device__ static inline void load_stage(const job &j, const neapi_group &g, const tile &t, int k,
                                         uint32_t to, uint32_t full)
{
  const int LEFT = TILE_M / 64, RIGHT = B_ACROSS ? TILE_N / 64 : 2;
  barrier_expect(full, STAGE);
  if (t.beside) {
    load_left<A_ACROSS>(j, g, t, k, t.rank, to, full);
    for (int i = 0; i < RIGHT; i++)
      load_right<A_ACROSS, B_ACROSS, END>(j, g, t, k, i, to + BYTES_A, full);
  } else {
    for (int i = 0; i < LEFT; i++)
      load_left<A_ACROSS>(j, g, t, k, i, to, full);
    for (int i = 0; i < RIGHT / 2; i++)
      load_right<A_ACROSS, B_ACROSS, END>(j, g, t, k, t.rank * (RIGHT / 2) + i, to + BYTES_A, full);
  }
}

/* ---- finishing ---------------------------------------------------------------------------------
 */

/* 64 columns of the warp's rows, d[FROM] on, rounded, to a desk: row r keeps its 16-byte piece p at
 * place p ^ (r % 8). */
template <int FROM> __device__ static inline void put(uint32_t desk, const float (&d)[128])
{
  int lane = threadIdx.x % WARP, row = lane % 16, side = lane / 16;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      __nv_bfloat162 pair =
          __floats2bfloat162_rn(d[FROM + j * 4 + i * 2], d[FROM + j * 4 + i * 2 + 1]);
      v[i] = *(uint32_t *)&pair;
    }
    store_matrices(desk + row * 128 + (((j + side) ^ (row % 8)) * 16), v[0], v[1], v[2], v[3]);
  }
}

/* 64 columns of the warp's rows, d[FROM] on, to both desks: row r keeps its 16-byte piece p, of 16,
 * at place p ^ 2 (r % 4). */
template <int FROM>
__device__ static inline void put_floats(unsigned char *desk, const float (&d)[128])
{
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int j = 0; j < 8; j++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int row = i * 8 + lane / 4, piece = j * 2 + lane % 4 / 2;
      float2 v = make_float2(d[FROM + j * 4 + i * 2], d[FROM + j * 4 + i * 2 + 1]);
      *(float2 *)(desk + row * 256 + ((piece ^ (row % 4 * 2)) * 16) + lane % 2 * 8) = v;
    }
}

/* A tile's place in out. */
typedef struct {
  int64_t row, row_end;
  int32_t column, columns; /* first, and the end of all */
} area;

__device__ static inline float logistic(float x)
{
  return __fdividef(1.0f, 1.0f + __expf(-x));
}

/* activation of 8 gates and ups. */
__device__ static inline pack<bf16> gated(const pack<bf16> &gate, const pack<bf16> &up)
{
  pack<bf16> h;
#pragma unroll
  for (int i = 0; i < SIZE; i++) {
    float x = to_float(gate.at[i]);
    h.at[i] = real_of<bf16>(x * logistic(x) * to_float(up.at[i]));
  }
  return h;
}

/* Turns gate and up into their gradients; returns activation. */
__device__ static inline pack<bf16> gated_back(pack<bf16> &gate, pack<bf16> &up,
                                               const pack<bf16> &slope)
{
  pack<bf16> h;
#pragma unroll
  for (int i = 0; i < SIZE; i++) {
    float x = to_float(gate.at[i]), u = to_float(up.at[i]), s = to_float(slope.at[i]);
    float open = logistic(x), silu = x * open;
    h.at[i] = real_of<bf16>(silu * u);
    gate.at[i] = real_of<bf16>(s * u * (open + silu * (1.0f - open)));
    up.at[i] = real_of<bf16>(s * silu);
  }
  return h;
}

/* Two desks hold 64 columns of float. */
__device__ static inline void store_floats(const job &j, const area &a, float *out,
                                           const unsigned char *desk, int from)
{
  int lane = threadIdx.x % WARP;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    int row = i * 2 + lane / 16, piece = lane % 16, column = a.column + from + piece * 4;
    float4 v = *(const float4 *)(desk + row * 256 + ((piece ^ (row % 4 * 2)) * 16));
    if (a.row + row < a.row_end && column < a.columns)
      *(float4 *)(out + (a.row + row) * j.ld + column) = v;
  }
}

template <int QUARTER>
__device__ static inline void finish_floats(const job &j, const area &a, float *out,
                                            unsigned char *desk, const float (&d)[128])
{
  put_floats<QUARTER * 32>(desk, d);
  __syncwarp();
  store_floats(j, a, out, desk, QUARTER * 64);
  __syncwarp();
}

template <ending END>
__device__ static inline area area_of(const job &j, const neapi_group &g, const tile &t)
{
  int64_t first = END == FLOAT ? 0 : g.first;
  area a;
  a.row = first + t.m * TILE_M;
  a.row_end = first + (END == FLOAT ? j.m : g.rows);
  a.column = t.n * (END == GATE ? TILE_N / 2 : TILE_N);
  a.columns = END == GATE ? j.n / 2 : j.n;
  return a;
}

/* A piece, of 32, of a row of the tile as it lies on the desks. */
__device__ static inline pack<bf16> take(const unsigned char *desks, int row, int piece)
{
  const unsigned char *desk = desks + row / ROWS_A_WARP * 4 * DESK + piece / 8 * DESK;
  int in_desk = row % ROWS_A_WARP;
  return *(const pack<bf16> *)(desk + in_desk * 128 + (((piece % 8) ^ (in_desk % 8)) * 16));
}

/* One of `of` warps stores its share of a tile's rows, a piece a lane. */
__device__ static inline void store_rows(const job &j, const area &a, const unsigned char *desks,
                                         int warp, int of)
{
  int lane = threadIdx.x % WARP, column = a.column + lane * SIZE;
  bf16 *out = (bf16 *)j.out + a.row * j.ld + column;
  int rows = a.row_end - a.row < TILE_M ? (int)(a.row_end - a.row) : (int)TILE_M;
  if (column < a.columns)
#pragma unroll 4
    for (int row = warp; row < rows; row += of)
      *(pack<bf16> *)(out + row * j.ld) = take(desks, row, lane);
}

/* Gates are the left half of a tile: half a warp a row. */
__device__ static inline void store_gated(const job &j, const area &a, const unsigned char *desks,
                                          int warp, int of)
{
  int piece = threadIdx.x % WARP % 16, column = a.column + piece * SIZE;
  int rows = a.row_end - a.row < TILE_M ? (int)(a.row_end - a.row) : (int)TILE_M;
  if (column < a.columns)
#pragma unroll 2
    for (int row = warp * 2 + threadIdx.x % WARP / 16; row < rows; row += of * 2) {
      pack<bf16> gate = take(desks, row, piece), up = take(desks, row, 16 + piece);
      bf16 *both = (bf16 *)j.out + (a.row + row) * 2 * a.columns + column;
      *(pack<bf16> *)both = gate;
      *(pack<bf16> *)(both + a.columns) = up;
      *(pack<bf16> *)(j.activation + (a.row + row) * a.columns + column) = gated(gate, up);
    }
}

/* Where rows of gates and ups arrive for a warp that stores; a barrier a row. */
typedef struct {
  const unsigned char *rows;
  uint32_t at, barriers;
  int taken; /* rows so far */
} shelf;

/* Starts to load a row of a tile's gates and ups for the use-th row taken. */
__device__ static inline void load_row(const job &j, const area &a, int row, const shelf &s,
                                       int use)
{
  if (threadIdx.x % WARP)
    return;
  int left = a.columns - a.column, bytes = (left < TILE_N ? left : (int)TILE_N) * 2;
  uint32_t barrier = s.barriers + use % SHELF_ROWS * 8, to = s.at + use % SHELF_ROWS * SHELF_ROW;
  const bf16 *both = (const bf16 *)j.out + (a.row + row) * 2 * a.columns + a.column;
  barrier_expect(barrier, 2 * bytes);
  copy_bytes(to, both, bytes, barrier);
  copy_bytes(to + SHELF_ROW / 2, both + a.columns, bytes, barrier);
}

/* A warp's share of a tile: every of-th row. */
__device__ static inline int share_of(const area &a, int warp, int of)
{
  int64_t rows = a.row_end - a.row < TILE_M ? a.row_end - a.row : (int64_t)TILE_M;
  return rows > warp && a.column < a.columns ? (int)(rows - warp + of - 1) / of : 0;
}

__device__ static inline void load_first_rows(const job &j, const area &a, const shelf &s, int warp,
                                              int of)
{
  int share = share_of(a, warp, of);
  for (int i = 0; i < share && i < SHELF_ROWS; i++)
    load_row(j, a, warp + i * of, s, s.taken + i);
}

/* The tile holds gradients of activation. */
__device__ static inline void store_gated_back(const job &j, const area &a,
                                               const unsigned char *desks, shelf &s, int warp,
                                               int of)
{
  int lane = threadIdx.x % WARP, column = a.column + lane * SIZE, share = share_of(a, warp, of);
  for (int i = 0; i < share; i++, s.taken++) {
    int row = warp + i * of, place = s.taken % SHELF_ROWS;
    barrier_wait(s.barriers + place * 8, s.taken / SHELF_ROWS % 2);
    if (column < a.columns) {
      const unsigned char *from = s.rows + place * SHELF_ROW + lane * 16;
      pack<bf16> gate = *(const pack<bf16> *)from, up = *(const pack<bf16> *)(from + SHELF_ROW / 2);
      pack<bf16> h = gated_back(gate, up, take(desks, row, lane));
      bf16 *both = (bf16 *)j.out + (a.row + row) * 2 * a.columns + column;
      *(pack<bf16> *)both = gate;
      *(pack<bf16> *)(both + a.columns) = up;
      *(pack<bf16> *)(j.activation + (a.row + row) * a.columns + column) = h;
    }
    __syncwarp();
    if (i + SHELF_ROWS < share)
      load_row(j, a, row + SHELF_ROWS * of, s, s.taken + SHELF_ROWS);
  }
}

/* ---- multiplying -------------------------------------------------------------------------------
 */

/* Clears the lines from `from` on, where K ends within a stage: they hold other groups' rows. */
__device__ static inline void clear_lines(unsigned char *part, int from)
{
  int pieces = (TILE_K - from) * (LINE / 16);
  for (int i = threadIdx.x % GROUP; i < pieces; i += GROUP)
    ((uint4 *)(part + from * LINE))[i] = make_uint4(0, 0, 0, 0);
}

/* Both warpgroups clear all of the right factor: neither waits for the other. */
__device__ static inline void clear_rest(unsigned char *left, unsigned char *right, int from,
                                         int id)
{
  clear_lines(left, from);
  for (int i = 0; i < TILE_N / 64; i++)
    clear_lines(right + i * PART, from);
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
    for (int i = 0; END == GATE_BACK && i < STORERS * SHELF_ROWS; i++)
      barrier_init(r.clear + 8 + i * 8, 1);
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

/* One thread: loads all tiles of the block. */
template <bool A_ACROSS, bool B_ACROSS, ending END>
__device__ static inline void load_tiles(const job &j, ring r, walk w)
{
  fetch_map(&j.a);
  fetch_map(&j.b);
  for (tile t; next_tile(j, w, t);) {
    const neapi_group &g = j.tiles.group[w.group];
    int depth = A_ACROSS ? g.rows : j.k;
    for (int k = 0; k < depth; k += TILE_K) {
      barrier_wait(r.empty + r.stage * 8, r.parity ^ 1);
      load_stage<A_ACROSS, B_ACROSS, END>(j, g, t, k, shared_address(r.stages + r.stage * STAGE),
                                          r.full + r.stage * 8);
      advance<END>(r);
    }
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
template <bool A_ACROSS, bool B_ACROSS, ending END>
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
    advance<END>(r);
  }
  products_wait<0>();
  settle(d);
  free_stage(r, before);
}

/* Stores a finished tile's rows of a warp: floats. */
template <ending END>
__device__ static inline void finish_here(const job &j, const neapi_group &g, const tile &t,
                                          int warp, unsigned char *desks, const float (&d)[128])
{
  area a = area_of<END>(j, g, t);
  a.row += warp * ROWS_A_WARP;
  float *out = (float *)j.out + g.slot * j.stride;
  finish_floats<0>(j, a, out, desks, d);
  finish_floats<1>(j, a, out, desks, d);
  finish_floats<2>(j, a, out, desks, d);
  finish_floats<3>(j, a, out, desks, d);
}

/* Lays them on the warp's desks for those who store; parity: of the block's tiles. */
__device__ static inline void lay_down(const ring &r, uint32_t desks, int parity,
                                       const float (&d)[128])
{
  barrier_wait(r.clear, parity ^ 1);
  put<0>(desks, d);
  put<32>(desks + DESK, d);
  put<64>(desks + 2 * DESK, d);
  put<96>(desks + 3 * DESK, d);
  __syncwarp();
  if (threadIdx.x % WARP == 0)
    barrier_arrive(r.laid);
}

/* A warpgroup that multiplies. */
template <bool A_ACROSS, bool B_ACROSS, ending END>
__device__ static inline void compute_tiles(const job &j, ring r, walk w, int part)
{
  int warp = part * (GROUP / WARP) + threadIdx.x % GROUP / WARP;
  unsigned char *desks = r.desks + warp * plan<END>::DESKS * DESK;
  float d[128];
  for (tile t; next_tile(j, w, t);) {
    const neapi_group &g = j.tiles.group[w.group];
    multiply_tile<A_ACROSS, B_ACROSS, END>(d, r, A_ACROSS ? g.rows : j.k, part);
    if (plan<END>::APART)
      lay_down(r, shared_address(desks), (w.round - 1) % 2, d);
    else
      finish_here<END>(j, g, t, warp, desks, d);
  }
}

template <ending END> __device__ static inline shelf shelf_of(const ring &r, int warp)
{
  typedef plan<END> p;
  int at = p::SHELVES + warp * SHELF_ROWS * SHELF_ROW;
  uint32_t barriers = r.clear + 8 + warp * SHELF_ROWS * 8;
  shelf s = {r.stages + at, shared_address(r.stages + at), barriers, 0};
  return s;
}

/* One of the warps that store. */
template <ending END>
__device__ static inline void store_tiles(const job &j, const ring &r, walk w, int warp)
{
  shelf s = shelf_of<END>(r, warp);
  for (tile t; next_tile(j, w, t);) {
    area a = area_of<END>(j, j.tiles.group[w.group], t);
    if (END == GATE_BACK)
      load_first_rows(j, a, s, warp, STORERS);
    barrier_wait(r.laid, (w.round - 1) % 2);
    if (END == GATE)
      store_gated(j, a, r.desks, warp, STORERS);
    else if (END == GATE_BACK)
      store_gated_back(j, a, r.desks, s, warp, STORERS);
    else
      store_rows(j, a, r.desks, warp, STORERS);
    __syncwarp();
    if (threadIdx.x % WARP == 0)
      barrier_arrive(r.clear);
  }
}

template <bool A_ACROSS, bool B_ACROSS, ending END>
__global__ void __launch_bounds__(THREADS, 1) multiply(const __grid_constant__ job j)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw[];
  ring r = open_ring<END>(raw + (1024 - shared_address(raw) % 1024) % 1024);
  walk w = {0, 0, cluster_rank()};
  int role = threadIdx.x / GROUP;
  if (role == 0) {
    registers_less<56>();
    if (threadIdx.x == 0)
      load_tiles<A_ACROSS, B_ACROSS, END>(j, r, w);
    else if (plan<END>::APART && threadIdx.x >= WARP)
      store_tiles<END>(j, r, w, threadIdx.x / WARP - 1);
  } else {
    registers_more<224>();
    compute_tiles<A_ACROSS, B_ACROSS, END>(j, r, w, role - 1);
  }
  cluster_meet(); /* until then the other block copies into this one's memory */
#endif
}

/* ---- launching ---------------------------------------------------------------------------------
 */

typedef decltype(&cuTensorMapEncodeTiled) encoder;

static encoder encode;
static int processors[64]; /* by device; 0: not Hopper */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void ask_driver(void)
{
  void *found = NULL;
  cudaDriverEntryPointQueryResult result;
  int count = 0;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                       &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess || cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return;
  }
  encode = (encoder)found;
  for (int d = 0; d < count && d < 64; d++) {
    int major = 0, minor = 0, number = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, d);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, d);
    cudaDeviceGetAttribute(&number, cudaDevAttrMultiProcessorCount, d);
    processors[d] = major == 9 && minor == 0 ? number : 0;
  }
}

/* Multiprocessors of the calling thread's GPU; 0: it is not Hopper. */
static int blocks(void)
{
  int device = 0;
  pthread_once(&once, ask_driver);
  return cudaGetDevice(&device) == cudaSuccess && device < 64 ? processors[device] : 0;
}

/* An array (pages, rows, columns) of bf16 in boxes of box_rows x 64. */
static bool map_array(CUtensorMap *map, const void *x, int64_t columns, int64_t rows, int64_t pages,
                      int64_t page, int box_rows)
{
  cuuint64_t sizes[] = {(cuuint64_t)columns, (cuuint64_t)rows, (cuuint64_t)pages};
  cuuint64_t steps[] = {(cuuint64_t)columns * 2, (cuuint64_t)page * 2};
  cuuint32_t box[] = {TILE_K, (cuuint32_t)box_rows, 1}, each[] = {1, 1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)x, sizes, steps, box, each,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <bool A_ACROSS, bool B_ACROSS, ending END> static int launch(const job &j, void *stream)
{
  static const cudaError_t allowed =
      cudaFuncSetAttribute((const void *)multiply<A_ACROSS, B_ACROSS, END>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, plan<END>::SHARED);
  if (!j.tiles.pairs)
    return NEAPI_KERNEL_OK;
  if (allowed != cudaSuccess)
    return NEAPI_KERNEL_DEVICE;
  int most = blocks() / PAIR, pairs = j.tiles.pairs < most ? j.tiles.pairs : most;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = PAIR;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)(pairs * PAIR));
  config.blockDim = dim3(THREADS);
  config.dynamicSmemBytes = plan<END>::SHARED;
  config.stream = stream_of(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, multiply<A_ACROSS, B_ACROSS, END>, j);
  return launched();
}

/* The slots `from` on, as many as fit in a launch, with rows; returns the first that is left. */
static int64_t fill_tiles(neapi_tiles *t, int64_t from, int64_t slots, const neapi_batch *batches)
{
  t->count = 0;
  for (; from < slots; from++)
    if (batches[from].rows && !neapi_tiles_add(t, from, batches[from].first, batches[from].rows))
      break;
  return from;
}

static int32_t pieces(int64_t size, int64_t piece)
{
  return (int32_t)((size + piece - 1) / piece);
}

/* The end of the slots' rows. */
static int64_t rows_end(const neapi_slots *s)
{
  int64_t end = 0;
  for (int64_t i = 0; i < s->count; i++) {
    int64_t at = s->batches[i].first + s->batches[i].rows;
    end = at > end ? at : end;
  }
  return end;
}

/* out = rows times weights (N, K) or, with across, (K, N) of their slot. */
template <bool B_ACROSS, ending END>
static int rows_product(const neapi_slots *s, const void *rows, const bf16 *weights, int64_t n,
                        int64_t k, void *out, void *activation, void *stream)
{
  job j;
  j.out = out;
  j.activation = (bf16 *)activation;
  j.ld = n;
  j.stride = 0;
  j.m = 0;
  j.n = (int32_t)n;
  j.k = (int32_t)k;
  int64_t end = rows_end(s);
  if (!end)
    return NEAPI_KERNEL_OK;
  if (end > INT32_MAX || !map_array(&j.a, rows, k, end, 1, end * k, 64) ||
      !map_array(&j.b, weights, B_ACROSS ? n : k, B_ACROSS ? k : n, s->count, s->stride,
                 B_ACROSS ? TILE_K : TILE_N / PAIR))
    return NEAPI_KERNEL_DEVICE;
  int status = NEAPI_KERNEL_OK;
  for (int64_t from = 0; !status && from < s->count;) {
    from = fill_tiles(&j.tiles, from, s->count, s->batches);
    neapi_tiles_number(&j.tiles, 0, END == GATE ? pieces(n / 2, TILE_N / 2) : pieces(n, TILE_N));
    status = launch<false, B_ACROSS, END>(j, stream);
  }
  return status;
}

/* out of each slot (M, N) float = left^T right over its rows. */
static int weights_product(const neapi_slots *s, const void *left, int64_t m, const void *right,
                           int64_t n, void *out, void *stream)
{
  job j;
  j.out = out;
  j.activation = NULL;
  j.ld = n;
  j.stride = s->stride;
  j.m = (int32_t)m;
  j.n = (int32_t)n;
  j.k = 0;
  int64_t end = rows_end(s);
  if (!end)
    return NEAPI_KERNEL_OK;
  if (end > INT32_MAX || !map_array(&j.a, left, m, end, 1, end * m, TILE_K) ||
      !map_array(&j.b, right, n, end, 1, end * n, TILE_K))
    return NEAPI_KERNEL_DEVICE;
  int status = NEAPI_KERNEL_OK;
  for (int64_t from = 0; !status && from < s->count;) {
    from = fill_tiles(&j.tiles, from, s->count, s->batches);
    neapi_tiles_number(&j.tiles, (int32_t)m, pieces(n, TILE_N));
    status = launch<true, true, FLOAT>(j, stream);
  }
  return status;
}

/* ---- the operations ----------------------------------------------------------------------------
 */

bool neapi_hopper_fits(const neapi_slots *s)
{
  return s->f > 0 && s->h % SIZE == 0 && s->f % SIZE == 0 && s->stride % SIZE == 0 && blocks() > 0;
}

int neapi_hopper_forward(const neapi_slots *s, const void *weights, const void *in, void *gate_up,
                         void *activation, void *out, void *stream)
{
  const bf16 *w1 = (const bf16 *)weights, *w2 = w1 + 2 * s->h * s->f;
  int status = rows_product<true, GATE>(s, in, w1, 2 * s->f, s->h, gate_up, activation, stream);
  return status || !out
             ? status
             : rows_product<true, STORE>(s, activation, w2, s->h, s->f, out, NULL, stream);
}

int neapi_hopper_backward(const neapi_slots *s, const void *weights, const void *dout,
                          void *gate_up, void *activation, void *din, void *stream)
{
  const bf16 *w1 = (const bf16 *)weights, *w2 = w1 + 2 * s->h * s->f;
  int status = rows_product<false, GATE_BACK>(s, dout, w2, s->f, s->h, gate_up, activation, stream);
  return status ? status
                : rows_product<false, STORE>(s, gate_up, w1, s->h, 2 * s->f, din, NULL, stream);
}

int neapi_hopper_gradients(const neapi_slots *s, const void *in, const void *dgate_up,
                           const void *activation, const void *dout, void *gradients, void *stream)
{
  float *dw1 = (float *)gradients, *dw2 = dw1 + 2 * s->h * s->f;
  int status = weights_product(s, in, s->h, dgate_up, 2 * s->f, dw1, stream);
  return status ? status : weights_product(s, activation, s->f, dout, s->h, dw2, stream);
}
