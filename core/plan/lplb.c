/* SPDX-License-Identifier: Apache-2.0 */
/* LPLB (DeepSeek), by the rules of its published lplb/planner.py: experts are ordered by EPLB
 * without replicas, heaviest first to the lightest rank with a slot left for one of its own; then
 * the free slots of every rank hold the heaviest experts of fixed partners, so that replicas are
 * the edges of a graph between ranks: a cube with diagonals or a ring of 8 ranks, a hypercube of
 * 16, or a torus of nodes and of the ranks in a node. Slot i of the free ones is of partner i mod
 * degree, and holds that rank's i-th heaviest expert. Tokens of a batch move along the edges: split
 * minimax, which is exact where the source has an interior-point method.
 *
 * Ranks that are left over when groups do not divide them form a ring. If groups lie within nodes,
 * experts keep their node. A slot whose expert is missing or on the rank already is left over, and
 * holds one of the rank's own experts again: so tokens have no way but the edges, and the exact
 * split's optimum is the linear programme's. */
#include "plan/packer.h"

#include <string.h>

enum { GRAPH, DOUBLES };
enum { CUBE, HYPERCUBE, TORUS, RING };

static const int32_t group_sizes[] = {8, 16, 0, 8}, degrees[] = {2, 2, 2, 1};

/* The rank in a node that is as far from its start as rank is in its own, cyclically. */
static int32_t same_place(const neap_topology *t, int32_t rank, int32_t node)
{
  int32_t size = t->first_rank[node + 1] - t->first_rank[node];
  return t->first_rank[node] + (rank - t->first_rank[t->node_of[rank]]) % size;
}

/* The rank whose experts a free slot of rank holds; slot < degree. */
static int32_t partner_of(const neap_topology *t, int32_t graph, int32_t rank, int32_t slot)
{
  if (graph == TORUS) {
    int32_t node = t->node_of[rank], first = t->first_rank[node];
    int32_t size = t->first_rank[node + 1] - first;
    return slot ? first + (rank - first + 1) % size : same_place(t, rank, (node + 1) % t->nodes);
  }
  int32_t size = group_sizes[graph], first = rank / size * size, index = rank - first;
  if (first + size > t->ranks)
    return first + (index + 1) % (t->ranks - first);
  if (graph == RING)
    return first + (index + 1) % size;
  if (!slot)
    return first + index / 4 * 4 + (index + 3) % 4;
  if (graph == HYPERCUBE)
    return first + (index + 12) % size;
  return first + (index < 4 ? 4 + (index + 2) % 4 : index - 4);
}

/* Whether groups lie within nodes, all of whose ranks are in groups. */
static bool groups_in_nodes(const neap_topology *t, int32_t graph)
{
  bool in = graph != TORUS;
  for (int32_t n = 0; n < t->nodes && in; n++)
    in = (t->first_rank[n + 1] - t->first_rank[n]) % group_sizes[graph] == 0;
  return in;
}

/* EPLB without replicas: the experts in order[n] to the ranks from first up to last, each rank as
 * many as it has at home. */
static void pack(neapi_packer *p, int32_t n, int32_t first, int32_t last)
{
  const neap_topology *t = p->topology;
  int32_t size = 0;
  for (int32_t r = first; r < last; r++) {
    p->aside[r] = neapi_packer_home(t, r + 1) - neapi_packer_home(t, r); /* slots for its own */
    if (p->aside[r])
      p->rank_heap[size++] = (neapi_heap_item){0, r};
  }
  neapi_heap_build(p->rank_heap, size);
  for (int32_t i = 0; i < n; i++) {
    int32_t r = p->rank_heap[0].id, e = p->order[i];
    neapi_packer_put(p, r, e, p->work[e]);
    if (--p->aside[r])
      neapi_heap_sink(p->rank_heap, size, 0, (neapi_heap_item){p->rank_work[r] / t->speed[r], r});
    else
      neapi_heap_pop(p->rank_heap, &size);
  }
}

static void order_experts(neapi_packer *p, int32_t graph)
{
  const neap_topology *t = p->topology;
  bool nodes = groups_in_nodes(t, graph);
  memset(p->count, 0, 4ul * t->experts); /* sorted by all of their work */
  for (int32_t n = 0; n < (nodes ? t->nodes : 1); n++) {
    int32_t first = nodes ? t->first_rank[n] : 0, last = nodes ? t->first_rank[n + 1] : t->ranks;
    int32_t begin = neapi_packer_home(t, first), size = 0;
    for (int32_t e = begin; e < neapi_packer_home(t, last); e++)
      p->expert_heap[size++] = (neapi_heap_item){-p->work[e], e};
    neapi_heap_build(p->expert_heap, size);
    for (int32_t i = 0; size;)
      p->order[i++] = neapi_heap_pop(p->expert_heap, &size).id;
    pack(p, neapi_packer_home(t, last) - begin, first, last);
  }
}

/* A rank's own experts were packed heaviest first: its i-th is in its i-th slot. */
static void copy_partners(neapi_packer *p, int32_t graph)
{
  const neap_topology *t = p->topology;
  for (int32_t r = 0; r < t->ranks; r++)
    for (int32_t i = 0, n = p->free_slots[r]; i < n; i++) {
      int32_t partner = partner_of(t, graph, r, i % degrees[graph]);
      if (i >= neapi_packer_home(t, partner + 1) - neapi_packer_home(t, partner))
        continue;
      int32_t e = p->expert_of[t->first_slot[partner] + i];
      if (!neapi_packer_holds(p, r, e))
        neapi_packer_put(p, r, e, 0);
    }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  neapi_packer *p = in->scratch;
  int32_t graph = (int32_t)in->parameter[GRAPH];
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin(p, expert_of);
  order_experts(p, graph);
  copy_partners(p, graph);
  if (in->parameter[DOUBLES] != 0)
    neapi_packer_fill_own(p);
  neapi_packer_fill_held(p, in->previous);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_lplb = {
    .name = "lplb",
    .parameters =
        {
            {"graph",
             "0: cube of 8 ranks; 1: hypercube of 16; 2: torus of nodes and ranks; 3: ring of 8",
             CUBE, CUBE, RING, 1},
            {"doubles", "whether slots left over hold the rank's own experts again", 1, 0, 1, 1},
        },
    .open = neapi_packer_open,
    .close = neapi_packer_close,
    .plan = plan,
    .at_home = true};
