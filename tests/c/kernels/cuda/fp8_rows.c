/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens in FP8 on the GPU: to the bit what plain C makes. */
#include "gpu_test.h"

#include "e4m3.h"

static void test_rows(kernels *k)
{
  enum { K = 3 };
  kernels *plain = k->size == 2 ? neapi_kernels_bf16() : neapi_kernels_f32();
  FOR_SIZES(t, h)
  {
    int64_t bytes = neapi_e4m3_bytes(h), rows = t * K;
    float *host = normals(neapi_kernels_f32(), t * h, 7);
    for (int64_t i = 0; i < t * h; i++)
      host[i] *= i / h == 1 ? 0 : i / h == 2 ? 1e-38f : 1;
    twin x = twin_of(k, host, t * h);
    const void *narrow = to_host(x.device, t * h * k->size);
    int32_t *position = random_order(rows, 8);
    void *packed = device_poisoned(rows * bytes), *out = device_poisoned(rows * h * k->size);
    void *expected = poisoned(rows * bytes), *values = poisoned(rows * h * k->size);
    k->scatter_e4m3(t, K, h, to_device(position, rows * 4), x.device, packed, NULL);
    k->rows_from_e4m3(rows, h, packed, out, NULL);
    plain->scatter_e4m3(t, K, h, position, narrow, expected, NULL);
    plain->rows_from_e4m3(rows, h, expected, values, NULL);
    check_same(to_host(packed, rows * bytes), expected, rows * bytes, "%s, (%d, %d): packed",
               k->name, (int)t, (int)h);
    check_same(to_host(out, rows * h * k->size), values, rows * h * k->size, "%s, (%d, %d): rows",
               k->name, (int)t, (int)h);
  }
}

/* A number that is not finite spoils its block alone. */
static void test_not_finite(kernels *k)
{
  enum { H = 384 };
  float *host = normals(neapi_kernels_f32(), H, 9);
  host[130] = INFINITY;
  int32_t first = 0;
  twin x = twin_of(k, host, H);
  void *packed = device_poisoned(neapi_e4m3_bytes(H)), *out = device_poisoned(H * k->size);
  k->scatter_e4m3(1, 1, H, to_device(&first, 4), x.device, packed, NULL);
  k->rows_from_e4m3(1, H, packed, out, NULL);
  const float *got = fetch(k, out, H);
  for (int i = 0; i < H; i++)
    check((got[i] != got[i]) == (i / 128 == 1), "%s: infinity at 130, %d", k->name, i);
}

int main(void)
{
  if (gpu_absent())
    return 0;
  FOR_TABLES(test_rows);
  FOR_TABLES(test_not_finite);
  return check_done();
}
