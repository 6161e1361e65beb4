/* SPDX-License-Identifier: Apache-2.0 */
/* Synthetic loads: counts of tokens around given popularities of experts. The model is described in
 * lua/neap/engine/synth.lua, which owns the popularities. */
#include "base/random.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

static const double ALMOST_ALL = 0.999999; /* of a rank's tokens: no expert gets more at first */

/* Mean 0, variance 1, from the sum of four uniform numbers: close to normal within 2 deviations,
 * which is enough for the noise of counting. */
static double count_noise(uint64_t key, uint64_t index)
{
  uint64_t bits = neapi_random_mix(key + (index + 1) * 0x9e3779b97f4a7c15u), sum = 0;
  for (int32_t i = 0; i < 4; i++)
    sum += bits >> (16 * i) & 0xffff;
  return ((double)sum - 2 * 65535.0) / (65536.0 / sqrt(3.0));
}

/* Scales share[experts] so that it adds up to total with no value above 1. */
static void cut(double *share, int32_t experts, double total)
{
  for (int32_t round = 0; round < experts; round++) {
    double sum = 0;
    int32_t full = 0;
    for (int32_t e = 0; e < experts; e++)
      if (share[e] < 1)
        sum += share[e];
      else
        full++;
    if (sum == 0)
      return;
    double scale = (total - full) / sum;
    bool over = false;
    for (int32_t e = 0; e < experts; e++)
      if (share[e] < 1) {
        share[e] = fmin(1, share[e] * scale);
        over = over || share[e] == 1;
      }
    if (!over)
      return;
  }
}

/* Adds what is missing to the counts with the largest shares that can have more, or takes it
 * away. */
static void distribute(double *share, int64_t *row, int32_t experts, int64_t tokens,
                       int64_t missing)
{
  while (missing) {
    int32_t best = -1;
    for (int32_t e = 0; e < experts; e++)
      if ((missing > 0 ? tokens - row[e] : row[e]) > 0 && (best < 0 || share[e] > share[best]))
        best = e;
    int64_t limit = missing > 0 ? tokens - row[best] : -row[best];
    int64_t change =
        missing > 0 ? (missing < limit ? missing : limit) : (missing > limit ? missing : limit);
    row[best] += change;
    share[best] = -1;
    missing -= change;
  }
}

/* The tokens of one rank, whose first cell has the number cell. */
static void fill(const neap_synth *s, const double *popularity, uint64_t cell, double *share,
                 int64_t *row)
{
  uint64_t noise_key = neapi_random_key(s->seed, s->stream + 1);
  double sum = 0;
  int64_t total = 0;
  for (int32_t e = 0; e < s->experts; e++) {
    double noise = s->tau * neap_random_normal(s->seed, s->stream, cell + (uint64_t)e);
    sum += share[e] = exp(popularity[e] + noise);
  }
  for (int32_t e = 0; e < s->experts; e++)
    share[e] = fmin(ALMOST_ALL, share[e] * s->top_k / sum);
  cut(share, s->experts, s->top_k);
  for (int32_t e = 0; e < s->experts; e++) {
    double mean = (double)s->tokens * share[e], spread = sqrt(mean * (1 - share[e]));
    double count = floor(mean + spread * count_noise(noise_key, cell + (uint64_t)e) + 0.5);
    row[e] = (int64_t)fmax(0, fmin((double)s->tokens, count));
    total += row[e];
  }
  distribute(share, row, s->experts, s->tokens, s->tokens * s->top_k - total);
}

int neap_synth_load(const neap_synth *s, const double *popularity, int64_t step, int64_t *load)
{
  if (s->ranks < 1 || s->experts < 1 || s->top_k < 1 || s->top_k > s->experts || s->tokens < 0)
    return neapi_fail(NEAP_ARGUMENT, "synth: %d ranks, %d experts, top %d, %lld tokens", s->ranks,
                      s->experts, s->top_k, (long long)s->tokens);
  double *share = neapi_alloc(8ll * s->experts, "synth");
  if (!share)
    return NEAP_MEMORY;
  for (int32_t r = 0; r < s->ranks; r++) {
    uint64_t cell = ((uint64_t)step * (uint64_t)s->ranks + (uint64_t)r) * (uint64_t)s->experts;
    fill(s, popularity, cell, share, load + (int64_t)r * s->experts);
  }
  free(share);
  return NEAP_OK;
}
