/* SPDX-License-Identifier: Apache-2.0 */
/*
 * e4m3.h: FP8 as it travels, the same on both sides of a launch.
 *
 * E4M3 (Micikevicius et al. 2022, arXiv 2209.05433): a sign, 4 bits of exponent with bias 7, 3 of
 * mantissa; largest 448, least normal 2^-6, steps of 2^-9 below; no infinities, NaN is 0x7f or
 * 0xff. Numbers stand in blocks of 128, each with a scale in F32: x is code times scale, scale the
 * largest |x| / 448 (DeepSeek-V3, arXiv 2412.19437, 1 x 128). A block is 128 codes and then its
 * scale; the codes past the last number are 0. A block with a number that is not finite is NaN.
 */
#ifndef NEAPI_E4M3_H
#define NEAPI_E4M3_H

#include "kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { NEAPI_E4M3_BLOCK = 128, NEAPI_E4M3_BYTES = NEAPI_E4M3_BLOCK + 4 };

/* Bytes of so many numbers. */
NEAPI_BOTH_SIDES static inline int64_t neapi_e4m3_bytes(int64_t n)
{
  return (n + NEAPI_E4M3_BLOCK - 1) / NEAPI_E4M3_BLOCK * NEAPI_E4M3_BYTES;
}

/* The scale of a block whose largest |x| is so much; at least the least normal number, so that a
 * quotient stays below 448; 0 for zeros. */
NEAPI_BOTH_SIDES static inline float neapi_e4m3_scale(double largest)
{
  if (!(largest <= FLT_MAX))
    return NAN;
  float scale = (float)largest / 448;
  return largest == 0 ? 0 : scale < FLT_MIN ? FLT_MIN : scale;
}

/* To nearest even; saturates at 448. x: no NaN. */
NEAPI_BOTH_SIDES static inline uint8_t neapi_e4m3_of(float x)
{
  uint32_t bits, code;
  memcpy(&bits, &x, sizeof bits);
  uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  if (magnitude < 121u << 23) /* below 2^-6 */
    code = (uint32_t)rintf(fabsf(x) * 512);
  else
    code = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
  return (uint8_t)(sign | (code < 0x7e ? code : 0x7e));
}

NEAPI_BOTH_SIDES static inline float neapi_e4m3_value(uint8_t code)
{
  uint32_t low = (uint32_t)(code & 0x7f) << 20,
           bits = (code & 0x78 ? 120u << 23 : 121u << 23) + low;
  float value;
  memcpy(&value, &bits, sizeof value);
  if (!(code & 0x78)) /* 2^-6 (1 + mantissa / 8), which has no first digit to go */
    value -= 0.015625f;
  if ((code & 0x7f) == 0x7f)
    value = NAN;
  return code & 0x80 ? -value : value;
}

#endif
