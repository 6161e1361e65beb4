/*
 * The experts' products on Hopper: one launch a product for all slots.
 *
 * A block stays on its multiprocessor and computes tiles of 128 x 256, one after the other
 * (tiles.h). One thread of its first warpgroup has the copy engine load factors, 64 elements of K
 * at a time, into a ring of STAGES; two more warpgroups multiply, 64 rows each, and finish their
 * part of the tile: they round it to bf16, and where it is the product for an activation or its
 * gradient they compute that from the rounded values, as separate passes would. Blocks may work in
 * pairs on tiles one above the other: each loads half of the right factor, for both.
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
    APART = END == STORE || END == GATE,
    STAGES = APART ? 3 : 4,
    DESKS = APART ? 4 : 2, /* of a warp */
    BARRIERS = STAGES * STAGE + WARPS * DESKS * DESK,
    SHARED = 1024 + BARRIERS + (2 * STAGES + 2) * 8
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

/* Starts to load a box of the right factor: i of 64 columns, or all where lines lie along K. */
template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
__device__ static inline void load_right(const job &j, const neapi_group &g, neapi_tile t, int k,
                                         uint32_t to, uint32_t full, int i)
{
  const uint16_t BOTH = 3;
  int x = t.n * TILE_N + i * 64, y = A_ACROSS ? g.first + k : k, z = A_ACROSS ? 0 : g.slot;
  if (!B_ACROSS) {
    y = x;
    x = k;
  } else if (END == GATE)
    x = i / 2 * (j.n / 2) + t.n * (TILE_N / 2) + i % 2 * 64;
  if (PAIR == 1)
    copy_box(to + i * PART, &j.b, full, x, y, z);
  else
    copy_box_to_all(to + i * PART, &j.b, full, x, y, z, BOTH);
}

/* Starts to load both factors of a tile for 64 elements of K. */
template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
__device__ static inline void load_stage(const job &j, const neapi_group &g, neapi_tile t, int k,
                                         int rank, uint32_t to, uint32_t full)
{
  const int PARTS = TILE_N / 64, MINE = PARTS / PAIR, STEP = B_ACROSS ? 1 : MINE;
  barrier_expect(full, STAGE);
  if (A_ACROSS) {
    for (int i = 0; i < TILE_M / 64; i++)
      copy_box(to + i * PART, &j.a, full, t.m * TILE_M + i * 64, g.first + k, 0);
  } else
    copy_box(to, &j.a, full, k, g.first + t.m * TILE_M, 0);
  for (int i = 0; i < MINE; i += STEP)
    load_right<A_ACROSS, B_ACROSS, END, PAIR>(j, g, t, k, to + BYTES_A, full, rank * MINE + i);
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
__device__ static inline area area_of(const job &j, const neapi_group &g, neapi_tile t)
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

/* A half of the columns of a warp's rows, gradients of activation, which lie on its two desks. */
__device__ static inline void store_gated_back(const job &j, const area &a,
                                               const unsigned char *desks, int from)
{
  int lane = threadIdx.x % WARP;
#pragma unroll 4
  for (int i = 0; i < 8; i++) {
    int row = i * 2 + lane / 16, piece = lane % 16, column = a.column + from + piece * SIZE;
    pack<bf16> slope = take(desks, row, piece);
    if (a.row + row < a.row_end && column < a.columns) {
      bf16 *both = (bf16 *)j.out + (a.row + row) * 2 * a.columns + column;
      pack<bf16> gate = *(pack<bf16> *)both, up = *(pack<bf16> *)(both + a.columns);
      pack<bf16> h = gated_back(gate, up, slope);
      *(pack<bf16> *)both = gate;
      *(pack<bf16> *)(both + a.columns) = up;
      *(pack<bf16> *)(j.activation + (a.row + row) * a.columns + column) = h;
    }
  }
}

template <int HALF>
__device__ static inline void finish_gated_back(const job &j, const area &a, unsigned char *desks,
                                                const float (&d)[128])
{
  put<HALF * 64>(shared_address(desks), d);
  put<HALF * 64 + 32>(shared_address(desks) + DESK, d);
  __syncwarp();
  store_gated_back(j, a, desks, HALF * 128);
  __syncwarp();
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

/* Sets up the ring; every thread of the block, and of its pair. */
template <ending END, int PAIR> __device__ static inline ring open_ring(unsigned char *stages)
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
  __syncthreads();
  if (PAIR > 1)
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

/* The number of the tile of a round. */
template <int PAIR> __device__ static inline int32_t number_of(int32_t round)
{
  return neapi_tiles_number_of(round, blockIdx.x / PAIR, gridDim.x / PAIR);
}

/* The block's next tile. */
template <int PAIR>
__device__ static inline neapi_tile next_tile(const job &j, int32_t number, int32_t *group,
                                              int rank)
{
  neapi_tile t = neapi_tiles_find(&j.tiles, number, group);
  t.m = t.m * PAIR + rank;
  return t;
}

/* One thread: loads all tiles of the block. */
template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
__device__ static inline void load_tiles(const job &j, ring r, int rank)
{
  int32_t group = 0;
  fetch_map(&j.a);
  fetch_map(&j.b);
  for (int32_t round = 0, number; (number = number_of<PAIR>(round)) < j.tiles.tiles; round++) {
    neapi_tile t = next_tile<PAIR>(j, number, &group, rank);
    const neapi_group &g = j.tiles.group[group];
    int depth = A_ACROSS ? g.rows : j.k;
    for (int k = 0; k < depth; k += TILE_K) {
      barrier_wait(r.empty + r.stage * 8, r.parity ^ 1);
      load_stage<A_ACROSS, B_ACROSS, END, PAIR>(
          j, g, t, k, rank, shared_address(r.stages + r.stage * STAGE), r.full + r.stage * 8);
      advance<END>(r);
    }
  }
}

/* Tells who loads that this warp has read a stage. */
template <int PAIR> __device__ static inline void free_stage(const ring &r, int stage)
{
  if (threadIdx.x % WARP != 0)
    return;
  if (PAIR == 1)
    barrier_arrive(r.empty + stage * 8);
  else
    for (int rank = 0; rank < PAIR; rank++)
      barrier_arrive_at(r.empty + stage * 8, rank);
}

/* d = a tile's half of a warpgroup. */
template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
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
      free_stage<PAIR>(r, before);
    before = r.stage;
    advance<END>(r);
  }
  products_wait<0>();
  settle(d);
  free_stage<PAIR>(r, before);
}

