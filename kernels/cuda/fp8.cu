/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 as it travels: a warp takes a block of 128 numbers, a thread 4 of them. */
#include "cuda.cuh"

#include "e4m3.h"

enum { EACH = NEAPI_E4M3_BLOCK / WARP };

__global__ void to_e4m3_kernel(int64_t n, const float *x, uint8_t *packed)
{
  int64_t blocks = (n + NEAPI_E4M3_BLOCK - 1) / NEAPI_E4M3_BLOCK;
  for (ROWS(block, blocks)) {
    int64_t at = block * NEAPI_E4M3_BLOCK + threadIdx.x * EACH;
    float mine[EACH], largest = 0;
    bool finite = true;
    for (int j = 0; j < EACH; j++) {
      mine[j] = at + j < n ? x[at + j] : 0;
      finite = finite && fabsf(mine[j]) <= FLT_MAX;
      largest = fmaxf(largest, fabsf(mine[j]));
    }
    largest = warp_max(largest);
    float scale = __all_sync(~0u, finite) ? neapi_e4m3_scale(largest) : NAN;
    uint32_t codes = 0;
    for (int j = 0; j < EACH && scale > 0; j++)
      codes |= (uint32_t)neapi_e4m3_of(__fdiv_rn(mine[j], scale)) << 8 * j;
    uint32_t *to = (uint32_t *)(packed + block * NEAPI_E4M3_BYTES);
    to[threadIdx.x] = codes;
    if (threadIdx.x == 0)
      to[WARP] = __float_as_uint(scale);
  }
}

template <class T> __global__ void from_e4m3_kernel(int64_t n, const uint8_t *packed, T *out)
{
  int64_t blocks = (n + NEAPI_E4M3_BLOCK - 1) / NEAPI_E4M3_BLOCK;
  for (ROWS(block, blocks)) {
    const uint32_t *from = (const uint32_t *)(packed + block * NEAPI_E4M3_BYTES);
    int64_t at = block * NEAPI_E4M3_BLOCK + threadIdx.x * EACH;
    uint32_t codes = from[threadIdx.x];
    float scale = __uint_as_float(from[WARP]);
    for (int j = 0; j < EACH; j++)
      if (at + j < n)
        out[at + j] = real_of<T>(__fmul_rn(neapi_e4m3_value((uint8_t)(codes >> 8 * j)), scale));
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

static unsigned grid_of(int64_t n)
{
  return blocks_for((n + NEAPI_E4M3_BLOCK - 1) / NEAPI_E4M3_BLOCK, ROWS_PER_BLOCK);
}

static int to_e4m3(int64_t n, const void *x, void *packed, void *stream)
{
  if (n)
    LAUNCH(grid_of(n), warp_rows(), 0, stream_of(stream), to_e4m3_kernel)
  (n, (const float *)x, (uint8_t *)packed);
  return launched();
}

template <class T> static int from_e4m3(int64_t n, const void *packed, void *out, void *stream)
{
  if (n)
    LAUNCH(grid_of(n), warp_rows(), 0, stream_of(stream), from_e4m3_kernel<T>)
  (n, (const uint8_t *)packed, (T *)out);
  return launched();
}

LAUNCHER_OF_BOTH(to_e4m3);
LAUNCHER(from_e4m3);
