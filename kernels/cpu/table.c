/* SPDX-License-Identifier: Apache-2.0 */
/* The table of the CPU's launchers for one real type. */
#include "real.h"

#define ENTRY(op) .op = NAME(op),

const neapi_kernels *NAME(kernels)(void)
{
  static const neapi_kernels table = {.name = sizeof(real) == 8 ? "f64" : "f32",
                                      .size = sizeof(real),
                                      .acc_size = sizeof(real),
                                      NEAPI_KERNELS(ENTRY, ENTRY)};
  return &table;
}
