/* SPDX-License-Identifier: Apache-2.0 */
/* What every CUDA kernel file starts with. Kernels are templates over the real type: float or
 * __nv_bfloat16. Arithmetic is float; a value is rounded to the real type when it is stored.
 *
 * A row belongs to one warp or one block, and an element's lane depends on its column alone, so a
 * row's result is the same at any row of any batch. */
#ifndef NEAPI_CUDA_CUH
#define NEAPI_CUDA_CUH

extern "C" {
#include "kernels.h"
#include "refusal.h"
}

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <float.h>
#include <stddef.h>

typedef __nv_bfloat16 bf16;

/* ---- launching ------------------------------------------------------------------------------- */

enum { WARP = 32, ROWS_PER_BLOCK = 8, BLOCK = 256, MOST_BLOCKS = 65535 * 32 };

static inline cudaStream_t stream_of(void *stream)
{
  return (cudaStream_t)stream;
}

/* The kernel that is launched next on this thread, for the message if it is refused. */
void neapi_launching(const char *kernel, dim3 grid, dim3 block, size_t shared);

/* A launch: LAUNCH(grid, block, shared, stream, kernel<…>)(arguments). */
#define LAUNCH(grid, block, shared, stream, ...)                                                   \
  neapi_launching(#__VA_ARGS__, grid, block, shared), __VA_ARGS__<<<grid, block, shared, stream>>>

/* The outcome of the launches since the last call. */
int neapi_launched(void);
static inline int launched(void)
{
  return cudaPeekAtLastError() == cudaSuccess ? NEAPI_KERNEL_OK : neapi_launched();
}

/* NEAPI_KERNEL_DEVICE, for what is no launch. */
int neapi_refused(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline unsigned blocks_for(int64_t items, int64_t per_block)
{
  int64_t blocks = (items + per_block - 1) / per_block;
  return (unsigned)(blocks < (int64_t)MOST_BLOCKS ? blocks : (int64_t)MOST_BLOCKS);
}

/* Threads of a kernel that gives each row to a warp. */
static inline dim3 warp_rows(void)
{
  return dim3(WARP, ROWS_PER_BLOCK);
}

/* This warp's rows: for (ROWS(row, n)). */
#define ROWS(row, n)                                                                               \
  int64_t row = blockIdx.x * (int64_t)blockDim.y + threadIdx.y;                                    \
  row < (n);                                                                                       \
  row += (int64_t)gridDim.x * blockDim.y

/* ---- numbers --------------------------------------------------------------------------------- */

__device__ static inline float to_float(float x)
{
  return x;
}
__device__ static inline float to_float(bf16 x)
{
  return __bfloat162float(x);
}
template <class T> __device__ inline T real_of(float x);
template <> __device__ inline float real_of<float>(float x)
{
  return x;
}
template <> __device__ inline bf16 real_of<bf16>(float x)
{
  return __float2bfloat16(x);
}

/* ---- packs: 16 bytes of a row ---------------------------------------------------------------- */

template <class T> struct alignas(16) pack {
  enum { SIZE = 16 / sizeof(T) };
  T at[SIZE];
};

/* Elements i to i + SIZE - 1 of a row of n; past its end 0. whole: 16-byte access is allowed; a
 * uint4 says so to the compiler, which may split the copy of a pack into its elements. */
template <class T>
__device__ inline void load(pack<T> &to, const T *row, int64_t i, int64_t n, bool whole)
{
  if (whole) {
    *(uint4 *)&to = *(const uint4 *)(row + i);
    return;
  }
#pragma unroll
  for (int j = 0; j < pack<T>::SIZE; j++)
    to.at[j] = i + j < n ? row[i + j] : real_of<T>(0.0f);
}

template <class T>
__device__ inline void store(const pack<T> &from, T *row, int64_t i, int64_t n, bool whole)
{
  if (whole) {
    *(uint4 *)(row + i) = *(const uint4 *)&from;
    return;
  }
#pragma unroll
  for (int j = 0; j < pack<T>::SIZE; j++)
    if (i + j < n)
      row[i + j] = from.at[j];
}

/* Whether all rows of n elements allow 16-byte access. */
template <class T>
inline bool aligned(int64_t n, const void *a, const void *b = NULL, const void *c = NULL,
                    const void *d = NULL)
{
  uintptr_t bits = (uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d;
  return bits % 16 == 0 && n % pack<T>::SIZE == 0;
}

/* The packs of a row that belong to this lane: for (PACKS(T, i, n)). */
#define PACKS(T, i, n)                                                                             \
  int64_t i = threadIdx.x * (int64_t)pack<T>::SIZE;                                                \
  i < (n);                                                                                         \
  i += (int64_t)WARP * pack<T>::SIZE

/* ---- sums over threads, in a fixed order ----------------------------------------------------- */

template <class X> __device__ inline X warp_sum(X x)
{
#pragma unroll
  for (int step = WARP / 2; step; step /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

__device__ static inline float warp_max(float x)
{
#pragma unroll
  for (int step = WARP / 2; step; step /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

/* Over a block of up to 1024 threads in x; every thread gets the result. */
template <class X> __device__ inline X block_sum(X x)
{
  __shared__ X parts[WARP];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % WARP == 0)
    parts[threadIdx.x / WARP] = x;
  __syncthreads();
  x = threadIdx.x % WARP < blockDim.x / WARP ? parts[threadIdx.x % WARP] : X(0);
  return warp_sum(x);
}

__device__ static inline float block_max(float x)
{
  __shared__ float parts[WARP];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % WARP == 0)
    parts[threadIdx.x / WARP] = x;
  __syncthreads();
  x = threadIdx.x % WARP < blockDim.x / WARP ? parts[threadIdx.x % WARP] : -INFINITY;
  return warp_max(x);
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* Scratch memory that belongs to the stream from here on; NULL if there is none. */
static inline void *scratch_open(int64_t bytes, void *stream)
{
  void *memory = NULL;
  if (cudaMallocAsync(&memory, (size_t)(bytes > 0 ? bytes : 1), stream_of(stream)) != cudaSuccess)
    return NULL;
  return memory;
}

static inline void scratch_close(void *memory, void *stream)
{
  cudaFreeAsync(memory, stream_of(stream));
}

/* The launchers of both tables. Each is set in the file of its operation, by LAUNCHER from a
 * template of the real type, or by LAUNCHER_OF_BOTH where none is needed. */
#define LAUNCHER_POINTER(op) static neapi_kernel_##op *const op;
template <class T> struct launchers {
  NEAPI_KERNELS(LAUNCHER_POINTER, LAUNCHER_POINTER)
};
#undef LAUNCHER_POINTER

#define LAUNCHER_OF(type, op, ...)                                                                 \
  template <> neapi_kernel_##op *const launchers<type>::op = ::__VA_ARGS__
#define LAUNCHER(op)                                                                               \
  LAUNCHER_OF(float, op, op<float>);                                                               \
  LAUNCHER_OF(bf16, op, op<bf16>)
#define LAUNCHER_OF_BOTH(op)                                                                       \
  LAUNCHER_OF(float, op, op);                                                                      \
  LAUNCHER_OF(bf16, op, op)

/* cuBLAS's product, of bf16 into bf16 or float or of double, where shapes and addresses suit it:
 * sets *status and returns true, or returns false and the caller's own product is to be used.
 * Whether it is used, and the algorithm, depend on N, K and leading dimensions, never on M. */
typedef enum { NEAPI_BF16_INTO_BF16, NEAPI_BF16_INTO_FLOAT, NEAPI_DOUBLES } product_types;
bool neapi_cublas_gemm(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                       const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc,
                       product_types types, int accumulate, void *stream, int *status);

/* Products of our own for matrices with a side below NARROW, which cuBLAS is not asked for:
 * c = a op(b) with N (flat) or K (shallow) narrow, into bf16 or float, and c = a^T b with N
 * narrow. */
enum { NARROW = 64 };
template <class OUT>
int neapi_cuda_flat(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                    int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate, void *stream);
template <class OUT>
int neapi_cuda_shallow(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, const void *b,
                       int64_t ldb, int trans_b, OUT *c, int64_t ldc, int accumulate, void *stream);
int neapi_cuda_narrow_gradient(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda,
                               const void *b, int64_t ldb, float *c, int64_t ldc, int accumulate,
                               void *stream);

#endif
