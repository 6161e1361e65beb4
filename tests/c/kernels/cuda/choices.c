/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of choices on the GPU: those of the CPU. With "small" fewer, for sanitizers. */
#include "kernels/choices.h"
#include "gpu_test.h"

static uint64_t seeds = 40;

static void check_choices(kernels *k, uint64_t seed)
{
  choices p = random_choices(seed);
  int64_t n = p.tokens * p.k;
  int32_t *position = poisoned(n * 4);
  neapi_kernels_f32()->assign_choices(n, p.experts, p.ids, p.first, p.segments, position, NULL);
  int32_t *ids = to_device(p.ids, n * 4), *near_position = device_poisoned(n * 4);
  int64_t *counts = device_poisoned(p.experts * 8);
  check(!k->count_choices(n, p.experts, ids, counts, NULL), "count_choices");
  check(!k->assign_choices(n, p.experts, ids, p.first, p.segments, near_position, NULL),
        "assign_choices");
  check_same(to_host(counts, p.experts * 8), p.counts, p.experts * 8, "counts, seed %d", (int)seed);
  check_same(to_host(near_position, n * 4), position, n * 4, "position, seed %d", (int)seed);
  release_everything();
}

static void test_choices(kernels *k)
{
  for (uint64_t seed = 0; seed < seeds; seed++)
    check_choices(k, seed);
}

int main(int argc, char **argv)
{
  if (gpu_absent())
    return 0;
  if (argc > 1 && !strcmp(argv[1], "small"))
    seeds = 8;
  FOR_TABLES(test_choices);
  return check_done();
}
