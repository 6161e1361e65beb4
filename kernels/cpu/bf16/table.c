/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU's table for bf16. */
#include "bf16.h"

#define ENTRY(op) .op = BF16(op),
#define FLOAT_ENTRY(op) .op = FLOAT(op),

const neapi_kernels *neapi_kernels_bf16(void)
{
  static const neapi_kernels table = {.name = "bf16",
                                      .size = sizeof(bf16),
                                      .acc_size = sizeof(float),
                                      NEAPI_KERNELS(ENTRY, FLOAT_ENTRY)};
  return &table;
}
