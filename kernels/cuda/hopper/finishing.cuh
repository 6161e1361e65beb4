/* The experts' kernel: what becomes of a finished tile. */
#ifndef NEAPI_HOPPER_FINISHING_CUH
#define NEAPI_HOPPER_FINISHING_CUH

#include "plan.cuh"

/* ---- by the warps that multiply ----------------------------------------------------------------
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
    store_matrices(desk + row * LINE + (((j + side) ^ (row % 8)) * 16), v[0], v[1], v[2], v[3]);
  }
}

/* Lays a tile on the warp's desks for those who store; parity: of the block's tiles. */
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

/* 32 columns of the warp's rows, d[FROM] on, to a desk, in the order of put. At a time, odd rows
 * write 16 columns further than even ones do: else they would meet in the same banks. */
template <int FROM>
__device__ static inline void put_floats(unsigned char *desk, const float (&d)[128])
{
  int lane = threadIdx.x % WARP, row = lane / 4;
  bool odd = row % 2;
  int place = (lane % 4 / 2) ^ row ^ (odd ? 4 : 0);
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int even_at = FROM + j * 4 + i * 2, odd_at = FROM + (j ^ 2) * 4 + i * 2;
      float2 v = make_float2(odd ? d[odd_at] : d[even_at], odd ? d[odd_at + 1] : d[even_at + 1]);
      *(float2 *)(desk + (i * 8 + row) * LINE + ((place ^ (j * 2)) * 16) + lane % 2 * 8) = v;
    }
}

/* Has the copy engine store a warp's 32 columns, the PIECE-th of 8; what lies outside M and N is
 * left out. */
template <ending END, int PIECE>
__device__ static inline void store_piece(const job &j, const neapi_group &g, const tile &t,
                                          int warp, unsigned char *desks, const float (&d)[128])
{
  const int DESKS = plan<END>::DESKS;
  unsigned char *desk = desks + PIECE % DESKS * DESK;
  int column = t.n * TILE_N + PIECE * 32, row = t.m * TILE_M + warp * ROWS_A_WARP;
  if (threadIdx.x % WARP == 0)
    stores_wait<DESKS - 1>();
  __syncwarp();
  put_floats<PIECE * 16>(desk, d);
  fence_shared();
  __syncwarp();
  if (threadIdx.x % WARP == 0) {
    if (row < j.m && column < j.n)
      store_box(&j.c, shared_address(desk), column, row, g.slot);
    stores_commit();
  }
}

/* Stores a warp's rows of a finished tile: floats. */
template <ending END>
__device__ static inline void store_floats(const job &j, const neapi_group &g, const tile &t,
                                           int warp, unsigned char *desks, const float (&d)[128])
{
  store_piece<END, 0>(j, g, t, warp, desks, d);
  store_piece<END, 1>(j, g, t, warp, desks, d);
  store_piece<END, 2>(j, g, t, warp, desks, d);
  store_piece<END, 3>(j, g, t, warp, desks, d);
  store_piece<END, 4>(j, g, t, warp, desks, d);
  store_piece<END, 5>(j, g, t, warp, desks, d);
  store_piece<END, 6>(j, g, t, warp, desks, d);
  store_piece<END, 7>(j, g, t, warp, desks, d);
}

/* ---- by other warps ----------------------------------------------------------------------------
 */

/* A tile's place in out. */
typedef struct {
  int64_t row;
  int32_t rows;            /* that are the group's, 128 at most */
  int32_t column, columns; /* first, and the end of all */
} area;

template <ending END>
__device__ static inline area area_of(const job &j, const neapi_group &g, const tile &t)
{
  area a;
  int32_t row = t.m * TILE_M, rows = g.rows - row;
  a.row = (int64_t)g.first + row;
  a.rows = rows < TILE_M ? rows : (int32_t)TILE_M;
  a.column = t.n * (END == GATE ? TILE_N / 2 : TILE_N);
  a.columns = END == GATE ? j.n / 2 : j.n;
  return a;
}

/* A piece, of 32, of a row of the tile as it lies on the desks. */
__device__ static inline pack<bf16> take(const unsigned char *desks, int row, int piece)
{
  const unsigned char *desk = desks + row / ROWS_A_WARP * 4 * DESK + piece / 8 * DESK;
  int in_desk = row % ROWS_A_WARP;
  return *(const pack<bf16> *)(desk + in_desk * LINE + (((piece % 8) ^ (in_desk % 8)) * 16));
}

__device__ static inline void write(bf16 *to, const pack<bf16> &from)
{
  write_16(to, *(const uint4 *)&from);
}

__device__ static inline pack<bf16> pack_of(const uint4 &v)
{
  pack<bf16> p;
  *(uint4 *)&p = v;
  return p;
}

/* One of `of` warps stores its share of a tile's rows, a piece a lane. */
__device__ static inline void store_rows(const job &j, const area &a, const unsigned char *desks,
                                         int warp, int of)
{
  int lane = threadIdx.x % WARP, column = a.column + lane * SIZE;
  bf16 *out = j.out + a.row * j.ld + column;
  if (column < a.columns)
#pragma unroll 4
    for (int row = warp; row < a.rows; row += of)
      write(out + row * j.ld, take(desks, row, lane));
}

/* 1 / (1 + e^-x), of all side by side: one after the other waits twice for each. */
__device__ static inline void logistics(float (&open)[SIZE], const pack<bf16> &gate)
{
  const float LOG2_E = 1.442695041f;
#pragma unroll
  for (int i = 0; i < SIZE; i++)
    open[i] = power_of_2(-LOG2_E * to_float(gate.at[i]));
#pragma unroll
  for (int i = 0; i < SIZE; i++)
    open[i] = reciprocal(1.0f + open[i]);
}

