/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding of bf16. */
#include "bf16.h"

int BF16(rotary)(int64_t t, int64_t s, int64_t heads, int64_t d, int inverse, const void *table,
                 void *x, int64_t ldx, STREAM)
{
  int64_t width = heads * d;
  float *wide = widen_rows(FIRST, t, width, x, ldx);
  int status =
      wide ? FLOAT(rotary)(t, s, heads, d, inverse, table, wide, width, NULL) : NEAPI_KERNEL_MEMORY;
  if (!status)
    narrow_rows(t, width, wide, x, ldx);
  return status;
}
