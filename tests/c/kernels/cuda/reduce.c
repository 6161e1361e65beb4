/* SPDX-License-Identifier: Apache-2.0 */
/* Sums and maxima of whole arrays on the GPU against plain C. */
#include "gpu_test.h"

static void test_reduce(kernels *k)
{
  for (int size = 0; size < WIDTHS; size++) {
    int64_t n = widths[size] * 1000 - 3;
    twin x = twin_normals(k, n, 5);
    double *out = device_poisoned(16), expected[2];
    k->square_sum(n, x.device, out, NULL);
    k->max_abs(n, x.device, out + 1, NULL);
    neapi_kernels_f32()->square_sum(n, x.host, &expected[0], NULL);
    neapi_kernels_f32()->max_abs(n, x.host, &expected[1], NULL);
    double *got = to_host(out, 16);
    check_close(got[0] / expected[0], 1, 1e-12, "square_sum");
    check_close(got[1], expected[1], 0, "max_abs");
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  FOR_TABLES(test_reduce);
  return check_done();
}
