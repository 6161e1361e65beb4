/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers that meet on links: how fast each may move. */
#include "simulate/cluster.h"

#include <stddef.h>

static double *rate_at(const neap_cluster *c, const neapi_sim_transfer *f, int32_t node)
{
  int64_t queue = c->ops[f->op].queue;
  return c->rate_at + queue * c->topology->ranks + f->first + node - f->first_node;
}

/* One link: wants[k] is the share of it that each transfer would use at full speed. */
static void divide(const neap_cluster *c, int32_t node, neapi_sim_transfer **transfers,
                   double *wants, int32_t count)
{
  double total = 0, left = 1;
  for (int32_t i = 0; i < count; i++)
    total += wants[i];
  if (total <= 1)
    return;
  for (int32_t i = 1; i < count; i++) { /* least first */
    neapi_sim_transfer *f = transfers[i];
    double want = wants[i];
    int32_t k = i;
    for (; k > 0 && wants[k - 1] > want; k--) {
      wants[k] = wants[k - 1];
      transfers[k] = transfers[k - 1];
    }
    wants[k] = want;
    transfers[k] = f;
  }
  for (int32_t i = 0; i < count; i++) {
    double fair = left / (count - i), gets = wants[i] < fair ? wants[i] : fair;
    double *rate = rate_at(c, transfers[i], node);
    if (gets < *rate * wants[i])
      *rate = gets / wants[i];
    left -= gets;
  }
}

/* The transfers that move on a node, into seen; their rates there are 1 for the time being. */
static int32_t collect(neap_cluster *c, int32_t node)
{
  const neap_topology *t = c->topology;
  int32_t count = 0;
  c->visit++;
  for (int32_t r = t->first_rank[node]; r < t->first_rank[node + 1]; r++)
    for (int32_t q = 1; q < NEAP_STREAMS; q++) {
      neapi_sim_transfer *f = c->state[r].moving[q];
      if (!f || f->visit == c->visit)
        continue;
      f->visit = c->visit;
      *rate_at(c, f, node) = 1;
      c->seen[count++] = f;
    }
  return count;
}

static void share_port(neap_cluster *c, int32_t node, int32_t rank)
{
  neapi_sim_transfer *transfers[NEAP_STREAMS];
  double wants[NEAP_STREAMS];
  int32_t count = 0;
  for (int32_t q = 1; q < NEAP_STREAMS; q++) {
    neapi_sim_transfer *f = c->state[rank].moving[q];
    const double *port = f ? c->ops[f->op].each : NULL;
    if (!port || port[rank] == 0)
      continue;
    transfers[count] = f;
    wants[count++] = port[rank] / f->full;
  }
  if (count > 1)
    divide(c, node, transfers, wants, count);
}

static void share_uplink(neap_cluster *c, int32_t node, int32_t met)
{
  const neap_topology *t = c->topology;
  int32_t first = t->first_rank[node], last = t->first_rank[node + 1], count = 0;
  for (int32_t i = 0; i < met; i++) {
    neapi_sim_transfer *f = c->seen[i];
    const double *uplink = c->ops[f->op].uplink;
    int32_t from = first > f->first ? first : f->first, to = last < f->last ? last : f->last;
    if (!uplink || uplink[node] == 0)
      continue;
    c->seen[count] = f;
    c->wants[count++] = uplink[node] * (to - from) / (last - first) / f->full;
  }
  if (count > 1)
    divide(c, node, c->seen, c->wants, count);
}

int neapi_cluster_update(neap_cluster *c, neapi_sim_transfer *f, double time)
{
  double rate = 1;
  for (int32_t n = f->first_node; n < f->last_node; n++) {
    double here = *rate_at(c, f, n);
    rate = here < rate ? here : rate;
  }
  rate /= neapi_cluster_slowdown(c, f);
  if (rate == f->rate)
    return NEAP_OK;
  f->left -= (time - f->since) * f->rate;
  f->left = f->left > 0 ? f->left : 0;
  f->since = time;
  f->rate = rate;
  return neapi_cluster_post(c, time + f->left / rate, f);
}

/* All transfers that move on nodes [first, last). */
static int update_all(neap_cluster *c, int32_t first, int32_t last, double time)
{
  const neap_topology *t = c->topology;
  int64_t visit = ++c->visit;
  for (int32_t r = t->first_rank[first]; r < t->first_rank[last]; r++)
    for (int32_t q = 1; q < NEAP_STREAMS; q++) {
      neapi_sim_transfer *f = c->state[r].moving[q];
      if (!f || f->visit == visit)
        continue;
      f->visit = visit;
      int status = neapi_cluster_update(c, f, time);
      if (status)
        return status;
    }
  return NEAP_OK;
}

int neapi_cluster_share(neap_cluster *c, const neapi_sim_transfer *changed, double time)
{
  const neap_topology *t = c->topology;
  for (int32_t n = changed->first_node; n < changed->last_node; n++) {
    int32_t met = collect(c, n);
    if (met < 2)
      continue;
    for (int32_t r = t->first_rank[n]; r < t->first_rank[n + 1]; r++)
      share_port(c, n, r);
    share_uplink(c, n, met);
  }
  return update_all(c, changed->first_node, changed->last_node, time);
}
