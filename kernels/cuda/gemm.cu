/* Matrix products of our own, for float, and for bf16 where cuBLAS is absent or the shape suits
 * neither it nor gemm_narrow.cu. A block computes a tile of c and walks K in one order, from 0 up
 * in steps of DEPTH, so that an element's bits depend on its row of a and its column of b alone. */
#include "cuda.cuh"

#include <mma.h>
#include <type_traits>

/* ---- float: a thread computes 8 x 8 elements ------------------------------------------------- */

enum { SIDE = 128, DEPTH = 16, EACH = 8, LANES = SIDE / EACH };

/* tile[k][i] = op(x)[from + i][depth + k]; beyond the edges 0. side: rows of op(x). */
template <bool TRANS>
__device__ static void load_tile(float (*tile)[SIDE + 4], const float *x, int64_t ld, int64_t from,
                                 int64_t side, int64_t depth, int64_t k)
{
  for (int at = threadIdx.x; at < SIDE * DEPTH; at += LANES * LANES) {
    int i = TRANS ? at % SIDE : at / DEPTH, j = TRANS ? at / SIDE : at % DEPTH;
    bool inside = from + i < side && depth + j < k;
    int64_t offset = TRANS ? (depth + j) * ld + from + i : (from + i) * ld + depth + j;
    tile[j][i] = inside ? x[offset] : 0.0f;
  }
}

template <bool TRANS_A, bool TRANS_B>
__global__ void __launch_bounds__(LANES *LANES)
    gemm_float_kernel(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                      int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
  __shared__ float left[DEPTH][SIDE + 4], right[DEPTH][SIDE + 4];
  int64_t first_m = blockIdx.y * (int64_t)SIDE, first_n = blockIdx.x * (int64_t)SIDE;
  int ty = threadIdx.x / LANES, tx = threadIdx.x % LANES;
  float sum[EACH][EACH] = {{0}};
  for (int64_t depth = 0; depth < k; depth += DEPTH) {
    load_tile<TRANS_A>(left, a, lda, first_m, m, depth, k);
    load_tile<!TRANS_B>(right, b, ldb, first_n, n, depth, k);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
#pragma unroll
      for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++)
          sum[i][j] += left[d][ty + i * LANES] * right[d][tx + j * LANES];
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < EACH; i++)
#pragma unroll
    for (int j = 0; j < EACH; j++) {
      int64_t row = first_m + ty + i * LANES, column = first_n + tx + j * LANES;
      if (row < m && column < n)
        c[row * ldc + column] = sum[i][j] + (accumulate ? c[row * ldc + column] : 0.0f);
    }
}

/* ---- bf16: tensor cores, a warp computes 32 x 64 elements ------------------------------------ */

enum { THREADS = 256, K_STEP = 32, PAD = 8, WARP_M = 32, WARP_N = 64, FRAGMENT = 16 };

/* tile = op(x) of SIDE x K_STEP elements as they lie in memory: [k][i] if TRANS, else [i][k]. */
template <bool TRANS>
__device__ static void load_bf16_tile(bf16 *tile, const bf16 *x, int64_t ld, int64_t from,
                                      int64_t side, int64_t depth, int64_t k, bool whole)
{
  enum { WIDTH = TRANS ? SIDE : K_STEP, LD = WIDTH + PAD, SIZE = pack<bf16>::SIZE };
  for (int at = threadIdx.x * SIZE; at < SIDE * K_STEP; at += THREADS * SIZE) {
    int line = at / WIDTH, in_line = at % WIDTH;
    int64_t row = (TRANS ? depth : from) + line, column = (TRANS ? from : depth) + in_line;
    int64_t rows = TRANS ? k : side, columns = TRANS ? side : k;
    pack<bf16> p;
    bool fits = whole && column + SIZE <= columns;
    load(p, x + row * ld, column, row < rows ? columns : 0, fits && row < rows);
    *(pack<bf16> *)(tile + line * LD + in_line) = p;
  }
}

