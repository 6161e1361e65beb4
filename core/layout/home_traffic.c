/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on the links where experts are resident: whole experts that slots fetch from homes, their
 * gradients on the way back, and parameters that homes of one expert have updated for each
 * other. */
#include "layout/home_traffic.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

/* What has been counted, each way. */
typedef struct {
  const neap_topology *topology;
  double *rank_in, *rank_out, *node_in, *node_out;
} flows;

static int open_flows(const neap_topology *t, flows *f)
{
  double *all = neapi_alloc_zero(16ll * (t->ranks + t->nodes), "home traffic");
  if (!all)
    return NEAP_MEMORY;
  *f = (flows){t, all, all + t->ranks, all + 2 * t->ranks, all + 2 * t->ranks + t->nodes};
  return NEAP_OK;
}

static void add_flow(flows *f, int32_t from, int32_t to, double bytes)
{
  int32_t out = f->topology->node_of[from], in = f->topology->node_of[to];
  if (from == to)
    return;
  f->rank_out[from] += bytes;
  f->rank_in[to] += bytes;
  if (in == out)
    return;
  f->node_out[out] += bytes;
  f->node_in[in] += bytes;
}

static void close_flows(flows *f, double *ports, double *uplinks)
{
  const neap_topology *t = f->topology;
  for (int32_t r = 0; r < t->ranks; r++)
    ports[r] = f->rank_in[r] > f->rank_out[r] ? f->rank_in[r] : f->rank_out[r];
  for (int32_t n = 0; n < t->nodes; n++)
    uplinks[n] = f->node_in[n] > f->node_out[n] ? f->node_in[n] : f->node_out[n];
  free(f->rank_in);
}

/* Whether a slot's expert has to come to its rank: it is not at home there, the rank did not have
 * it in base, and no slot before has it. */
static bool comes(const neap_layout *l, const neap_layout *base, int32_t slot)
{
  const neap_topology *t = l->topology;
  int32_t rank = t->rank_of[slot], e = l->expert_of[slot];
  if (neapi_topology_at_home(t, e, rank))
    return false;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++)
    if ((base && base->expert_of[s] == e) || (s < slot && l->expert_of[s] == e))
      return false;
  return true;
}

int neapi_home_traffic(const neap_layout *l, const neap_layout *base, const double *bytes,
                       double *ports, double *uplinks)
{
  const neap_topology *t = l->topology;
  flows f;
  int status = open_flows(t, &f);
  if (status)
    return status;
  for (int32_t s = 0; s < t->slots; s++)
    if (comes(l, base, s))
      add_flow(&f, neapi_topology_home_of(t, l->expert_of[s], t->rank_of[s]), t->rank_of[s],
               bytes[l->expert_of[s]]);
  close_flows(&f, ports, uplinks);
  return NEAP_OK;
}

static int check(const neap_topology *t, const char *who)
{
  if (t->homes)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "%s: experts of the topology have no homes", who);
}

int neap_layout_return_traffic(const neap_layout *l, const int64_t *slot_tokens,
                               const double *bytes, int accumulate, double *ports, double *uplinks)
{
  const neap_topology *t = l->topology;
  flows f;
  int status = check(t, "return traffic");
  if (!status)
    status = open_flows(t, &f);
  if (status)
    return status;
  for (int32_t s = 0; s < t->slots; s++) {
    int32_t rank = t->rank_of[s], e = l->expert_of[s];
    if (slot_tokens[s] && accumulate)
      add_flow(&f, rank, neapi_topology_home_of(t, e, rank), bytes[e]);
    for (int32_t r = 0; slot_tokens[s] && !accumulate && r < t->ranks; r += t->homes)
      add_flow(&f, rank, neapi_topology_home_of(t, e, r), bytes[e] * t->homes / t->ranks);
  }
  close_flows(&f, ports, uplinks);
  return NEAP_OK;
}

int neap_topology_gather_traffic(const neap_topology *t, const double *bytes, double *ports,
                                 double *uplinks)
{
  flows f;
  int status = check(t, "gather traffic");
  if (!status)
    status = open_flows(t, &f);
  if (status)
    return status;
  for (int32_t e = 0; e < t->experts; e++)
    for (int32_t from = 0; from < t->ranks; from += t->homes)
      for (int32_t to = 0; to < t->ranks; to += t->homes)
        add_flow(&f, neapi_topology_home_of(t, e, from), neapi_topology_home_of(t, e, to),
                 bytes[e] * t->homes / t->ranks);
  close_flows(&f, ports, uplinks);
  return NEAP_OK;
}
