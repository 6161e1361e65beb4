/* SPDX-License-Identifier: Apache-2.0 */
/* Random choices and segments for them: what the tests of both devices assign. */
#ifndef NEAP_CHOICES_H
#define NEAP_CHOICES_H

#include "kernel_test.h"

typedef struct {
  int64_t tokens, k, experts;
  int32_t *ids;   /* (T, K) */
  int32_t *first; /* (E + 1) */
  neapi_segment
      *segments;   /* up to three per expert, some empty; rows and entries in another order */
  int64_t *counts; /* (E) */
} choices;

static inline choices random_choices(uint64_t seed)
{
  choices p = {seed ? pick(seed, 1, 1, 900) : 0,
               pick(seed, 2, 1, 8),
               pick(seed, 3, 8, 140),
               NULL,
               NULL,
               NULL,
               NULL};
  int64_t n = p.tokens * p.k;
  p.ids = random_ids(n, pick(seed, 4, 0, 1) ? p.experts : 8, seed);
  p.first = poisoned((p.experts + 1) * 4);
  p.segments = poisoned(3 * p.experts * (int64_t)sizeof *p.segments);
  p.counts = poisoned(p.experts * 8);
  memset(p.counts, 0, (size_t)p.experts * 8);
  for (int64_t i = 0; i < n; i++)
    p.counts[p.ids[i]]++;
  int32_t count = 0, row = 0;
  for (int64_t e = 0; e < p.experts; e++) {
    int32_t left = (int32_t)p.counts[e];
    p.first[e] = count;
    for (int32_t replicas = (int32_t)pick(seed, 10 + (uint64_t)e, 1, 3); replicas; replicas--) {
      int32_t rows = replicas == 1 ? left : (int32_t)pick(seed, 500 + (uint64_t)count, 0, left);
      p.segments[count++] = (neapi_segment){rows, row};
      row += rows + 2;
      left -= rows;
    }
  }
  p.first[p.experts] = count;
  return p;
}

#endif
