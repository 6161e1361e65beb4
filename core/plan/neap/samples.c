/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap's samples: the forecast, and what it may turn out to be. */
#include "plan/neap/state.h"

#include <math.h>

/* Middles of 31 equal parts of the normal distribution, of unit variance: those above 0. */
static const double QUANTILES[] = {0.0826, 0.1658, 0.2501, 0.3361, 0.4246, 0.5164, 0.6126, 0.7146,
                                   0.8242, 0.9444, 1.0793, 1.2363, 1.4297, 1.6950, 2.1854};

enum { PARTS = 2 * sizeof QUANTILES / sizeof *QUANTILES + 1 };

/* Of the part'th of all PARTS. */
static double quantile(int32_t part)
{
  int32_t from_middle = part - PARTS / 2;
  if (!from_middle)
    return 0;
  return from_middle < 0 ? -QUANTILES[-from_middle - 1] : QUANTILES[from_middle - 1];
}

/* The forecast, and as many disturbed ones as the normal distribution has parts. Every expert goes
 * through all parts, in an order of its own: a multiple of the sample's number and an offset,
 * modulo a prime. So no expert looks riskier than another one by chance. */
void neapi_neap_draw(neapi_neap *n, int32_t which)
{
  int32_t experts = n->topology->experts;
  double sum[NEAPI_LANES] = {0};
  for (int32_t e = 0; e < experts; e++) {
    uint64_t chance = neap_random_bits(0, 1 + which, e);
    int32_t step = 1 + chance % (PARTS - 1), part = (chance >> 32) % PARTS;
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      double normal = i ? quantile(part) : 0;
      double work = (n->total[e] + 0.05) * exp(n->deviation[e] * normal) - 0.05;
      work = fmax(work, 1e-6);
      n->levels.work[e].of[i] = work;
      sum[i] += work;
      part = (part + step) % PARTS;
    }
  }
  for (int32_t e = 0; e < experts; e++)
    for (int32_t i = 0; i < NEAPI_LANES; i++)
      n->levels.work[e].of[i] *= n->topology->ranks / sum[i];
}
