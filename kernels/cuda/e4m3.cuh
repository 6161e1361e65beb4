/* SPDX-License-Identifier: Apache-2.0 */
/* What a thread of a warp has of a block of 128 numbers in FP8: 4 of them, moved at once. */
#ifndef NEAPI_E4M3_CUH
#define NEAPI_E4M3_CUH

#include "cuda.cuh"

#include "e4m3.h"

enum { EACH = NEAPI_E4M3_BLOCK / WARP };

template <class T> struct alignas(EACH * sizeof(T)) quad {
  T at[EACH];
};

template <class T> static bool holds_quads(const void *x)
{
  return (uintptr_t)x % sizeof(quad<T>) == 0;
}

/* quads: x is aligned to them. Numbers from limit on are 0. */
template <class T>
static __device__ quad<T> load_quad(const T *x, int64_t at, int64_t limit, bool quads)
{
  quad<T> mine = {};
  if (quads && at + EACH <= limit)
    return *(const quad<T> *)(x + at);
  for (int j = 0; j < EACH; j++)
    mine.at[j] = at + j < limit ? x[at + j] : real_of<T>(0.0f);
  return mine;
}

template <class T>
static __device__ void store_quad(quad<T> mine, T *out, int64_t at, int64_t limit, bool quads)
{
  if (quads && at + EACH <= limit) {
    *(quad<T> *)(out + at) = mine;
    return;
  }
  for (int j = 0; j < EACH && at + j < limit; j++)
    out[at + j] = mine.at[j];
}

/* The whole warp's block: codes of this thread's numbers, and the scale. */
template <class T> static __device__ uint32_t quantise(quad<T> mine, float *scale)
{
  float largest = 0;
  bool finite = true;
  for (int j = 0; j < EACH; j++) {
    float magnitude = fabsf((float)to_float(mine.at[j]));
    finite = finite && magnitude <= FLT_MAX;
    largest = fmaxf(largest, magnitude);
  }
  largest = warp_max(largest);
  *scale = __all_sync(~0u, finite) ? neapi_e4m3_scale(largest) : NAN;
  uint32_t codes = 0;
  for (int j = 0; j<EACH && * scale> 0; j++)
    codes |= (uint32_t)neapi_e4m3_of(__fdiv_rn(to_float(mine.at[j]), *scale)) << 8 * j;
  return codes;
}

template <class T> static __device__ quad<T> restore(uint32_t codes, float scale)
{
  quad<T> mine;
  for (int j = 0; j < EACH; j++)
    mine.at[j] = real_of<T>(__fmul_rn(neapi_e4m3_value((uint8_t)(codes >> 8 * j)), scale));
  return mine;
}

#endif