/* Stores a finished tile's rows of a warp. */
template <ending END>
__device__ static inline void finish_here(const job &j, const neapi_group &g, neapi_tile t,
                                          int warp, unsigned char *desks, const float (&d)[128])
{
  area a = area_of<END>(j, g, t);
  a.row += warp * ROWS_A_WARP;
  if (END == FLOAT) {
    float *out = (float *)j.out + g.slot * j.stride;
    finish_floats<0>(j, a, out, desks, d);
    finish_floats<1>(j, a, out, desks, d);
    finish_floats<2>(j, a, out, desks, d);
    finish_floats<3>(j, a, out, desks, d);
  } else {
    finish_gated_back<0>(j, a, desks, d);
    finish_gated_back<1>(j, a, desks, d);
  }
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
template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
__device__ static inline void compute_tiles(const job &j, ring r, int rank, int part)
{
  int warp = part * (GROUP / WARP) + threadIdx.x % GROUP / WARP;
  int32_t group = 0;
  float d[128];
  for (int32_t round = 0, number; (number = number_of<PAIR>(round)) < j.tiles.tiles; round++) {
    neapi_tile t = next_tile<PAIR>(j, number, &group, rank);
    const neapi_group &g = j.tiles.group[group];
    multiply_tile<A_ACROSS, B_ACROSS, END, PAIR>(d, r, A_ACROSS ? g.rows : j.k, part);
    unsigned char *desks = r.desks + warp * plan<END>::DESKS * DESK;
    if (plan<END>::APART)
      lay_down(r, shared_address(desks), round % 2, d);
    else
      finish_here<END>(j, g, t, warp, desks, d);
  }
}

/* One of the warps that store. */
template <ending END, int PAIR>
__device__ static inline void store_tiles(const job &j, const ring &r, int rank, int warp)
{
  int32_t group = 0;
  for (int32_t round = 0, number; (number = number_of<PAIR>(round)) < j.tiles.tiles; round++) {
    neapi_tile t = next_tile<PAIR>(j, number, &group, rank);
    area a = area_of<END>(j, j.tiles.group[group], t);
    barrier_wait(r.laid, round % 2);
    if (END == GATE)
      store_gated(j, a, r.desks, warp, STORERS);
    else
      store_rows(j, a, r.desks, warp, STORERS);
    __syncwarp();
    if (threadIdx.x % WARP == 0)
      barrier_arrive(r.clear);
  }
}

template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
__global__ void __launch_bounds__(THREADS, 1) multiply(const __grid_constant__ job j)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char raw[];
  ring r = open_ring<END, PAIR>(raw + (1024 - shared_address(raw) % 1024) % 1024);
  int rank = PAIR > 1 ? cluster_rank() : 0, role = threadIdx.x / GROUP;
  if (role == 0) {
    registers_less<56>();
    if (threadIdx.x == 0)
      load_tiles<A_ACROSS, B_ACROSS, END, PAIR>(j, r, rank);
    else if (plan<END>::APART && threadIdx.x >= WARP)
      store_tiles<END, PAIR>(j, r, rank, threadIdx.x / WARP - 1);
  } else {
    registers_more<224>();
    compute_tiles<A_ACROSS, B_ACROSS, END, PAIR>(j, r, rank, role - 1);
  }
  if (PAIR > 1) /* the other block copies into this one's memory */
    cluster_meet();
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

template <bool A_ACROSS, bool B_ACROSS, ending END, int PAIR>
static int launch(const job &j, void *stream)
{
  static const cudaError_t allowed =
      cudaFuncSetAttribute((const void *)multiply<A_ACROSS, B_ACROSS, END, PAIR>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, plan<END>::SHARED);
  if (!j.tiles.tiles)
    return NEAPI_KERNEL_OK;
  if (allowed != cudaSuccess)
    return NEAPI_KERNEL_DEVICE;
  int most = blocks() / PAIR, pairs = j.tiles.tiles < most ? j.tiles.tiles : most;
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
  cudaLaunchKernelEx(&config, multiply<A_ACROSS, B_ACROSS, END, PAIR>, j);
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
template <bool B_ACROSS, ending END, int PAIR>
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
  if (end > INT32_MAX || !map_array(&j.a, rows, k, end, 1, end * k, TILE_M) ||
      !map_array(&j.b, weights, B_ACROSS ? n : k, B_ACROSS ? k : n, s->count, s->stride,
                 B_ACROSS ? TILE_K : TILE_N / PAIR))
    return NEAPI_KERNEL_DEVICE;
  int status = NEAPI_KERNEL_OK;
  for (int64_t from = 0; !status && from < s->count;) {
    from = fill_tiles(&j.tiles, from, s->count, s->batches);
    neapi_tiles_number(&j.tiles, TILE_M * PAIR, 0,
                       END == GATE ? pieces(n / 2, TILE_N / 2) : pieces(n, TILE_N));
    status = launch<false, B_ACROSS, END, PAIR>(j, stream);
  }
  return status;
}

/* out of each slot (M, N) float = left^T right over its rows. */
template <int PAIR>
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
    neapi_tiles_number(&j.tiles, TILE_M * PAIR, (int32_t)m, pieces(n, TILE_N));
    status = launch<true, true, FLOAT, PAIR>(j, stream);
  }
  return status;
}

