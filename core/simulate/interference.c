/* SPDX-License-Identifier: Apache-2.0 */
/* Computation and exchanges that slow exchanges. */
#include "simulate/cluster.h"

#include <stddef.h>

/* Of every stream with an exchange on the transfer's ranks, other than itself. */
static double of_exchanges(const neap_cluster *c, const neapi_sim_transfer *f)
{
  int32_t stream = c->ops[f->op].stream;
  bool met[NEAP_STREAMS] = {false};
  double sum = 0;
  for (int32_t r = f->first; r < f->last; r++)
    for (int32_t q = 1; q < NEAP_STREAMS; q++) {
      const neapi_sim_transfer *other = c->state[r].moving[q];
      if (!other || other == f || met[c->ops[other->op].stream])
        continue;
      met[c->ops[other->op].stream] = true;
      sum += c->links.interference[stream][c->ops[other->op].stream];
    }
  return sum;
}

double neapi_cluster_slowdown(const neap_cluster *c, const neapi_sim_transfer *f)
{
  double slow = 1;
  if (c->slowed[0] && f->computing > 0)
    slow += c->links.interference[c->ops[f->op].stream][NEAP_COMPUTE];
  return c->slowed[1] ? slow + of_exchanges(c, f) : slow;
}
