/* SPDX-License-Identifier: Apache-2.0 */
/* The router on the GPU against plain C. */
#include "gpu_test.h"

static kernels *plain;

static void test_router(kernels *k)
{
  FOR_SIZES(t, e)
  {
    int64_t top = e < 3 ? 1 : 3, choices = t * top;
    twin logits = twin_acc(normals(plain, t * e, 1), t * e), probs = twin_acc_output(t * e);
    twin shares = twin_acc_output(t * e);
    twin weights = twin_acc_output(choices), grads = twin_output(k, t * e);
    twin dlog = twin_acc(normals(plain, choices, 2), choices);
    int32_t *position = random_order(choices, 4),
            *position_there = to_device(position, choices * 4);
    twin dprobs = twin_acc(normals(plain, t * e, 3), t * e);
    int32_t *ids = poisoned(choices * 4), *on_device = device_poisoned(choices * 4);
    int64_t bad, *bad_on_device = device_poisoned(8);
    double *bias = normals(neapi_kernels_f64(), e, 5), *bias_there = to_device(bias, e * 8);
    for (int kind = 0; kind < 4; kind++) { /* odd ones with biases */
      int sigmoid = kind / 2, renormalise = kind % 2;
      k->router(t, e, top, sigmoid, renormalise, kind % 2 ? bias_there : NULL, logits.device,
                probs.device, on_device, weights.device, bad_on_device, NULL);
      plain->router(t, e, top, sigmoid, renormalise, kind % 2 ? bias : NULL, logits.host,
                    probs.host, ids, weights.host, &bad, NULL);
      check_acc(k, probs, t * e, 1e-5, "router probs");
      check_acc(k, weights, choices, 1e-5, "router weights");
      check_same(to_host(on_device, choices * 4), ids, choices * 4, "%s: router ids", k->name);
      check(*(int64_t *)to_host(bad_on_device, 8) == -1, "a token is bad");
      k->router_shares(t, e, probs.device, shares.device, NULL);
      plain->router_shares(t, e, probs.host, shares.host, NULL);
      check_acc(k, shares, t * e, 1e-5, "router shares");
      k->balanced_choices(t, e, top, renormalise, e / 2, probs.device, on_device, weights.device,
                          NULL);
      plain->balanced_choices(t, e, top, renormalise, e / 2, probs.host, ids, weights.host, NULL);
      check_acc(k, weights, choices, 1e-5, "balanced weights");
      check_same(to_host(on_device, choices * 4), ids, choices * 4, "%s: balanced ids", k->name);
      k->router_backward(t, e, top, sigmoid, renormalise, probs.device, on_device, weights.device,
                         position_there, dlog.device, renormalise ? dprobs.device : NULL,
                         grads.device, NULL);
      plain->router_backward(t, e, top, sigmoid, renormalise, probs.host, ids, weights.host,
                             position, dlog.host, renormalise ? dprobs.host : NULL, grads.host,
                             NULL);
      check_twin(k, grads, t * e, tolerance(k), "router_backward");
    }
  }
  float *logits = normals(plain, 5 * 8, 9);
  logits[3 * 8 + 2] = NAN;
  logits[4 * 8] = NAN;
  twin x = twin_acc(logits, 5 * 8), probs = twin_acc_output(5 * 8), w = twin_acc_output(10);
  int32_t *ids = device_poisoned(40);
  int64_t *bad = device_poisoned(8);
  for (int sigmoid = 0; sigmoid < 2; sigmoid++) {
    k->router(5, 8, 2, sigmoid, 1, NULL, x.device, probs.device, ids, w.device, bad, NULL);
    check(*(int64_t *)to_host(bad, 8) == 3, "%s: the bad token is %d", k->name,
          (int)*(int64_t *)to_host(bad, 8));
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_router);
  return check_done();
}
