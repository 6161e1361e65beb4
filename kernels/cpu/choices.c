/* SPDX-License-Identifier: Apache-2.0 */
/* Choices of tokens: how many an expert has, and which row each is assigned. */
#include "real.h"

int NAME(count_choices)(int64_t n, int64_t e, const int32_t *ids, int64_t *counts, STREAM)
{
  memset(counts, 0, (size_t)e * sizeof *counts);
  for (int64_t i = 0; i < n; i++)
    counts[ids[i]]++;
  return NEAPI_KERNEL_OK;
}

int NAME(assign_choices)(int64_t n, int64_t e, const int32_t *ids, const int32_t *first,
                         const neapi_segment *segments, int32_t *position, STREAM)
{
  /* Of every expert: the segment that is being filled, and the next one. */
  neapi_segment *now = NAME(scratch)(SCRATCH_CHOICES, e * (int64_t)(sizeof *now + sizeof(int32_t)));
  if (!now)
    return NEAPI_KERNEL_MEMORY;
  int32_t *next = (int32_t *)(now + e);
  memset(now, 0, (size_t)e * sizeof *now);
  memcpy(next, first, (size_t)e * sizeof *next);
  for (int64_t i = 0; i < n; i++) {
    neapi_segment *segment = &now[ids[i]];
    while (!segment->rows)
      *segment = segments[next[ids[i]]++];
    segment->rows--;
    position[i] = segment->row++;
  }
  return NEAPI_KERNEL_OK;
}
