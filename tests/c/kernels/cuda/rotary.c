/* SPDX-License-Identifier: Apache-2.0 */
/* Rotary position embedding on the GPU against plain C. */
#include "gpu_test.h"

static kernels *plain;

static void test_rotary(kernels *k)
{
  enum { S = 9, HEADS = 3, D = 10, LD = 37, T = 40 };
  twin table = twin_acc_output(S * D), x = twin_normals(k, T * LD, 1);
  k->rotary_table(S, D, 100, table.device, NULL);
  plain->rotary_table(S, D, 100, table.host, NULL);
  check_acc(k, table, S * D, 1e-6, "rotary_table");
  for (int inverse = 0; inverse < 2; inverse++) {
    k->rotary(T, S, HEADS, D, inverse, table.device, x.device, LD, NULL);
    plain->rotary(T, S, HEADS, D, inverse, table.host, x.host, LD, NULL);
    check_twin(k, x, T * LD, tolerance(k), "rotary");
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_rotary);
  return check_done();
}
