/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients: c (K, N) = a^T b, N narrow, a sum over tokens (see gemm_narrow.cuh). */
#include "gemm_narrow.cuh"

enum { GRADIENT_ROWS = 128, SLAB = 32, PARTS = 512, LEAST_PART = 256 };

/* What a block holds of a slab of tokens. */
template <int WIDTH> struct alignas(32) gradient_stage {
  bf16 a[SLAB * (GRADIENT_ROWS + PAD)], b[SLAB * (WIDTH + PAD)];
};

template <int WIDTH>
__device__ static inline void fill_gradient(gradient_stage<WIDTH> *stages, const matrix &a,
                                            const matrix &b, int64_t column, int64_t token,
                                            int64_t end, int64_t slab)
{
  gradient_stage<WIDTH> &stage = stages[slab % STAGES];
  if (token < end) {
    copy<SLAB, GRADIENT_ROWS>(stage.a, a, token, column);
    copy<SLAB, WIDTH>(stage.b, b, token, 0);
  }
  copies_close();
}

/* out[part] (tiles * GRADIENT_ROWS, WIDTH) = a^T b over tokens part * length up to the next part's,
 * a (T, K), b (T, N); length is a multiple of SLAB. */
template <int WIDTH>
__global__ void __launch_bounds__(THREADS, WIDTH == 64 ? 3 : 4)
    gemm_gradient_parts(matrix a, matrix b, int64_t length, int64_t tiles, float *out)
{
  enum { LD_A = GRADIENT_ROWS + PAD, LD_B = WIDTH + PAD };
  enum { EACH = GRADIENT_ROWS / WARPS, LINES = EACH / FRAGMENT }; /* rows of c of a warp */
  extern __shared__ __align__(32) unsigned char memory[];
  gradient_stage<WIDTH> *stages = (gradient_stage<WIDTH> *)memory;
  int64_t column = blockIdx.x % tiles * GRADIENT_ROWS, first = blockIdx.x / tiles * length;
  int64_t end = first + length < a.rows ? first + length : a.rows;
  int at = threadIdx.x / WARP * EACH, lane = threadIdx.x % WARP;
  float sum[LINES][WIDTH / EIGHT][4] = {};
  for (int64_t slab = 0; slab < STAGES - 1; slab++)
    fill_gradient(stages, a, b, column, first + slab * SLAB, end, slab);
  for (int64_t slab = 0; first + slab * SLAB < end; slab++) {
    copies_wait_but<STAGES - 2>();
    __syncthreads(); /* this slab is there, and the one before is read */
    int64_t next = slab + STAGES - 1;
    fill_gradient(stages, a, b, column, first + next * SLAB, end, next);
    const gradient_stage<WIDTH> &stage = stages[slab % STAGES];
    const bf16 *left =
        stage.a + (lane / FRAGMENT * EIGHT + lane % EIGHT) * LD_A + at + lane / EIGHT % 2 * EIGHT;
#pragma unroll
    for (int d = 0; d < SLAB; d += FRAGMENT) {
      uint32_t x[LINES][4];
#pragma unroll
      for (int i = 0; i < LINES; i++)
        load_transposed(x[i], left + d * LD_A + i * FRAGMENT);
      multiply_tiles<LINES, WIDTH>(sum, x, stage.b + d * LD_B);
    }
  }
  out += (blockIdx.x * (int64_t)GRADIENT_ROWS + at) * WIDTH;
#pragma unroll
  for (int i = 0; i < LINES; i++)
#pragma unroll
    for (int e = 0; e < WIDTH / EIGHT * 2; e++)
      *(float2 *)(out + (i * FRAGMENT + line_of(e % 2)) * WIDTH + e / 2 * EIGHT + column_of(0)) =
          make_float2(sum[i][e / 2][e % 2 * 2], sum[i][e / 2][e % 2 * 2 + 1]);
}

/* c (K, N) = the sum of parts (height, width), in their order. */
__global__ void gemm_gradient_sum(int64_t k, int64_t n, int parts, int64_t height, int width,
                                  const float *part, float *c, int64_t ldc, bool accumulate)
{
  int64_t step = (int64_t)gridDim.x * blockDim.x;
  for (int64_t at = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; at < k * width; at += step) {
    float sum = 0;
#pragma unroll 8
    for (int p = 0; p < parts; p++)
      sum += part[p * height * width + at];
    float *to = c + at / width * ldc + at % width;
    if (at % width < n)
      *to = sum + (accumulate ? *to : 0.0f);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

/* PARTS blocks in all, but none with fewer than LEAST_PART tokens. */
template <int WIDTH>
static int gradient(const matrix &a, const matrix &b, float *c, int64_t ldc, bool accumulate,
                    void *stream)
{
  int64_t tiles = (a.columns + GRADIENT_ROWS - 1) / GRADIENT_ROWS;
  int64_t parts = PARTS / tiles, most = (a.rows + LEAST_PART - 1) / LEAST_PART;
  parts = parts < most ? parts : most;
  parts = parts > 1 ? parts : 1;
  int64_t slabs = (a.rows + SLAB - 1) / SLAB, length = (slabs + parts - 1) / parts * SLAB;
  int64_t height = tiles * GRADIENT_ROWS;
  int bytes = STAGES * sizeof(gradient_stage<WIDTH>);
  if (allow(gemm_gradient_parts<WIDTH>, bytes))
    return neapi_refused("%d bytes of shared memory for gemm_gradient_parts<WIDTH>", bytes);
  float *sum = (float *)scratch_open(parts * height * WIDTH * (int64_t)sizeof(float), stream);
  if (!sum)
    return NEAPI_KERNEL_MEMORY;
  LAUNCH((unsigned)(tiles * parts), THREADS, bytes, stream_of(stream), gemm_gradient_parts<WIDTH>)
  (a, b, length, tiles, sum);
  LAUNCH(blocks_for(a.columns * WIDTH, BLOCK), BLOCK, 0, stream_of(stream), gemm_gradient_sum)
  (a.columns, b.columns, (int)parts, height, WIDTH, sum, c, ldc, accumulate);
  scratch_close(sum, stream);
  return launched();
}

int neapi_cuda_narrow_gradient(int64_t t, int64_t k, int64_t n, const void *a, int64_t lda,
                               const void *b, int64_t ldb, float *c, int64_t ldc, int accumulate,
                               void *stream)
{
  if (!k || !n)
    return NEAPI_KERNEL_OK;
  BY_SIZE(n, gradient, matrix_of(a, t, k, lda, false), matrix_of(b, t, n, ldb, false), c, ldc,
          accumulate, stream)
}
