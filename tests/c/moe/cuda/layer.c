/* SPDX-License-Identifier: Apache-2.0 */
/* The distributed layer on a GPU that the ranks share: against the dense one, and, to the bit,
 * against itself under other layouts, splits, transfers and numbers of ranks. */
#include "moe/layer_run.h"

static const int dtypes[] = {NEAP_F32, NEAP_BF16};

static void test_small(int models)
{
  for (int i = 0; i < models; i++) {
    dice d = {(uint64_t)i + 9000, 0};
    scene s = {.seed = d.seed,
               .dtype = dtypes[i % 2],
               .exact = i / 2 % 2,
               .travel = i % 3 == 0,
               .gpu = true};
    make_model(&s, &d, 64);
    check_spreads(&s, &d, true);
  }
}

/* Sizes whose products cuBLAS takes where it is found, and sizes that it does not. */
static void test_large(void)
{
  static const int64_t hidden[] = {256, 270};
  for (int i = 0; i < 8; i++) {
    dice d = {9900 + (uint64_t)i, 0};
    scene s = {.seed = d.seed,
               .dtype = dtypes[i % 2],
               .exact = i / 4,
               .travel = i / 2 % 2 != i / 4,
               .gpu = true};
    int64_t h = hidden[i / 2 % 2];
    s.model = (dense){
        .t = 350, .h = h, .k = 2, .aux = 0.1, .e = 3, .ffn = {64, h == 256 ? 128 : 33, 192}};
    fill_model(&s);
    check_spreads(&s, &d, true);
  }
}

int main(void)
{
  if (!neap_device_count()) {
    printf("skipped: no GPU\n0 passed, 0 failed\n");
    return 0;
  }
  check_ok(neap_device_use(0));
  test_small(8);
  test_large();
  return check_done();
}
