/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes on the links when a layout is unsharded, or its gradients are reduced. */
#include "base/memory.h"
#include "layout/groups.h"
#include "layout/home_traffic.h"
#include "layout/layout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int check_bytes(const double *bytes, int32_t experts)
{
  for (int32_t e = 0; e < experts; e++)
    if (!(bytes[e] >= 0 && isfinite(bytes[e])))
      return neapi_fail(NEAP_ARGUMENT,
                        "layout traffic: bytes of expert %d are %g; allowed: 0 or more, finite", e,
                        bytes[e]);
  return NEAP_OK;
}

/* Whether a slot's expert is new to its rank, which had the experts of base; the first of
 * copies. */
static bool arrives(const neap_layout *l, const neap_layout *base, int32_t slot)
{
  const neap_topology *t = l->topology;
  int32_t rank = t->rank_of[slot];
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++)
    if (base->expert_of[s] == l->expert_of[slot] ||
        (s < slot && l->expert_of[s] == l->expert_of[slot]))
      return false;
  return true;
}

/* Bytes of the slots of some ranks; base: of those whose expert is new to its rank. */
static double slot_bytes(const neap_layout *l, const neap_layout *base, const double *bytes,
                         int32_t first, int32_t last)
{
  const neap_topology *t = l->topology;
  double sum = 0;
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++)
    if (!base || arrives(l, base, s))
      sum += bytes[l->expert_of[s]];
  return sum;
}

/* Adds what a node's uplink passes for the group of ranks [first, last): each way, the same. */
static void add_uplink(const neap_layout *l, const neap_layout *base, const double *bytes,
                       int32_t first, int32_t last, double all, double *in, double *out)
{
  const neap_topology *t = l->topology;
  for (int32_t n = t->node_of[first]; n <= t->node_of[last - 1]; n++) {
    int32_t from = t->first_rank[n] > first ? t->first_rank[n] : first;
    int32_t to = t->first_rank[n + 1] < last ? t->first_rank[n + 1] : last;
    double here = slot_bytes(l, base, bytes, from, to),
           share = (double)(to - from) / (last - first);
    in[n] += here * (1 - share);
    out[n] += (all - here) * share;
  }
}

int neap_layout_traffic(const neap_layout *l, const neap_layout *base, const double *bytes,
                        int32_t group, double *port, double *uplink)
{
  const neap_topology *t = l->topology;
  int status = neapi_layout_require(l, t, "layout traffic");
  if (!status && base)
    status = neapi_layout_require(base, t, "layout traffic");
  bool resident = group == NEAP_GROUP_RESIDENT && t->homes;
  if (!status && !resident)
    status = neapi_group_check(t, group, "layout traffic");
  if (!status)
    status = check_bytes(bytes, t->experts);
  if (!status && resident)
    return neapi_home_traffic(l, base, bytes, port, uplink);
  double *out = status ? NULL : neapi_alloc_zero(8ll * t->nodes, "layout traffic");
  if (!out)
    return status ? status : NEAP_MEMORY;
  memset(uplink, 0, 8ul * (size_t)t->nodes);
  for (int32_t g = 0; g < neapi_group_count(t, group); g++) {
    int32_t first, last;
    neapi_group_ranks(t, group, g, &first, &last);
    double all = slot_bytes(l, base, bytes, first, last);
    for (int32_t r = first; r < last; r++) {
      double own = slot_bytes(l, base, bytes, r, r + 1), in = own * (last - first - 1);
      port[r] = (in > all - own ? in : all - own) / (last - first);
    }
    add_uplink(l, base, bytes, first, last, all, uplink, out);
  }
  for (int32_t n = 0; n < t->nodes; n++)
    uplink[n] = out[n] > uplink[n] ? out[n] : uplink[n];
  free(out);
  return NEAP_OK;
}
