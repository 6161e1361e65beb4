/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens in FP8: a warp takes a block of 128 numbers of a row, a thread 4 of them. */
#include "e4m3.cuh"

/* Whether rows of h numbers from x on are aligned to quads. */
template <class T> static bool in_quads(int64_t h, const void *x)
{
  return h % EACH == 0 && holds_quads<T>(x);
}

static int64_t blocks_of(int64_t h)
{
  return (h + NEAPI_E4M3_BLOCK - 1) / NEAPI_E4M3_BLOCK;
}

/* Quantises a token once for all of its choices. */
template <class T>
__global__ void scatter_e4m3_kernel(int64_t t, int64_t k, int64_t h, int64_t blocks,
                                    const int32_t *position, const T *x, uint8_t *packed,
                                    bool quads)
{
  for (ROWS(i, t * blocks)) {
    int64_t row = i / blocks, block = i % blocks;
    int64_t column = block * NEAPI_E4M3_BLOCK + threadIdx.x * EACH;
    float scale;
    uint32_t codes = quantise(load_quad(x + row * h, column, h, quads), &scale);
    for (int64_t c = 0; c < k; c++) {
      int64_t place = position[row * k + c] * blocks + block;
      uint32_t *to = (uint32_t *)(packed + place * NEAPI_E4M3_BYTES);
      to[threadIdx.x] = codes;
      if (threadIdx.x == 0)
        to[WARP] = __float_as_uint(scale);
    }
  }
}

template <class T>
__global__ void rows_from_e4m3_kernel(int64_t n, int64_t h, int64_t blocks, const uint8_t *packed,
                                      T *out, bool quads)
{
  for (ROWS(i, n * blocks)) {
    int64_t row = i / blocks, column = i % blocks * NEAPI_E4M3_BLOCK + threadIdx.x * EACH;
    const uint32_t *from = (const uint32_t *)(packed + i * NEAPI_E4M3_BYTES);
    uint32_t codes = from[threadIdx.x];
    float scale = __uint_as_float(from[WARP]);
    store_quad(restore<T>(codes, scale), out + row * h, column, h, quads);
  }
}

/* ---- launchers ------------------------------------------------------------------------------- */

template <class T>
static int scatter_e4m3(int64_t t, int64_t k, int64_t h, const int32_t *position, const void *x,
                        void *packed, void *s)
{
  int64_t blocks = blocks_of(h);
  if (t && h)
    LAUNCH(blocks_for(t * blocks, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s),
           scatter_e4m3_kernel<T>)
  (t, k, h, blocks, position, (const T *)x, (uint8_t *)packed, in_quads<T>(h, x));
  return launched();
}

template <class T>
static int rows_from_e4m3(int64_t n, int64_t h, const void *packed, void *out, void *s)
{
  int64_t blocks = blocks_of(h);
  if (n && h)
    LAUNCH(blocks_for(n * blocks, ROWS_PER_BLOCK), warp_rows(), 0, stream_of(s),
           rows_from_e4m3_kernel<T>)
  (n, h, blocks, (const uint8_t *)packed, (T *)out, in_quads<T>(h, out));
  return launched();
}

LAUNCHER(scatter_e4m3);
LAUNCHER(rows_from_e4m3);
