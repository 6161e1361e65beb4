/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' kernel: what becomes of a finished tile. */
#ifndef NEAPI_HOPPER_FINISHING_CUH
#define NEAPI_HOPPER_FINISHING_CUH

#include "plan.cuh"

/* ---- by the warps that multiply -------------------------------------------------------------- */

/* 64 columns of the warp's rows, d[FROM] on, rounded, to a staging buffer: row r keeps its 16-byte
 * piece p at position p ^ (r % 8). */
template <int FROM> __device__ static inline void put(uint32_t buffer, const float (&d)[128])
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
    store_matrices(buffer + row * LINE + (((j + side) ^ (row % 8)) * 16), v[0], v[1], v[2], v[3]);
  }
}

/* Puts a tile into the warp's staging buffers for the store warps; parity: of the block's tiles. */
__device__ static inline void stage_tile(const ring &r, uint32_t staging, int parity,
                                         const float (&d)[128])
{
  barrier_wait(r.stored, parity ^ 1);
  put<0>(staging, d);
  put<32>(staging + BUFFER_BYTES, d);
  put<64>(staging + 2 * BUFFER_BYTES, d);
  put<96>(staging + 3 * BUFFER_BYTES, d);
  __syncwarp();
  if (threadIdx.x % WARP == 0)
    barrier_arrive(r.staged);
}

/* 32 columns of the warp's rows, d[FROM] on, to a staging buffer, in the order of put. At a time,
 * odd rows write 16 columns further than even ones do: else they would meet in the same banks. */
template <int FROM>
__device__ static inline void put_floats(unsigned char *buffer, const float (&d)[128])
{
  int lane = threadIdx.x % WARP, row = lane / 4;
  bool odd = row % 2;
  int position = (lane % 4 / 2) ^ row ^ (odd ? 4 : 0);
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const int even_at = FROM + j * 4 + i * 2, odd_at = FROM + (j ^ 2) * 4 + i * 2;
      float2 v = make_float2(odd ? d[odd_at] : d[even_at], odd ? d[odd_at + 1] : d[even_at + 1]);
      *(float2 *)(buffer + (i * 8 + row) * LINE + ((position ^ (j * 2)) * 16) + lane % 2 * 8) = v;
    }
}

/* Has the copy engine store a warp's 32 columns, the PIECE-th of 8; what lies outside M and N is
 * left out. */
template <epilogue EPILOGUE, int PIECE>
__device__ static inline void store_piece(const job &j, const neapi_tile_group &g, const tile &t,
                                          int warp, unsigned char *staging, const float (&d)[128])
{
  const int BUFFERS = plan<EPILOGUE>::BUFFERS;
  unsigned char *buffer = staging + PIECE % BUFFERS * BUFFER_BYTES;
  int column = t.n * TILE_N + PIECE * 32, row = t.m * TILE_M + warp * ROWS_PER_WARP;
  if (threadIdx.x % WARP == 0)
    stores_wait<BUFFERS - 1>();
  __syncwarp();
  put_floats<PIECE * 16>(buffer, d);
  fence_shared();
  __syncwarp();
  if (threadIdx.x % WARP == 0) {
    if (row < j.m && column < j.n)
      store_box(&j.c, shared_address(buffer), column, row, g.slot);
    stores_commit();
  }
}

/* Stores a warp's rows of a finished tile: floats. */
template <epilogue EPILOGUE>
__device__ static inline void store_floats(const job &j, const neapi_tile_group &g, const tile &t,
                                           int warp, unsigned char *staging, const float (&d)[128])
{
  store_piece<EPILOGUE, 0>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 1>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 2>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 3>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 4>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 5>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 6>(j, g, t, warp, staging, d);
  store_piece<EPILOGUE, 7>(j, g, t, warp, staging, d);
}

/* ---- by the store warps ---------------------------------------------------------------------- */

/* Where a tile lies in out. */
typedef struct {
  int64_t row;
  int64_t in_row;          /* the same of arrays (rows, H) */
  int32_t rows;            /* that are the group's, 128 at most */
  int32_t column, columns; /* first, and the end of all */
} area;

template <epilogue EPILOGUE>
__device__ static inline area area_of(const job &j, const neapi_tile_group &g, const tile &t)
{
  area a;
  int32_t row = t.m * TILE_M, rows = g.rows - row;
  a.in_row = (int64_t)g.first + row;
  a.row = EPILOGUE == STORE ? a.in_row : (int64_t)g.hidden + row;
  a.rows = rows < TILE_M ? rows : (int32_t)TILE_M;
  a.column = t.n * (EPILOGUE == GATE ? TILE_N / 2 : TILE_N);
  a.columns = EPILOGUE == GATE ? j.n / 2 : j.n;
  return a;
}