/* ---- pairs or single blocks ------------------------------------------------------------------
 * The bits are the same; pairs read less, but their tiles of 256 rows may leave more rows idle. */

/* Whether pairs compute at most so many per cent of the rows that single blocks do. */
static bool pairs_pay(int64_t lines, int64_t pair_lines, int most)
{
  return 2 * pair_lines * 100 <= lines * most;
}

template <bool B_ACROSS, ending END>
static int rows_product(const neapi_slots *s, const void *rows, const bf16 *weights, int64_t n,
                        int64_t k, void *out, void *activation, void *stream)
{
  const int MOST = 115;
  int64_t lines = 0, pair_lines = 0;
  for (int64_t i = 0; i < s->count; i++) {
    lines += pieces(s->batches[i].rows, TILE_M);
    pair_lines += pieces(s->batches[i].rows, 2 * TILE_M);
  }
  return pairs_pay(lines, pair_lines, MOST)
             ? rows_product<B_ACROSS, END, 2>(s, rows, weights, n, k, out, activation, stream)
             : rows_product<B_ACROSS, END, 1>(s, rows, weights, n, k, out, activation, stream);
}

static int weights_product(const neapi_slots *s, const void *left, int64_t m, const void *right,
                           int64_t n, void *out, void *stream)
{
  const int MOST = 105;
  return pairs_pay(pieces(m, TILE_M), pieces(m, 2 * TILE_M), MOST)
             ? weights_product<2>(s, left, m, right, n, out, stream)
             : weights_product<1>(s, left, m, right, n, out, stream);
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
