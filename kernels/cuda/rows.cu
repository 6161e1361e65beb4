/* SPDX-License-Identifier: Apache-2.0 */
/* Rows by index: embedding, permutation of tokens, combine. A warp per row. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

template <class T>
__global__ void gather_kernel(int64_t n, int64_t h, const int32_t *index, const T *x, T *out,
                              bool whole)
{
  for (ROWS(row, n))
    for (PACKS(T, i, h)) {
      pack<T> p;
      load(p, x + index[row] * h, i, h, whole);
      store(p, out + row * h, i, h, whole);
    }
}

template <class T> __device__ static inline pack<T> scaled(const pack<T> &x, float weight)
{
  pack<T> y;
#pragma unroll
  for (int j = 0; j < pack<T>::SIZE; j++)
    y.at[j] = real_of<T>(weight * to_float(x.at[j]));
  return y;
}

/* Reads a token once for all of its choices. weights: or NULL. */
template <class T>
__global__ void scatter_kernel(int64_t t, int64_t k, int64_t h, const float *weights,
                               const int32_t *position, const T *x, T *out, bool whole)
{
  for (ROWS(row, t))
    for (PACKS(T, i, h)) {
      pack<T> p;
      load(p, x + row * h, i, h, whole);
      for (int64_t c = 0; c < k; c++)
        store(weights ? scaled(p, weights[row * k + c]) : p, out + position[row * k + c] * h, i, h,
              whole);
    }
}

/* A block per row of x; the first row that has an index adds all of them, in their order. */
template <class T>
__global__ void scatter_add_kernel(int64_t n, int64_t h, const int32_t *index, const T *x,
                                   float *out)
{
  int64_t row = blockIdx.x;
  int32_t id = index[row];
  bool mine = true;
  for (int64_t i = threadIdx.x; i < row; i += blockDim.x)
    mine &= index[i] != id;
  if (!__syncthreads_and(mine))
    return;
  extern __shared__ int32_t same[]; /* [blockDim.x] rows of this piece that have the index */
  __shared__ int count;
  for (int64_t column = threadIdx.x; column < (h + blockDim.x - 1) / blockDim.x * blockDim.x;
       column += blockDim.x) {
    float sum = column < h ? out[id * h + column] : 0;
    for (int64_t piece = row; piece < n; piece += blockDim.x) {
      int64_t i = piece + threadIdx.x;
      bool hit = i < n && index[i] == id;
      if (!__syncthreads_or(hit))
        continue;
      same[threadIdx.x] = hit;
      __syncthreads();
      if (threadIdx.x == 0) {
        count = 0;
        for (int j = 0; j < (int)blockDim.x; j++)
          if (same[j])
            same[count++] = j;
      }
      __syncthreads();
      for (int j = 0; column < h && j < count; j++)
        sum += to_float(x[(piece + same[j]) * h + column]);
      __syncthreads();
    }
    if (column < h)
      out[id * h + column] = sum;
  }
}

template <class T>
__global__ void combine_kernel(int64_t t, int64_t k, int64_t h, const float *weights,
                               const int32_t *position, const T *x, T *y, bool whole)
{
  for (ROWS(row, t))
    for (PACKS(T, i, h)) {
      float sum[pack<T>::SIZE] = {0};
      for (int64_t c = 0; c < k; c++) {
        pack<T> p;
        load(p, x + position[row * k + c] * h, i, h, whole);
        float weight = weights ? weights[row * k + c] : 1.0f;
#pragma unroll
        for (int j = 0; j < pack<T>::SIZE; j++)
          sum[j] += weight * to_float(p.at[j]);
      }
      pack<T> out;
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        out.at[j] = real_of<T>(sum[j]);
      store(out, y + row * h, i, h, whole);
    }
}

template <class T>
__global__ void row_dots_kernel(int64_t t, int64_t h, const T *a, const T *b, float *out,
                                bool whole)
{
  for (ROWS(row, t)) {
    float sum = 0;
    for (PACKS(T, i, h)) {
      pack<T> x, y;
      load(x, a + row * h, i, h, whole);
      load(y, b + row * h, i, h, whole);
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        sum += to_float(x.at[j]) * to_float(y.at[j]);
    }
    sum = warp_sum(sum);
    if (threadIdx.x == 0)
      out[row] = sum;
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T>
static int gather(int64_t n, int64_t h, const int32_t *index, const void *x, void *out, void *s)
{
  if (n && h)
    LAUNCH(blocks_for(n, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), gather_kernel<T>)
  (n, h, index, (const T *)x, (T *)out, aligned<T>(h, x, out));
  return launched();
}

template <class T>
static int scatter(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                   const void *x, void *out, void *s)
{
  if (t && h)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), scatter_kernel<T>)
  (t, k, h, (const float *)weights, position, (const T *)x, (T *)out, aligned<T>(h, x, out));
  return launched();
}

template <class T>
static int scatter_add(int64_t n, int64_t h, const int32_t *index, const void *x, void *out,
                       void *s)
{
  if (n && h)
    LAUNCH((unsigned)n, BLOCK, BLOCK * sizeof(int32_t), stream_of(s), scatter_add_kernel<T>)
  (n, h, index, (const T *)x, (float *)out);
  return launched();
}

template <class T>
static int combine(int64_t t, int64_t k, int64_t h, const void *weights, const int32_t *position,
                   const void *x, void *y, void *s)
{
  if (t && h)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), combine_kernel<T>)
  (t, k, h, (const float *)weights, position, (const T *)x, (T *)y, aligned<T>(h, x, y));
  return launched();
}

template <class T>
static int row_dots(int64_t t, int64_t h, const void *a, const void *b, void *out, void *s)
{
  if (t)
    LAUNCH(blocks_for(t, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s), row_dots_kernel<T>)
  (t, h, (const T *)a, (const T *)b, (float *)out, aligned<T>(h, a, b));
  return launched();
}

LAUNCHER(gather);
LAUNCHER(scatter);
LAUNCHER(scatter_add);
LAUNCHER(combine);
LAUNCHER(row_dots);