/* A piece, of 32, of a row of the tile as it lies in the staging buffers. */
__device__ static inline pack<bf16> take(const unsigned char *staging, int row, int piece)
{
  const unsigned char *buffer =
      staging + row / ROWS_PER_WARP * 4 * BUFFER_BYTES + piece / 8 * BUFFER_BYTES;
  int in_buffer = row % ROWS_PER_WARP;
  return *(const pack<bf16> *)(buffer + in_buffer * LINE + (((piece % 8) ^ (in_buffer % 8)) * 16));
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

/* One of `of` warps stores its share of a tile's rows, a piece per lane. */
__device__ static inline void store_rows(const job &j, const area &a, const unsigned char *staging,
                                         int warp, int of)
{
  int lane = threadIdx.x % WARP, column = a.column + lane * SIZE;
  bf16 *out = j.out + a.row * j.ld + column;
  if (column < a.columns)
#pragma unroll 4
    for (int row = warp; row < a.rows; row += of)
      write(out + row * j.ld, take(staging, row, lane));
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

/* Turns gate and up into their gradients; returns activation. dot: of grad and activation, both as
 * rounded. */
__device__ static inline pack<bf16> gated_back(pack<bf16> &gate, pack<bf16> &up,
                                               const pack<bf16> &grad, float &dot)
{
  pack<bf16> h;
  float open[SIZE];
  logistics(open, gate);
#pragma unroll
  for (int i = 0; i < SIZE; i++) {
    float u = to_float(up.at[i]), s = to_float(grad.at[i]);
    float silu = to_float(gate.at[i]) * open[i];
    h.at[i] = real_of<bf16>(silu * u);
    dot += s * to_float(h.at[i]);
    gate.at[i] = real_of<bf16>(s * u * (open[i] + silu * (1.0f - open[i])));
    up.at[i] = real_of<bf16>(s * silu);
  }
  return h;
}

/* Gates are the left half of a tile: half a warp per row. */
__device__ static inline void store_gated(const job &j, const area &a, const unsigned char *staging,
                                          int warp, int of)
{
  int piece = threadIdx.x % WARP % 16, column = a.column + piece * SIZE;
  if (column < a.columns)
#pragma unroll 2
    for (int row = warp * 2 + threadIdx.x % WARP / 16; row < a.rows; row += of * 2) {
      pack<bf16> gate = take(staging, row, piece), up = take(staging, row, 16 + piece);
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

/* Rows whose gates and ups are under way to a store warp. */
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

/* The sum over the lanes below `lanes`, which alone take part; lane 0 gets it. */
__device__ static inline float sum_below(float x, int lanes)
{
  unsigned mask = 0xffffffffu >> (WARP - lanes);
#pragma unroll
  for (int step = WARP / 2; step; step /= 2) {
    float other = __shfl_down_sync(mask, x, step);
    x += (int)threadIdx.x % WARP + step < lanes ? other : 0.0f;
  }
  return x;
}

/* The tile holds gradients of activation: a row's results, of 8 columns from `column` on. */
__device__ static inline void write_gated_back(const job &j, const area &a, int64_t row, int column,
                                               const gate_up &x, const pack<bf16> &grad, int lanes)
{
  float dot = 0;
  pack<bf16> gate = pack_of(x.gate), up = pack_of(x.up), h = gated_back(gate, up, grad, dot);
  bf16 *both = j.out + (a.row + row) * 2 * a.columns + column;
  write(both, gate);
  write(both + a.columns, up);
  write(j.activation + (a.row + row) * a.columns + column, h);
  dot = sum_below(dot, lanes);
  if (threadIdx.x % WARP == 0)
    j.dots[(a.in_row + row) * j.tiles.columns + a.column / TILE_N] = dot;
}

/* x: the first rows' gates and ups. Its registers are read into again when a row is written: were
 * it before, or if a condition decided on it, they would be copied, which waits for what is under
 * way. */
__device__ static inline void store_gated_back(const job &j, const area &a,
                                               const unsigned char *staging, gate_up (&x)[AHEAD],
                                               int warp, int of)
{
  int lane = threadIdx.x % WARP, column = a.column + lane * SIZE, row = warp;
  const bf16 *first = j.out + a.row * 2 * a.columns + column;
  int lanes = (a.columns - a.column + SIZE - 1) / SIZE;
  if (column >= a.columns)
    return;
  lanes = lanes < WARP ? lanes : (int)WARP;
  while (row + (AHEAD - 1) * of < a.rows)
#pragma unroll
    for (int i = 0; i < AHEAD; i++, row += of) {
      write_gated_back(j, a, row, column, x[i], take(staging, row, lane), lanes);
      x[i] = read_row(first, a, row + AHEAD * of);
    }
#pragma unroll
  for (int i = 0; i < AHEAD - 1; i++, row += of)
    if (row < a.rows)
      write_gated_back(j, a, row, column, x[i], take(staging, row, lane), lanes);
}

/* One of the store warps, for all tiles of the block. */
template <epilogue EPILOGUE>
__device__ static inline void store_tiles(const job &j, const ring &r, tile_iterator it, int warp)
{
  const int OF = STORE_WARPS;
  gate_up x[AHEAD];
  for (tile t; next_tile(j, it, t);) {
    area a = area_of<EPILOGUE>(j, j.tiles.group[it.group], t);
    if (EPILOGUE == GATE_BACK)
      read_first_rows(j, a, x, warp, OF);
    barrier_wait(r.staged, (it.round - 1) % 2);
    if (EPILOGUE == GATE)
      store_gated(j, a, r.staging, warp, OF);
    else if (EPILOGUE == GATE_BACK)
      store_gated_back(j, a, r.staging, x, warp, OF);
    else
      store_rows(j, a, r.staging, warp, OF);
    __syncwarp();
    if (threadIdx.x % WARP == 0)
      barrier_arrive(r.stored);
  }
}

#endif
