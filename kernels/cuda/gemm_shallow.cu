/* SPDX-License-Identifier: Apache-2.0 */
/* Shallow products: c (M, N) = a (M, K) op(b), K narrow (see gemm_narrow.cuh). */
#include "gemm_narrow.cuh"

enum { SHALLOW_ROWS = WARPS * FRAGMENT, SPAN = 64, LD_SPAN = SPAN + PAD };

/* What a block holds; DEPTH: K up to a multiple of 16. b is kept by columns. */
template <int DEPTH, int COLUMNS> struct alignas(32) shallow_memory {
  bf16 a[SHALLOW_ROWS * (DEPTH + PAD)], b[COLUMNS * (DEPTH + PAD)];
  float patch[WARPS][FRAGMENT * LD_SPAN];
};

/* patch = a warp's 16 rows of a times SPAN columns of b. */
template <int DEPTH>
__device__ static inline void multiply_span(const bf16 *a, const bf16 *b, float *patch)
{
  enum { LD = DEPTH + PAD };
  int lane = threadIdx.x % WARP, in_eight = lane % EIGHT, odd = lane / EIGHT % 2;
  float sum[SPAN / EIGHT][4] = {};
#pragma unroll
  for (int d = 0; d < DEPTH; d += FRAGMENT) {
    uint32_t x[4];
    load_matrices(x, a + lane % FRAGMENT * LD + d + lane / FRAGMENT * EIGHT);
#pragma unroll
    for (int j = 0; j < SPAN / EIGHT; j += 2) {
      uint32_t y[4];
      int column = (j + lane / FRAGMENT) * EIGHT + in_eight;
      load_matrices(y, b + column * LD + d + odd * EIGHT);
      multiply(sum[j], x, y[0], y[1]);
      multiply(sum[j + 1], x, y[2], y[3]);
    }
  }
#pragma unroll
  for (int e = 0; e < SPAN / EIGHT * 2; e++)
    *(float2 *)(patch + line_of(e % 2) * LD_SPAN + e / 2 * EIGHT + column_of(0)) =
        make_float2(sum[e / 2][e % 2 * 2], sum[e / 2][e % 2 * 2 + 1]);
}

/* What a warp adds to c and stores: SPAN columns of 16 rows, of which a lane has EACH packs. */
template <class OUT> struct span {
  enum { SIZE = pack<OUT>::SIZE, LINE = SPAN / SIZE, DOWN = WARP / LINE, EACH = FRAGMENT / DOWN };
};

/* held = what c holds, or zeros; c: this lane's first pack. */
template <class OUT>
__device__ static inline void load_span(pack<OUT> *held, const OUT *c, int64_t ldc, int rows,
                                        bool wanted)
{
#pragma unroll
  for (int e = 0; e < span<OUT>::EACH; e++)
    load(held[e], c + e * span<OUT>::DOWN * ldc, 0, 0, wanted && e * span<OUT>::DOWN < rows);
}

/* c = patch + held; both from this lane's first pack on. */
template <class OUT>
__device__ static inline void store_span(const float *patch, const pack<OUT> *held, OUT *c,
                                         int64_t ldc, int rows)
{
#pragma unroll
  for (int e = 0; e < span<OUT>::EACH; e++) {
    const float *value = patch + e * span<OUT>::DOWN * LD_SPAN;
    pack<OUT> p;
#pragma unroll
    for (int j = 0; j < span<OUT>::SIZE; j++)
      p.at[j] = real_of<OUT>(value[j] + to_float(held[e].at[j]));
    if (e * span<OUT>::DOWN < rows)
      store(p, c + e * span<OUT>::DOWN * ldc, 0, 0, true);
  }
}

/* The same for any addresses, element by element; c: the span's first element. */
template <class OUT>
__device__ static inline void store_elements(const float *patch, OUT *c, int64_t ldc, int rows,
                                             int64_t columns, bool accumulate)
{
#pragma unroll 1
  for (int e = threadIdx.x % WARP; e < FRAGMENT * SPAN; e += WARP) {
    OUT *to = c + e / SPAN * ldc + e % SPAN;
    if (e / SPAN < rows && e % SPAN < columns)
      *to = real_of<OUT>(patch[e / SPAN * LD_SPAN + e % SPAN] + (accumulate ? to_float(*to) : 0));
  }
}

