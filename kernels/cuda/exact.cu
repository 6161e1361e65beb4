/* SPDX-License-Identifier: Apache-2.0 */
/* Exact sums (exact.h). No addition rounds, so that any order gives the same bits: threads that
 * share a sum add to it atomically. */
#include "cuda.cuh"

#include "exact.h"

enum { SUM_ROWS = 64 }; /* rows that a thread adds up */

__device__ static double magnitude(double x)
{
  return fabs(x) <= DBL_MAX ? fabs(x) : (double)INFINITY;
}

/* Not negative, so that the order of the bits is that of the numbers. */
__device__ static void atomic_max(double *max, double value)
{
  atomicMax((unsigned long long *)max, (unsigned long long)__double_as_longlong(value));
}

template <class T>
__global__ void exact_column_max_kernel(int64_t t, int64_t h, const T *x, int64_t ldx, double *max)
{
  int64_t column = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  int64_t from = blockIdx.y * (int64_t)SUM_ROWS, end = min(from + SUM_ROWS, t);
  double largest = 0;
  for (int64_t row = from; column < h && row < end; row++)
    largest = fmax(largest, magnitude((double)to_float(x[row * ldx + column])));
  if (column < h)
    atomic_max(&max[column], largest);
}

__global__ void exact_quantum_kernel(int64_t n, int bits, const double *max, double *quantum)
{
  int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i >= n)
    return;
  quantum[i] = neapi_quantum(max[i], bits);
}

template <class T>
__global__ void exact_quantise_kernel(int64_t t, int64_t h, const T *x, int64_t ldx,
                                      const double *quantum, double *q)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < t * h;
       i += (int64_t)gridDim.x * blockDim.x)
    q[i] = neapi_quantise((double)to_float(x[i / h * ldx + i % h]), quantum[i % h]);
}

enum { TILE = 32, TILE_ROWS = 8 };

/* A block per tile of sum; TILE x TILE_ROWS threads. */
__global__ void exact_gemm_tn_kernel(int64_t t, int64_t k, int64_t n, const double *a,
                                     const double *quantum_a, const double *b,
                                     const double *quantum_b, double *sum)
{
  __shared__ double left[TILE][TILE], right[TILE][TILE]; /* [token][column] */
  int64_t first_k = blockIdx.y * (int64_t)TILE, first_n = blockIdx.x * (int64_t)TILE;
  double part[TILE / TILE_ROWS] = {0};
  for (int64_t from = 0; from < t; from += TILE) {
    for (int row = threadIdx.y; row < TILE; row += TILE_ROWS) {
      int64_t token = from + row, i = first_k + threadIdx.x, j = first_n + threadIdx.x;
      left[row][threadIdx.x] = token < t && i < k ? a[token * k + i] : 0;
      right[row][threadIdx.x] = token < t && j < n ? b[token * n + j] : 0;
    }
    __syncthreads();
    for (int row = 0; row < TILE; row++)
      for (int p = 0; p < TILE / TILE_ROWS; p++)
        part[p] += left[row][threadIdx.y + p * TILE_ROWS] * right[row][threadIdx.x];
    __syncthreads();
  }
  int64_t j = first_n + threadIdx.x;
  for (int p = 0; p < TILE / TILE_ROWS; p++) {
    int64_t i = first_k + threadIdx.y + p * TILE_ROWS;
    if (i < k && j < n)
      sum[i * n + j] += part[p] * quantum_a[i] * quantum_b[j];
  }
}

__global__ void exact_gemm_tn_add(int64_t k, int64_t n, const double *part, const double *quantum_a,
                                  const double *quantum_b, double *sum)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < k * n;
       i += (int64_t)gridDim.x * blockDim.x)
    sum[i] += part[i] * quantum_a[i / n] * quantum_b[i % n];
}

template <class T>
__global__ void exact_column_sum_kernel(int64_t t, int64_t h, const T *x, int64_t ldx,
                                        const double *quantum, double *sum)
{
  int64_t column = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  int64_t from = blockIdx.y * (int64_t)SUM_ROWS, end = min(from + SUM_ROWS, t);
  double part = 0;
  for (int64_t row = from; column < h && row < end; row++)
    part +=
        neapi_quantise((double)to_float(x[row * ldx + column]), quantum[column]) * quantum[column];
  if (column < h)
    atomicAdd(&sum[column], part);
}

template <class T>
__global__ void exact_scatter_add_kernel(int64_t n, int64_t h, const int32_t *index, const T *x,
                                         const double *quantum, double *sum)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n * h;
       i += (int64_t)gridDim.x * blockDim.x) {
    double g = quantum[i % h];
    atomicAdd(&sum[index[i / h] * h + i % h], neapi_quantise((double)to_float(x[i]), g) * g);
  }
}

