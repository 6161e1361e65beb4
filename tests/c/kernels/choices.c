/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of choices on the CPU: every choice gets the next row of its expert's segments. */
#include "choices.h"

static void check_choices(kernels *k, uint64_t seed)
{
  choices p = random_choices(seed);
  int64_t n = p.tokens * p.k, wrong = 0;
  int64_t *counts = poisoned(p.experts * 8);
  int32_t *position = poisoned(n * 4);
  check(!k->count_choices(n, p.experts, p.ids, counts, NULL), "count_choices");
  check_same(counts, p.counts, p.experts * 8, "%s: counts, seed %d", k->name, (int)seed);
  check(!k->assign_choices(n, p.experts, p.ids, p.first, p.segments, position, NULL),
        "assign_choices");
  for (int64_t e = 0; e < p.experts; e++) {
    int64_t i = 0;
    for (int32_t r = p.first[e]; r < p.first[e + 1]; r++)
      for (int32_t j = 0; j < p.segments[r].rows; j++, i++) {
        while (p.ids[i] != e)
          i++;
        wrong += position[i] != p.segments[r].row + j;
      }
  }
  check(!wrong, "%s: %d wrong rows, seed %d", k->name, (int)wrong, (int)seed);
  release_all();
}

int main(void)
{
  for (uint64_t seed = 0; seed < 40; seed++) {
    check_choices(neapi_kernels_f32(), seed);
    check_choices(neapi_kernels_f64(), seed);
    check_choices(neapi_kernels_bf16(), seed);
  }
  return check_done();
}