/* activation of 8 gates and ups. */
__device__ static inline pack<bf16> gated(const pack<bf16> &gate, const pack<bf16> &up)
{
  pack<bf16> h;
  float open[SIZE];
  logistics(open, gate);
#pragma unroll
  for (int i = 0; i < SIZE; i++)
    h.at[i] = real_of<bf16>(to_float(gate.at[i]) * open[i] * to_float(up.at[i]));
  return h;
}

/* Turns gate and up into their gradients; returns activation. */
__device__ static inline pack<bf16> gated_back(pack<bf16> &gate, pack<bf16> &up,
                                               const pack<bf16> &slope)
{
  pack<bf16> h;
  float open[SIZE];
  logistics(open, gate);
#pragma unroll
  for (int i = 0; i < SIZE; i++) {
    float u = to_float(up.at[i]), s = to_float(slope.at[i]);
    float silu = to_float(gate.at[i]) * open[i];
    h.at[i] = real_of<bf16>(silu * u);
    gate.at[i] = real_of<bf16>(s * u * (open[i] + silu * (1.0f - open[i])));
    up.at[i] = real_of<bf16>(s * silu);
  }
  return h;
}

/* Gates are the left half of a tile: half a warp a row. */
__device__ static inline void store_gated(const job &j, const area &a, const unsigned char *desks,
                                          int warp, int of)
{
  int piece = threadIdx.x % WARP % 16, column = a.column + piece * SIZE;
  if (column < a.columns)
#pragma unroll 2
    for (int row = warp * 2 + threadIdx.x % WARP / 16; row < a.rows; row += of * 2) {
      pack<bf16> gate = take(desks, row, piece), up = take(desks, row, 16 + piece);
      pack<bf16> h = gated(gate, up);
      bf16 *both = j.out + (a.row + row) * 2 * a.columns + column;
      write(both, gate);
      write(both + a.columns, up);
      write(j.activation + (a.row + row) * a.columns + column, h);
    }
}

/* A lane's part of a row's gates and ups, as read: in registers of which nothing is asked until
 * they are used. */
typedef struct {
  uint4 gate, up;
} gate_up;

/* Rows whose gates and ups are under way to a warp that stores. */
enum { AHEAD = 5 };

/* Starts to read those of a row; past the end the last one's. */
__device__ static inline gate_up read_row(const bf16 *first, const area &a, int row)
{
  int last = a.rows - 1;
  const bf16 *gate = first + (row < last ? row : last) * (2 * (int64_t)a.columns);
  gate_up x = {read_16(gate), read_16(gate + a.columns)};
  return x;
}

__device__ static inline void read_first_rows(const job &j, const area &a, gate_up (&x)[AHEAD],
                                              int warp, int of)
{
  int column = a.column + threadIdx.x % WARP * SIZE;
  const bf16 *first = j.out + a.row * 2 * a.columns + column;
  if (column < a.columns)
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
      x[i] = read_row(first, a, warp + i * of);
}

/* The tile holds gradients of activation: a row's results, of 8 columns from `column` on. */
__device__ static inline void write_gated_back(const job &j, const area &a, int64_t row, int column,
                                               const gate_up &x, const pack<bf16> &slope)
{
  pack<bf16> gate = pack_of(x.gate), up = pack_of(x.up), h = gated_back(gate, up, slope);
  bf16 *both = j.out + (a.row + row) * 2 * a.columns + column;
  write(both, gate);
  write(both + a.columns, up);
  write(j.activation + (a.row + row) * a.columns + column, h);
}

/* x: the first rows' gates and ups. Its registers are read into again when a row is written: were
 * it before, or if a condition decided on it, they would be copied, which waits for what is under
 * way. */
__device__ static inline void store_gated_back(const job &j, const area &a,
                                               const unsigned char *desks, gate_up (&x)[AHEAD],
                                               int warp, int of)
{
  int lane = threadIdx.x % WARP, column = a.column + lane * SIZE, row = warp;
  const bf16 *first = j.out + a.row * 2 * a.columns + column;
  if (column >= a.columns)
    return;
  while (row + (AHEAD - 1) * of < a.rows)
#pragma unroll
    for (int i = 0; i < AHEAD; i++, row += of) {
      write_gated_back(j, a, row, column, x[i], take(desks, row, lane));
      x[i] = read_row(first, a, row + AHEAD * of);
    }
#pragma unroll
  for (int i = 0; i < AHEAD - 1; i++, row += of)
    if (row < a.rows)
      write_gated_back(j, a, row, column, x[i], take(desks, row, lane));
}

/* One of the warps that store, for all tiles of the block. */
template <ending END>
__device__ static inline void store_tiles(const job &j, const ring &r, walk w, int warp)
{
  const int OF = STORERS;
  gate_up x[AHEAD];
  for (tile t; next_tile(j, w, t);) {
    area a = area_of<END>(j, j.tiles.group[w.group], t);
    if (END == GATE_BACK)
      read_first_rows(j, a, x, warp, OF);
    barrier_wait(r.laid, (w.round - 1) % 2);
    if (END == GATE)
      store_gated(j, a, r.desks, warp, OF);
    else if (END == GATE_BACK)
      store_gated_back(j, a, r.desks, x, warp, OF);
    else
      store_rows(j, a, r.desks, warp, OF);
    __syncwarp();
    if (threadIdx.x % WARP == 0)
      barrier_arrive(r.clear);
  }
}

#endif
