/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 as it travels: a warp takes some blocks of 128 numbers, so that enough is under way. */
#include "e4m3.cuh"

enum { TOGETHER = 4 };

/* The first block of a warp's turn, and the blocks that it has. */
#define TURNS(first, blocks)                                                                       \
  int64_t first = TOGETHER * (blockIdx.x * (int64_t)blockDim.y + threadIdx.y);                     \
  first < (blocks);                                                                                \
  first += TOGETHER * (int64_t)gridDim.x * blockDim.y

__global__ void to_e4m3_kernel(int64_t n, int64_t blocks, const float *x, uint8_t *packed,
                               bool quads)
{
  for (TURNS(first, blocks)) {
    quad<float> mine[TOGETHER];
#pragma unroll
    for (int b = 0; b < TOGETHER; b++)
      mine[b] = load_quad(x, (first + b) * NEAPI_E4M3_BLOCK + threadIdx.x * EACH, n, quads);
#pragma unroll
    for (int b = 0; b < TOGETHER; b++) {
      float scale;
      uint32_t codes = quantise(mine[b], &scale);
      if (first + b >= blocks)
        break;
      uint32_t *to = (uint32_t *)(packed + (first + b) * NEAPI_E4M3_BYTES);
      to[threadIdx.x] = codes;
      if (threadIdx.x == 0)
        to[WARP] = __float_as_uint(scale);
    }
  }
}

template <class T>
__global__ void from_e4m3_kernel(int64_t n, int64_t blocks, const uint8_t *packed, T *out,
                                 bool quads)
{
  for (TURNS(first, blocks)) {
    uint32_t codes[TOGETHER], scale[TOGETHER];
#pragma unroll
    for (int b = 0; b < TOGETHER; b++) {
      const uint32_t *from = (const uint32_t *)(packed + (first + b) * NEAPI_E4M3_BYTES);
      bool there = first + b < blocks;
      codes[b] = there ? from[threadIdx.x] : 0;
      scale[b] = there ? from[WARP] : 0;
    }
#pragma unroll
    for (int b = 0; b < TOGETHER; b++)
      store_quad(restore<T>(codes[b], __uint_as_float(scale[b])), out,
                 (first + b) * NEAPI_E4M3_BLOCK + threadIdx.x * EACH, n, quads);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static int64_t blocks_of(int64_t n)
{
  return (n + NEAPI_E4M3_BLOCK - 1) / NEAPI_E4M3_BLOCK;
}

static unsigned grid_of(int64_t n)
{
  return blocks_for(blocks_of(n), TOGETHER * ROWS_PER_BLOCK);
}

static int to_e4m3(int64_t n, const void *x, void *packed, void *stream)
{
  if (n)
    LAUNCH(grid_of(n), warp_rows(), 0, stream_of(stream), to_e4m3_kernel)
  (n, blocks_of(n), (const float *)x, (uint8_t *)packed, holds_quads<float>(x));
  return launched();
}

template <class T> static int from_e4m3(int64_t n, const void *packed, void *out, void *stream)
{
  if (n)
    LAUNCH(grid_of(n), warp_rows(), 0, stream_of(stream), from_e4m3_kernel<T>)
  (n, blocks_of(n), (const uint8_t *)packed, (T *)out, holds_quads<T>(out));
  return launched();
}

LAUNCHER_OF_BOTH(to_e4m3);
LAUNCHER(from_e4m3);
