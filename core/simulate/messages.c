/* SPDX-License-Identifier: Apache-2.0 */
/* What an exchange costs besides its bytes on links: the messages that it is made of. */
#include "layout/groups.h"
#include "simulate/cluster.h"

#include <math.h>

/* B/s of a port by messages of so many bytes. */
static double rate_of(const neap_links *links, double bytes)
{
  int32_t last = links->rates - 1, i = 0;
  const double *sizes = links->sizes, *rate = links->rate;
  if (bytes <= sizes[0])
    return rate[0] * bytes / sizes[0];
  if (bytes >= sizes[last])
    return rate[last];
  while (bytes > sizes[i + 1])
    i++;
  double at = log(bytes / sizes[i]) / log(sizes[i + 1] / sizes[i]);
  return rate[i] * pow(rate[i + 1] / rate[i], at);
}

void neapi_cluster_set_up(const neap_cluster *c, neapi_cluster_op *op, const double *port)
{
  const neap_topology *t = c->topology;
  const neap_links *links = &c->links;
  for (int32_t i = 0; i < op->transfer_count; i++) {
    neapi_sim_transfer *f = &op->transfers[i];
    f->set_up = f->alone = 0;
    neapi_group_ranks(t, op->group, i, &f->first, &f->last);
    int32_t nodes = t->node_of[f->last - 1] - t->node_of[f->first];
    for (int32_t r = f->first; port && r < f->last; r++) {
      if (port[r] == 0)
        continue;
      int32_t begin = t->first_rank[t->node_of[r]], end = t->first_rank[t->node_of[r] + 1];
      int32_t near = (end < f->last ? end : f->last) - (begin > f->first ? begin : f->first) - 1;
      int32_t far = op->peers == NEAP_PEERS_NODES ? nodes : f->last - f->first - near - 1;
      int32_t peers = op->peers == NEAP_PEERS_NONE ? 0 : near + far;
      if (peers > 0)
        f->set_up = fmax(f->set_up, near * links->peer + far * links->far_peer);
      if (links->rates)
        f->alone = fmax(f->alone, port[r] / rate_of(links, peers > 0 ? port[r] / peers : port[r]));
    }
  }
}