/* c is bf16, or float for what is to be rounded no further. */
template <bool TRANS_A, bool TRANS_B, class OUT>
__global__ void __launch_bounds__(THREADS)
    gemm_bf16_kernel(int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t lda, const bf16 *b,
                     int64_t ldb, OUT *c, int64_t ldc, bool accumulate, bool whole)
{
  using namespace nvcuda::wmma;
  typedef typename std::conditional<TRANS_A, col_major, row_major>::type order_a;
  typedef typename std::conditional<TRANS_B, col_major, row_major>::type order_b;
  enum { LD_A = (TRANS_A ? SIDE : K_STEP) + PAD, LD_B = (TRANS_B ? K_STEP : SIDE) + PAD };
  enum { ROWS = WARP_M / FRAGMENT, COLUMNS = WARP_N / FRAGMENT };
  __shared__ __align__(32) bf16 left[SIDE * (K_STEP + PAD) + K_STEP * PAD];
  __shared__ __align__(32) bf16 right[SIDE * (K_STEP + PAD) + K_STEP * PAD];
  __shared__ __align__(32) float patch[THREADS / WARP][FRAGMENT][FRAGMENT + 4];
  int64_t first_m = blockIdx.y * (int64_t)SIDE, first_n = blockIdx.x * (int64_t)SIDE;
  int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  int at_m = warp / 2 * WARP_M, at_n = warp % 2 * WARP_N;
  fragment<accumulator, FRAGMENT, FRAGMENT, FRAGMENT, float> sum[ROWS][COLUMNS];
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++)
      fill_fragment(sum[i][j], 0.0f);
  for (int64_t depth = 0; depth < k; depth += K_STEP) {
    load_bf16_tile<TRANS_A>(left, a, lda, first_m, m, depth, k, whole);
    load_bf16_tile<!TRANS_B>(right, b, ldb, first_n, n, depth, k, whole);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < K_STEP; d += FRAGMENT) {
      fragment<matrix_a, FRAGMENT, FRAGMENT, FRAGMENT, bf16, order_a> x[ROWS];
      fragment<matrix_b, FRAGMENT, FRAGMENT, FRAGMENT, bf16, order_b> y[COLUMNS];
      for (int i = 0; i < ROWS; i++) {
        int row = at_m + i * FRAGMENT;
        load_matrix_sync(x[i], left + (TRANS_A ? d * LD_A + row : row * LD_A + d), LD_A);
      }
      for (int j = 0; j < COLUMNS; j++) {
        int column = at_n + j * FRAGMENT;
        load_matrix_sync(y[j], right + (TRANS_B ? column * LD_B + d : d * LD_B + column), LD_B);
      }
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++)
          mma_sync(sum[i][j], x[i], y[j], sum[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < ROWS; i++)
    for (int j = 0; j < COLUMNS; j++) {
      store_matrix_sync(&patch[warp][0][0], sum[i][j], FRAGMENT + 4, mem_row_major);
      __syncwarp();
      for (int e = lane; e < FRAGMENT * FRAGMENT; e += WARP) {
        int64_t row = first_m + at_m + i * FRAGMENT + e / FRAGMENT;
        int64_t column = first_n + at_n + j * FRAGMENT + e % FRAGMENT;
        if (row >= m || column >= n)
          continue;
        OUT *to = c + row * ldc + column;
        float value = patch[warp][e / FRAGMENT][e % FRAGMENT];
        *to = real_of<OUT>(value + (accumulate ? to_float(*to) : 0.0f));
      }
      __syncwarp();
    }
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* A product's arguments, with both transpositions as template arguments at the end. */
template <bool TRANS_A, bool TRANS_B>
static void launch(dim3 grid, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                   const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate,
                   cudaStream_t s)
{
  LAUNCH(grid, LANES * LANES, 0, s, gemm_float_kernel<TRANS_A, TRANS_B>)
  (m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

template <bool TRANS_A, bool TRANS_B, class OUT>
static void launch(dim3 grid, int64_t m, int64_t n, int64_t k, const bf16 *a, int64_t lda,
                   const bf16 *b, int64_t ldb, OUT *c, int64_t ldc, bool accumulate, cudaStream_t s)
{
  enum { SIZE = pack<bf16>::SIZE };
  bool whole = ((uintptr_t)a | (uintptr_t)b) % 16 == 0 && lda % SIZE == 0 && ldb % SIZE == 0;
  LAUNCH(grid, THREADS, 0, s, gemm_bf16_kernel<TRANS_A, TRANS_B, OUT>)
  (m, n, k, a, lda, b, ldb, c, ldc, accumulate, whole);
}

template <class T, class OUT>
static int own_product(int64_t m, int64_t n, int64_t k, const T *a, int64_t lda, int trans_a,
                       const T *b, int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate,
                       cudaStream_t s)
{
  const int64_t MOST_ROWS = 65535 * (int64_t)SIDE; /* of a grid */
  if (!n)
    return NEAPI_KERNEL_OK;
  for (int64_t row = 0; row < m; row += MOST_ROWS) {
    int64_t rows = m - row < MOST_ROWS ? m - row : MOST_ROWS;
    const T *left = trans_a ? a + row : a + row * lda;
    OUT *out = c + row * ldc;
    dim3 grid((unsigned)((n + SIDE - 1) / SIDE), (unsigned)((rows + SIDE - 1) / SIDE));
    if (trans_a && trans_b)
      launch<true, true>(grid, rows, n, k, left, lda, b, ldb, out, ldc, accumulate, s);
    else if (trans_a)
      launch<true, false>(grid, rows, n, k, left, lda, b, ldb, out, ldc, accumulate, s);
    else if (trans_b)
      launch<false, true>(grid, rows, n, k, left, lda, b, ldb, out, ldc, accumulate, s);
    else
      launch<false, false>(grid, rows, n, k, left, lda, b, ldb, out, ldc, accumulate, s);
  }
  return launched();
}

template <class T, class OUT>
static int gemm(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
                void *stream)
{
  int status;
  bool narrow = !trans_a && (n < NARROW || k < NARROW);
  if (sizeof(T) == sizeof(bf16) && narrow)
    return neapi_cuda_narrow(m, n, k, a, lda, b, ldb, trans_b, (OUT *)c, ldc, accumulate, stream);
  if (sizeof(T) == sizeof(bf16) &&
      neapi_cublas_gemm(m, n, k, a, lda, trans_a, b, ldb, trans_b, c, ldc,
                        sizeof(OUT) == sizeof(bf16) ? NEAPI_BF16_INTO_BF16 : NEAPI_BF16_INTO_FLOAT,
                        accumulate, stream, &status))
    return status;
  return own_product<T, OUT>(m, n, k, (const T *)a, lda, trans_a, (const T *)b, ldb, trans_b,
                             (OUT *)c, ldc, accumulate, stream_of(stream));
}

template <class T>
static int gemm_tn(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda, const void *b,
                   int64_t ldb, void *c, int64_t ldc, int accumulate, void *stream)
{
  if (sizeof(T) == sizeof(bf16) && n < NARROW)
    return neapi_cuda_narrow_gradient(t, k, n, a, lda, b, ldb, (float *)c, ldc, accumulate, stream);
  return gemm<T, float>(k, n, t, a, lda, 1, b, ldb, 0, c, ldc, accumulate, stream);
}

LAUNCHER_OF(float, gemm, gemm<float, float>);
LAUNCHER_OF(bf16, gemm, gemm<bf16, bf16>);
LAUNCHER_OF(float, gemm_acc, gemm<float, float>);
LAUNCHER_OF(bf16, gemm_acc, gemm<bf16, float>);
LAUNCHER(gemm_tn);
