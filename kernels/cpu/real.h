/* SPDX-License-Identifier: Apache-2.0 */
/* What every CPU kernel file starts with. Each file is compiled once per real type, with
 * NEAP_REAL_f32 or NEAP_REAL_f64 defined: real is that type, NAME(op) the type's own symbol.
 *
 * Rules that keep results free of a row's position: no expression is contracted
 * (-ffp-contract=off), so that a loop's vector body and its tail round alike; and sums run over a
 * fixed number of lanes, element i in lane i mod ROW_LANES. */
#ifndef NEAPI_REAL_H
#define NEAPI_REAL_H

#include "kernels.h"

#include <float.h>
#include <stddef.h>
#include <string.h>

#ifdef NEAP_REAL_f64
typedef double real;
typedef int64_t real_bits; /* an integer as wide as a real */
#define NAME(op) neapi_##op##_f64
#define REAL_MAX DBL_MAX
#else
typedef float real;
typedef int32_t real_bits;
#define NAME(op) neapi_##op##_f32
#define REAL_MAX FLT_MAX
#endif

/* Lanes of a sum over a row: several vector registers' worth. */
enum { ROW_LANES = 128 / sizeof(real) };

/* The stream argument, which the CPU does not need. */
#define STREAM __attribute__((unused)) void *stream

#define DECLARE(op) neapi_kernel_##op NAME(op);
NEAPI_KERNELS(DECLARE, DECLARE)
#undef DECLARE

/* Scratch memory of this thread: at least `bytes`, aligned to 64, content undefined, kept from call
 * to call and freed with the thread. A user has a slot of its own. NULL if there is no memory. */
typedef enum {
  SCRATCH_GEMM_A,
  SCRATCH_GEMM_B,
  SCRATCH_ATTENTION,
  SCRATCH_EXACT,
  SCRATCH_CHOICES,
  SCRATCH_WIDE, /* operands of bf16 in float: four slots */
  SCRATCH_WIDE_LAST = SCRATCH_WIDE + 3,
  SCRATCHES
} scratch;
void *NAME(scratch)(scratch slot, int64_t bytes);

#endif
