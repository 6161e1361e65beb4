/* SPDX-License-Identifier: Apache-2.0 */
/* FP8 as it travels on the GPU: to the bit what plain C makes, at any number of numbers. */
#include "gpu_test.h"

#include "e4m3.h"

static void test_packed(kernels *k)
{
  static const int64_t sizes[] = {0, 1, 5, 127, 128, 129, 1000, 70001};
  kernels *plain = k->size == 2 ? neapi_kernels_bf16() : neapi_kernels_f32();
  for (int s = 0; s < 8; s++) {
    int64_t n = sizes[s], bytes = neapi_e4m3_bytes(n);
    float *x = normals(neapi_kernels_f32(), n, 11);
    for (int64_t i = 0; i < n; i++)
      x[i] *= i / 128 == 1 ? 0 : i / 128 == 2 ? 1e-38f : i == 900 ? INFINITY : 1;
    void *packed = device_poisoned(bytes), *out = device_poisoned(n * k->size);
    void *expected = poisoned(bytes), *values = poisoned(n * k->size);
    k->to_e4m3(n, to_device(x, n * 4), packed, NULL);
    k->from_e4m3(n, packed, out, NULL);
    plain->to_e4m3(n, x, expected, NULL);
    plain->from_e4m3(n, expected, values, NULL);
    const uint8_t *got = to_host(packed, bytes);
    for (int64_t block = 0; block < bytes / NEAPI_E4M3_BYTES; block++) {
      if (block == 900 / 128)
        continue; /* NaNs need not have the same bits */
      const uint8_t *wanted = (uint8_t *)expected + block * NEAPI_E4M3_BYTES;
      check_same(got + block * NEAPI_E4M3_BYTES, wanted, NEAPI_E4M3_BYTES, "%s: block %d of %d",
                 k->name, (int)block, (int)n);
    }
    int64_t before = n < 896 ? n : 896;
    check_same(to_host(out, n * k->size), values, before * k->size, "%s: %d numbers", k->name,
               (int)n);
  }
}

int main(void)
{
  if (gpu_absent())
    return 0;
  FOR_TABLES(test_packed);
  return check_done();
}
