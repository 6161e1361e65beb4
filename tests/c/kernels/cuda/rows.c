/* SPDX-License-Identifier: Apache-2.0 */
/* Rows by index on the GPU against plain C. */
#include "gpu_test.h"

static kernels *plain;

static void test_moves(kernels *k)
{
  FOR_SIZES(t, h)
  {
    twin x = twin_normals(k, 150 * h, 1), y = twin_output(k, t * h);
    int32_t *ids = random_ids(t, 150, 2), *on_device = to_device(ids, t * 4);
    k->gather(t, h, on_device, x.device, y.device, NULL);
    plain->gather(t, h, ids, x.host, y.host, NULL);
    check_twin(k, y, t * h, 0, "gather");
    twin z = twin_normals(k, 300 * h, 3);
    twin sum = twin_acc(normals(plain, 150 * h, 4), 150 * h);
    int32_t *order = random_order(300, 5);
    k->scatter(t, 2, h, NULL, to_device(order, 1200), y.device, z.device, NULL);
    plain->scatter(t, 2, h, NULL, order, y.host, z.host, NULL);
    check_twin(k, z, 300 * h, 0, "scatter");
    for (int64_t i = 0; i < t; i++)
      ids[i] %= 7;
    k->scatter_add(t, h, to_device(ids, t * 4), y.device, sum.device, NULL);
    plain->scatter_add(t, h, ids, y.host, sum.host, NULL);
    check_acc(k, sum, 150 * h, 2e-5, "scatter_add");
  }
}

static void test_combine(kernels *k)
{
  enum { K = 3 };
  FOR_SIZES(t, h)
  {
    twin x = twin_normals(k, t * K * h, 1), dy = twin_normals(k, t * h, 2);
    twin weights = twin_acc(normals(plain, t * K, 3), t * K), dots = twin_acc_output(t);
    twin y = twin_output(k, t * h), dx = twin_output(k, t * K * h);
    int32_t *position = random_order(t * K, 4), *on_device = to_device(position, t * K * 4);
    for (int weighted = 0; weighted < 2; weighted++) {
      k->combine(t, K, h, weighted ? weights.device : NULL, on_device, x.device, y.device, NULL);
      plain->combine(t, K, h, weighted ? weights.host : NULL, position, x.host, y.host, NULL);
      check_twin(k, y, t * h, tolerance(k), "combine");
    }
    k->scatter(t, K, h, weights.device, on_device, dy.device, dx.device, NULL);
    plain->scatter(t, K, h, weights.host, position, dy.host, dx.host, NULL);
    check_twin(k, dx, t * K * h, tolerance(k), "scatter with weights");
    k->row_dots(t, h, x.device, dy.device, dots.device, NULL);
    plain->row_dots(t, h, x.host, dy.host, dots.host, NULL);
    check_acc(k, dots, t, 2e-5, "row_dots");
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_moves);
  FOR_TABLES(test_combine);
  return check_done();
}