/* Splits each square at the two quanta and adds the halves up; what is below both is dropped. */
template <class T>
__global__ void exact_square_sum_kernel(int64_t n, const T *x, neapi_square_quanta quanta,
                                        double *sum)
{
  double high = 0 * quanta.high, low = 0 * quanta.low; /* NaN if a quantum is */
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
       i += (int64_t)gridDim.x * blockDim.x) {
    double square = (double)to_float(x[i]) * (double)to_float(x[i]);
    double upper = neapi_quantise(square, quanta.high) * quanta.high;
    high += upper;
    low += neapi_quantise(square - upper, quanta.low) * quanta.low;
  }
  high = block_sum(high);
  low = block_sum(low);
  if (threadIdx.x == 0) {
    atomicAdd(&sum[0], high);
    atomicAdd(&sum[1], low);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Columns by blocks of rows. */
static dim3 column_blocks(int64_t t, int64_t h)
{
  return dim3(blocks_for(h, BLOCK), (unsigned)((t + SUM_ROWS - 1) / SUM_ROWS));
}

template <class T>
static int exact_column_max(int64_t t, int64_t h, const void *x, int64_t ldx, int accumulate,
                            double *max, void *s)
{
  if (!accumulate && h)
    cudaMemsetAsync(max, 0, (size_t)h * sizeof *max, stream_of(s));
  if (t && h)
    LAUNCH(column_blocks(t, h), BLOCK, 0, stream_of(s), exact_column_max_kernel<T>)
  (t, h, (const T *)x, ldx, max);
  return launched();
}

static int exact_quantum(int64_t n, int bits, const double *max, double *quantum, void *s)
{
  if (n)
    LAUNCH(blocks_for(n, BLOCK), BLOCK, 0, stream_of(s), exact_quantum_kernel)
  (n, bits, max, quantum);
  return launched();
}

template <class T>
static int exact_quantise(int64_t t, int64_t h, const void *x, int64_t ldx, const double *quantum,
                          double *q, void *s)
{
  if (t && h)
    LAUNCH(blocks_for(t * h, BLOCK), BLOCK, 0, stream_of(s), exact_quantise_kernel<T>)
  (t, h, (const T *)x, ldx, quantum, q);
  return launched();
}

/* By cuBLAS: no partial sum rounds, so that its order does not matter. */
static bool cublas_product(int64_t t, int64_t k, int64_t n, const double *a,
                           const double *quantum_a, const double *b, const double *quantum_b,
                           double *sum, void *s, int *status)
{
  double *part = (double *)scratch_open(k * n * (int64_t)sizeof *part, s);
  if (!part)
    return false;
  bool done = neapi_cublas_gemm(k, n, t, a, k, 1, b, n, 0, part, n, NEAPI_DOUBLES, 0, s, status);
  if (done && !*status) {
    LAUNCH(blocks_for(k * n, BLOCK), BLOCK, 0, stream_of(s), exact_gemm_tn_add)
    (k, n, part, quantum_a, quantum_b, sum);
    *status = launched();
  }
  scratch_close(part, s);
  return done;
}

static int exact_gemm_tn(int64_t t, int64_t k, int64_t n, const double *a, const double *quantum_a,
                         const double *b, const double *quantum_b, double *sum, void *s)
{
  int status;
  if (t && k && n && cublas_product(t, k, n, a, quantum_a, b, quantum_b, sum, s, &status))
    return status;
  dim3 tiles(blocks_for(n, TILE), (unsigned)((k + TILE - 1) / TILE));
  if (t && k && n)
    LAUNCH(tiles, dim3(TILE, TILE_ROWS), 0, stream_of(s), exact_gemm_tn_kernel)
  (t, k, n, a, quantum_a, b, quantum_b, sum);
  return launched();
}

template <class T>
static int exact_column_sum(int64_t t, int64_t h, const void *x, int64_t ldx, const double *quantum,
                            double *sum, void *s)
{
  if (t && h)
    LAUNCH(column_blocks(t, h), BLOCK, 0, stream_of(s), exact_column_sum_kernel<T>)
  (t, h, (const T *)x, ldx, quantum, sum);
  return launched();
}

template <class T>
static int exact_scatter_add(int64_t n, int64_t h, const int32_t *index, const void *x,
                             const double *quantum, double *sum, void *s)
{
  if (n && h)
    LAUNCH(blocks_for(n * h, BLOCK), BLOCK, 0, stream_of(s), exact_scatter_add_kernel<T>)
  (n, h, index, (const T *)x, quantum, sum);
  return launched();
}

template <class T>
static int exact_square_sum(int64_t n, const void *x, double max, int64_t total, double *sum,
                            void *s)
{
  neapi_square_quanta quanta = neapi_square_quanta_of(max, total);
  if (quanta.high != 0)
    LAUNCH(blocks_for(n + 1, 16 * BLOCK), BLOCK, 0, stream_of(s), exact_square_sum_kernel<T>)
  (n, (const T *)x, quanta, sum);
  return launched();
}

LAUNCHER(exact_column_max);
LAUNCHER_OF_BOTH(exact_quantum);
LAUNCHER(exact_quantise);
LAUNCHER_OF_BOTH(exact_gemm_tn);
LAUNCHER(exact_column_sum);
LAUNCHER(exact_scatter_add);
LAUNCHER(exact_square_sum);
