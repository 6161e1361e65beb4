/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the flow: its vertices, and shortest paths. Vertices: ranks, then groups, then pools. */
#ifndef NEAP_FLOW_PATH_H
#define NEAP_FLOW_PATH_H

#include "split/flow_network.h"

enum {
  NEAPI_FAR_AWAY = INT32_MAX / 2, /* length where no path is known */
  NEAPI_LEAVING = 1 << 20,        /* in a length: more arcs than any path has */
  NEAPI_DETOUR = 12               /* arcs up to which lengths are kept up to date */
};

static inline int32_t neapi_flow_vertices(const neapi_flow_network *f)
{
  const neap_topology *t = f->topology;
  return t->ranks + t->slots + t->experts;
}

static inline int32_t neapi_flow_group(const neapi_flow_network *f, int32_t group)
{
  return f->topology->ranks + group;
}

static inline int32_t neapi_flow_pool_of(const neapi_flow_network *f, int32_t expert)
{
  return f->topology->ranks + f->topology->slots + expert;
}

/* Once the pools take chunk, a group with one slot is none: its work is in the slot or in the
 * pool. */
static inline bool neapi_flow_is_vertex(const neapi_flow_network *f, int32_t group)
{
  return !f->pooled || f->group_first[group + 1] - f->group_first[group] > 1;
}

/* What leaving the node adds to the length of a path of an expert's work. */
static inline int32_t neapi_flow_price(const neapi_flow_network *f, int32_t expert)
{
  return f->cheap ? f->weight[expert] * NEAPI_LEAVING : 0;
}

/* Whether a group still has work for its node, of the degree that is being placed. */
static inline bool neapi_flow_source(const neapi_flow_network *f, int32_t group)
{
  return f->left[group] && (!f->degree || f->weight[f->group_expert[group]] == f->degree);
}

/* Lengths of the vertices from which a rank with capacity among [first, last) can be reached, as
 * far as it takes to give that many sources theirs. Vertices of the chunk of the graph that is
 * searched are NEAPI_FAR_AWAY before. Without leavings the first length of a vertex is its last one
 * (breadth first), so that the search stops at the last source; with leavings it completes all
 * lengths within reach. */
void neapi_flow_measure(neapi_flow_network *flow, int32_t first, int32_t last, int32_t sources);
/* Pushes as much of *work from a vertex as shortest paths carry. Returns what was pushed. */
int64_t neapi_flow_push(neapi_flow_network *flow, int32_t source, int64_t *work);

#endif