/* c (M, N) = a (M, K) b, b's transpose being (N, K). What c holds is asked for first, and added
 * from registers: a warp has 4 KB of it under way. whole: c allows 16-byte access. */
template <int DEPTH, class OUT>
__global__ void __launch_bounds__(THREADS)
    gemm_shallow_kernel(matrix a, matrix b, OUT *c, int64_t ldc, bool accumulate, bool whole)
{
  enum { COLUMNS = 16 * pack<OUT>::SIZE, SPANS = COLUMNS / SPAN, LD = DEPTH + PAD };
  extern __shared__ __align__(32) unsigned char memory[];
  shallow_memory<DEPTH, COLUMNS> &shared = *(shallow_memory<DEPTH, COLUMNS> *)memory;
  int64_t tiles = (b.rows + COLUMNS - 1) / COLUMNS;
  int64_t first = blockIdx.x / tiles * SHALLOW_ROWS, column = blockIdx.x % tiles * COLUMNS;
  int at = threadIdx.x / WARP * FRAGMENT, lane = threadIdx.x % WARP;
  int line = lane / span<OUT>::LINE, in_line = lane % span<OUT>::LINE * span<OUT>::SIZE;
  int64_t left = a.rows - first - at;
  int rows = left < FRAGMENT ? (int)left : FRAGMENT;
  copy<SHALLOW_ROWS, DEPTH>(shared.a, a, first, 0);
  copy<COLUMNS, DEPTH>(shared.b, b, column, 0);
  copies_close();
  c += (first + at) * ldc + column;
  OUT *mine = c + line * ldc + in_line;
  pack<OUT> held[SPANS][span<OUT>::EACH];
#pragma unroll
  for (int s = 0; s < SPANS; s++)
    load_span(held[s], mine + s * SPAN, ldc, rows - line,
              accumulate && whole && column + s * SPAN + in_line < b.rows);
  copies_wait_but<0>();
  __syncthreads();
  float *patch = shared.patch[threadIdx.x / WARP];
#pragma unroll
  for (int s = 0; s < SPANS; s++) {
    multiply_span<DEPTH>(shared.a + at * LD, shared.b + s * SPAN * LD, patch);
    __syncwarp();
    int64_t columns = b.rows - column - s * SPAN;
    if (!whole)
      store_elements(patch, c + s * SPAN, ldc, rows, columns, accumulate);
    else if (in_line < columns)
      store_span(patch + line * LD_SPAN + in_line, held[s], mine + s * SPAN, ldc, rows - line);
    __syncwarp(); /* the patch is read */
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <int DEPTH, class OUT>
static int shallow(const matrix &a, const matrix &b, OUT *c, int64_t ldc, bool accumulate,
                   cudaStream_t s)
{
  const int64_t COLUMNS = 16 * pack<OUT>::SIZE;
  int bytes = sizeof(shallow_memory<DEPTH, 16 * pack<OUT>::SIZE>);
  if (allow(gemm_shallow_kernel<DEPTH, OUT>, bytes))
    return neapi_refused("%d bytes of shared memory for gemm_shallow_kernel<DEPTH, OUT>", bytes);
  int64_t tiles = (b.rows + COLUMNS - 1) / COLUMNS;
  unsigned blocks = (unsigned)((a.rows + SHALLOW_ROWS - 1) / SHALLOW_ROWS * tiles);
  LAUNCH(blocks, THREADS, bytes, s, gemm_shallow_kernel<DEPTH, OUT>)
  (a, b, c, ldc, accumulate, aligned<OUT>(ldc | b.rows, c));
  return launched();
}

template <class OUT>
int neapi_cuda_shallow(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                       int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate, void *stream)
{
  if (!m || !n)
    return NEAPI_KERNEL_OK;
  BY_SIZE(k, shallow, matrix_of(a, m, k, lda, false), matrix_of(b, n, k, ldb, !trans_b), c, ldc,
          accumulate, stream_of(stream))
}
template int neapi_cuda_shallow<float>(int64_t, int64_t, int64_t, const void *, int64_t,
                                       const void *, int64_t, int, float *, int64_t, int, void *);
template int neapi_cuda_shallow<bf16>(int64_t, int64_t, int64_t, const void *, int64_t,
                                      const void *, int64_t, int, bf16 *, int64_t, int, void *);
