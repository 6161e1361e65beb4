/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise operations, sums of arrays and conversions on the GPU against plain C. */
#include "gpu_test.h"

#include <refusal.h>

static kernels *plain;

static void test_elementwise(kernels *k)
{
  FOR_SIZES(t, h)
  {
    int64_t n = t * h;
    twin a = twin_normals(k, n, 1), b = twin_normals(k, n, 2), out = twin_output(k, n);
    k->add(n, a.device, b.device, out.device, NULL);
    plain->add(n, a.host, b.host, out.host, NULL);
    check_twin(k, out, n, tolerance(k), "add");
    k->fill(n, 0.375, out.device, NULL);
    plain->fill(n, 0.375, out.host, NULL);
    check_twin(k, out, n, 0, "fill");
    twin gu = twin_normals(k, 2 * n, 3), dh = twin_normals(k, n, 4), dgu = twin_output(k, 2 * n);
    k->swiglu(t, h, gu.device, out.device, NULL);
    plain->swiglu(t, h, gu.host, out.host, NULL);
    check_twin(k, out, n, tolerance(k), "swiglu");
    k->swiglu_backward(t, h, gu.device, dh.device, dgu.device, NULL);
    plain->swiglu_backward(t, h, gu.host, dh.host, dgu.host, NULL);
    check_twin(k, dgu, 2 * n, tolerance(k), "swiglu_backward");
    double *wide = device_poisoned(n * 8);
    k->to_double(n, a.device, wide, NULL);
    k->from_double(n, wide, out.device, NULL);
    memcpy(out.host, a.host, (size_t)n * 4);
    check_twin(k, out, n, 0, "to double and back");
    twin acc = twin_acc(normals(plain, n, 6), n), same = twin_output(k, n);
    k->from_acc(n, acc.device, same.device, NULL);
    memcpy(same.host, acc.host, (size_t)n * 4);
    check_twin(k, same, n, k->size == 4 ? 0 : 0x1p-8, "from acc");
    k->to_acc(n, a.device, acc.device, NULL);
    memcpy(acc.host, a.host, (size_t)n * 4);
    check_acc(k, acc, n, 0, "to acc");
  }
}

static void test_sums(kernels *k)
{
  enum { PARTS = 70, N = 131 };
  const void *on_host[PARTS], *on_device[PARTS];
  for (int i = 0; i < PARTS; i++) {
    twin part = twin_normals(k, N, (uint64_t)i);
    on_host[i] = part.host;
    on_device[i] = part.device;
  }
  static const int counts[] = {1, 3, PARTS};
  for (int i = 0; i < 3; i++) {
    twin out = twin_output(k, N);
    k->sum(N, counts[i], on_device, out.device, NULL);
    plain->sum(N, counts[i], on_host, out.host, NULL);
    check_twin(k, out, N, tolerance(k), "sum");
  }
}

static void test_adamw(kernels *k)
{
  enum { N = 1003 };
  neapi_adamw step = {1e-2, 0.9, 0.95, 1e-8, 0.1, 0.1, 0.05, 0.5};
  twin grad = twin_acc(normals(plain, N, 1), N), param = twin_acc(normals(plain, N, 2), N);
  twin m = twin_acc(normals(plain, N, 3), N), v = twin_acc(normals(plain, N, 4), N);
  for (int i = 0; i < N; i++)
    v.host[i] = fabsf(v.host[i]);
  v = twin_acc(v.host, N);
  k->adamw(N, &step, grad.device, param.device, m.device, v.device, NULL);
  plain->adamw(N, &step, grad.host, param.host, m.host, v.host, NULL);
  check_acc(k, param, N, 1e-6, "adamw");
  check_acc(k, m, N, 1e-6, "adamw m");
  check_acc(k, v, N, 1e-6, "adamw v");
}

/* A launch that no GPU can make is told with kernel, GPU, grid and CUDA's words; the next one is
 * made.
 */
static void test_refusal(kernels *k)
{
  twin x = twin_output(k, 8);
  int64_t bad = -(1 << 20);
  check(k->fill(bad, 0.5, x.device, NULL) == NEAPI_KERNEL_DEVICE, "%s: fill of %d", k->name,
        (int)bad);
  const char *text = neapi_kernels_cuda_refusal();
  check(strstr(text, "GPU 0 (") && strstr(text, "kernel map_kernel<") &&
            strstr(text, " x 1 x 1 of 256") && strstr(text, "(cudaErrorInvalid"),
        "%s: said is '%s'", k->name, text);
  check(!k->fill(8, 0.5, x.device, NULL), "%s: fill after a refusal", k->name);
  for (int i = 0; i < 8; i++)
    x.host[i] = 0.5f;
  check_twin(k, x, 8, 0, "fill after a refusal");
}

int main(void)
{
  if (gpu_absent())
    return 0;
  plain = neapi_kernels_f32();
  FOR_TABLES(test_elementwise);
  FOR_TABLES(test_sums);
  FOR_TABLES(test_refusal);
  FOR_TABLES(test_adamw);
  return check_done();
}
