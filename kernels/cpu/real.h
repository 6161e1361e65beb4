/* What every CPU kernel file starts with. Each file is compiled once a real type, with
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

/* Every launcher, declared with its type in the table. */
/* clang-format off */
#define LAUNCHERS(X)                                                                               \
  X(gemm) X(gemm_stat) X(gemm_tn) X(experts_forward) X(experts_backward) X(experts_gradients)      \
  X(gather) X(scatter) X(scatter_add)                                                              \
  X(combine) X(combine_backward)                                                                   \
  X(rmsnorm) X(rmsnorm_backward) X(rmsnorm_gain_terms) X(rotary_table) X(rotary)                   \
  X(attention) X(attention_backward) X(fill) X(scale) X(add) X(axpy) X(sum) X(sum_double)          \
  X(swiglu) X(swiglu_backward) X(adamw) X(cross_entropy) X(router) X(router_backward)              \
  X(count_choices) X(place_choices)                                                                \
  X(square_sum) X(max_abs) X(to_double) X(from_double) X(to_stat) X(from_stat)                     \
  X(exact_column_max) X(exact_grid) X(exact_quantise) X(exact_gemm_tn)                             \
  X(exact_column_sum) X(exact_scatter_add) X(exact_square_sum)
/* clang-format on */
#define DECLARE(op) __typeof__(*((neapi_kernels *)0)->op) NAME(op);
LAUNCHERS(DECLARE)
#undef DECLARE

/* Scratch memory of this thread: at least `bytes`, aligned to 64, content undefined, kept from call
 * to call and freed with the thread. A user has a slot of its own. NULL if there is no memory. */
typedef enum {
  SCRATCH_GEMM_A,
  SCRATCH_GEMM_B,
  SCRATCH_ATTENTION,
  SCRATCH_EXACT,
  SCRATCH_PLACES,
  SCRATCH_WIDE, /* operands of bf16 in float: four slots */
  SCRATCH_WIDE_LAST = SCRATCH_WIDE + 3,
  SCRATCHES
} scratch;
void *NAME(scratch)(scratch slot, int64_t bytes);

#endif
