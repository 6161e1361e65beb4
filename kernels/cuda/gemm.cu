/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products of our own, for float, and for bf16 where cuBLAS is absent or the shape suits
 * neither it nor gemm_narrow.cuh; tensor cores' are in gemm_bf16.cu. */
#include "gemm.cuh"

/* ---- float: a thread computes 8 x 8 elements ------------------------------------------------- */

enum { DEPTH = 16, EACH = 8, LANES = SIDE / EACH };

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

/* ---- launchers ------------------------------------------------------------------------------- */

/* A product's arguments, with both transpositions as template arguments at the end. */
struct float_product {
  template <bool TRANS_A, bool TRANS_B>
  static void launch(dim3 grid, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                     const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate,
                     cudaStream_t s)
  {
    LAUNCH(grid, LANES * LANES, 0, s, gemm_float_kernel<TRANS_A, TRANS_B>)
    (m, n, k, a, lda, b, ldb, c, ldc, accumulate);
  }
};

template <class T, class OUT>
static int gemm(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
                void *stream)
{
  int status;
  bool narrow = !trans_a && (n < NARROW || k < NARROW);
  if (sizeof(T) == sizeof(bf16) && narrow)
    return (n < NARROW ? neapi_cuda_flat<OUT> : neapi_cuda_shallow<OUT>)(m, n, k, a, lda, b, ldb,
                                                                         trans_b, (OUT *)c, ldc,
                                                                         accumulate, stream);
  if (sizeof(T) == sizeof(bf16) &&
      neapi_cublas_gemm(m, n, k, a, lda, trans_a, b, ldb, trans_b, c, ldc,
                        sizeof(OUT) == sizeof(bf16) ? NEAPI_BF16_INTO_BF16 : NEAPI_BF16_INTO_FLOAT,
                        accumulate, stream, &status))
    return status;
  if constexpr (sizeof(T) == sizeof(bf16))
    return neapi_cuda_own_bf16(m, n, k, (const bf16 *)a, lda, trans_a, (const bf16 *)b, ldb,
                               trans_b, (OUT *)c, ldc, accumulate, stream_of(stream));
  else
    return own_product<float_product>(m, n, k, (const T *)a, lda, trans_a, (const T *)b, ldb,
                                      trans_b, (OUT *)c, ldc, accumulate, stream_of(stream));
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
