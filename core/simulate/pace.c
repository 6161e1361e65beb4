/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a rank computes while exchanges move there, and what that does to them. */
#include "simulate/cluster.h"

int neapi_cluster_pace(neap_cluster *c, int32_t rank, double time)
{
  neapi_sim_rank *s = &c->state[rank];
  if (!s->working)
    return NEAP_OK;
  double slow = 1;
  for (int32_t q = 1; q < NEAP_STREAMS; q++)
    if (s->moving[q])
      slow += c->links.interference[NEAP_COMPUTE][c->ops[s->moving[q]->op].stream];
  double rate = c->topology->speed[rank] / slow;
  if (rate == s->rate)
    return NEAP_OK;
  s->left -= (time - s->since) * s->rate;
  s->left = s->left > 0 ? s->left : 0;
  s->since = time;
  s->rate = rate;
  return neapi_cluster_post_work(c, time + s->left / rate, rank);
}

int neapi_cluster_computes(neap_cluster *c, int32_t rank, int32_t change, double time)
{
  int status = NEAP_OK;
  for (int32_t q = 1; q < NEAP_STREAMS && !status; q++) {
    neapi_sim_transfer *f = c->state[rank].moving[q];
    if (!f)
      continue;
    bool before = f->computing > 0;
    f->computing += change;
    if (before != (f->computing > 0))
      status = neapi_cluster_update(c, f, time);
  }
  return status;
}
