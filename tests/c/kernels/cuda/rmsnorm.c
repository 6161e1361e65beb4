/* SPDX-License-Identifier: Apache-2.0 */
/* Root mean square normalisation on the GPU against plain C. */
#include "gpu_test.h"

static kernels *plain;

static void test_norm(kernels *k)
{
  FOR_SIZES(t, h)
  {
    twin x = twin_normals(k, t * h, 1), gain = twin_normals(k, h, 2),
         dy = twin_normals(k, t * h, 3);
    twin y = twin_output(k, t * h), rstd = twin_acc_output(t), dx = twin_output(k, t * h);
    twin dgain = twin_acc(normals(plain, h, 4), h), terms = twin_acc_output(t * h);
    k->rmsnorm(t, h, x.device, gain.device, 1e-5, y.device, rstd.device, NULL);
    plain->rmsnorm(t, h, x.host, gain.host, 1e-5, y.host, rstd.host, NULL);
    check_twin(k, y, t * h, tolerance(k), "rmsnorm");
    check_acc(k, rstd, t, 1e-5, "rstd");
    k->rmsnorm_backward(t, h, x.device, gain.device, rstd.device, dy.device, dx.device,
                        dgain.device, NULL);
    plain->rmsnorm_backward(t, h, x.host, gain.host, rstd.host, dy.host, dx.host, dgain.host, NULL);
    check_twin(k, dx, t * h, tolerance(k), "rmsnorm dx");
    check_acc(k, dgain, h, 2e-5, "rmsnorm dgain");
    k->rmsnorm_gain_terms(t, h, x.device, rstd.device, dy.device, terms.device, NULL);
    plain->rmsnorm_gain_terms(t, h, x.host, rstd.host, dy.host, terms.host, NULL);
    check_acc(k, terms, t * h, 2e-5, "gain terms");
    void *one = device_poisoned(h * k->size), *scale = device_poisoned(4);
    for (int64_t i = 0; i < t; i += 61) {
      k->rmsnorm(1, h, at(k, x.device, i * h), gain.device, 1e-5, one, scale, NULL);
      check_equal(one, at(k, y.device, i * h), h * k->size, "rmsnorm: a row alone differs", k);
    }
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_norm);
  return check_done();
}
