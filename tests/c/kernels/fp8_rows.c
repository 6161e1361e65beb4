/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens in FP8: every row as a row of numbers alone, wherever it stands. */
#include "kernel_test.h"

#include "e4m3.h"

enum { T = 7, K = 3, R = T * K };

/* Numbers of the table's real, normal but for blocks of zeros and of small ones. */
static void *tokens(kernels *k, kernels *acc, int64_t h)
{
  void *wide = normals(acc, T * h, 5), *x = reals(k, T * h);
  for (int64_t i = 0; i < T * h; i++)
    put(acc, wide, i, get(acc, wide, i) * (i / h == 1 ? 0 : i / h == 2 ? 1e-30 : 1));
  k->from_acc(T * h, wide, x, NULL);
  return x;
}

static void test_rows(kernels *k, kernels *acc)
{
  static const int64_t widths[] = {1, 20, 127, 128, 129, 270, 512};
  for (int s = 0; s < 7; s++) {
    int64_t h = widths[s], bytes = neapi_e4m3_bytes(h);
    int32_t *position = random_order(R, 6);
    void *x = tokens(k, acc, h), *wide = reals(acc, h), *alone = poisoned(bytes);
    uint8_t *packed = poisoned(R * bytes);
    void *out = reals(k, R * h), *row = reals(k, h);
    k->scatter_e4m3(T, K, h, position, x, packed, NULL);
    k->rows_from_e4m3(R, h, packed, out, NULL);
    for (int64_t i = 0; i < R; i++) {
      k->to_acc(h, at(k, x, i / K * h), wide, NULL);
      k->to_e4m3(h, wide, alone, NULL);
      check_same(packed + position[i] * bytes, alone, bytes, "%s, %d wide: choice %d", k->name,
                 (int)h, (int)i);
      k->from_e4m3(h, alone, row, NULL);
      check_same(at(k, out, position[i] * h), row, h * k->size, "%s, %d wide: row %d", k->name,
                 (int)h, position[i]);
    }
  }
}

static void test_none(kernels *k)
{
  uint8_t before[4] = {1, 2, 3, 4}, after[4] = {1, 2, 3, 4};
  check(k->scatter_e4m3(0, K, 5, NULL, NULL, after, NULL) == NEAPI_KERNEL_OK, "no tokens");
  check(k->rows_from_e4m3(0, 5, NULL, after, NULL) == NEAPI_KERNEL_OK, "no rows");
  check_same(after, before, sizeof after, "%s: nothing is written", k->name);
}

int main(void)
{
  kernels *tables[] = {neapi_kernels_f32(), neapi_kernels_f64(), neapi_kernels_bf16()};
  for (int i = 0; i < 3; i++) {
    test_rows(tables[i], tables[i]->acc_size == 8 ? neapi_kernels_f64() : neapi_kernels_f32());
    test_none(tables[i]);
  }
  release_all();
  return check_done();
}
