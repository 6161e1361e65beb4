/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the CPU's bf16 table share. A bf16 is the upper half of a float. Operands are
 * widened into scratch memory of this thread, float's launcher computes, and what goes to a real is
 * rounded. Since that launcher keeps a row free of its position, so does this. */
#ifndef NEAPI_BF16_H
#define NEAPI_BF16_H

#include "../real.h"

#include <math.h>

typedef uint16_t bf16;

static inline float widen(bf16 x)
{
  uint32_t bits = (uint32_t)x << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

/* To nearest even; a NaN stays one. */
static inline bf16 narrow(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  return (bf16)((x == x ? rounded : bits | 0x400000) >> 16);
}

/* Scratch slots of a launcher; the last is what it writes, where it needs all of them. */
enum { FIRST, SECOND, THIRD, FOURTH };

static inline float *neapi_bf16_scratch(int slot, int64_t n)
{
  return neapi_scratch_f32(SCRATCH_WIDE + slot, n * (int64_t)sizeof(float));
}

/* Rows of ldx elements, of which the first columns are used, as a dense (rows, columns) in float;
 * NULL if there is no memory. */
static inline float *widen_rows(int slot, int64_t rows, int64_t columns, const void *x_,
                                int64_t ldx)
{
  float *wide = neapi_bf16_scratch(slot, rows * columns);
  for (int64_t i = 0; wide && i < rows; i++) {
    const bf16 *x = (const bf16 *)x_ + i * ldx;
    for (int64_t j = 0; j < columns; j++)
      wide[i * columns + j] = widen(x[j]);
  }
  return wide;
}

static inline float *widen_all(int slot, int64_t n, const void *x)
{
  return widen_rows(slot, 1, n, x, n);
}

static inline void narrow_rows(int64_t rows, int64_t columns, const float *wide, void *out_,
                               int64_t ldo)
{
  for (int64_t i = 0; i < rows; i++) {
    bf16 *out = (bf16 *)out_ + i * ldo;
    for (int64_t j = 0; j < columns; j++)
      out[j] = narrow(wide[i * columns + j]);
  }
}

/* The end of a launcher: rounds what float's has written, if it went well. */
static inline int narrow_all(int status, int64_t n, const float *wide, void *out)
{
  if (!status)
    narrow_rows(1, n, wide, out, n);
  return status;
}

#define BF16(op) neapi_##op##_bf16
#define FLOAT(op) neapi_##op##_f32

#define DECLARE(op) neapi_kernel_##op BF16(op);
#define IS_FLOATS(op)
NEAPI_KERNELS(DECLARE, IS_FLOATS)
#undef DECLARE
#undef IS_FLOATS

#endif
