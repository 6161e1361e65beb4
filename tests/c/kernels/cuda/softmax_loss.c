/* SPDX-License-Identifier: Apache-2.0 */
/* Cross-entropy on the GPU against plain C. */
#include "gpu_test.h"

static kernels *plain;

static void test_loss(kernels *k)
{
  FOR_SIZES(t, h)
  {
    twin logits = twin_acc(normals(plain, t * h, 1), t * h), grads = twin_output(k, t * h);
    twin loss = twin_acc_output(t);
    int32_t *target = random_ids(t, h, 2);
    for (int64_t i = 0; i < t; i += 5)
      target[i] = -1;
    int32_t *on_device = to_device(target, t * 4);
    k->cross_entropy(t, h, 0.5, logits.device, on_device, loss.device, grads.device, NULL);
    plain->cross_entropy(t, h, 0.5, logits.host, target, loss.host, grads.host, NULL);
    check_acc(k, loss, t, 1e-5, "cross_entropy");
    check_twin(k, grads, t * h, tolerance(k), "cross_entropy grad");
    if (k->size != k->acc_size)
      continue;
    k->cross_entropy(t, h, 0.5, logits.device, on_device, NULL, logits.device, NULL);
    check_equal(logits.device, grads.device, t * h * k->size, "cross_entropy in place differs", k);
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_loss);
  return check_done();
}
