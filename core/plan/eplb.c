/* SPDX-License-Identifier: Apache-2.0 */
/* EPLB (DeepSeek): replicas one by one to the expert with the most load per replica, then balanced
 * packing, heaviest first to the lightest rank with a free slot. Hierarchical with groups: groups
 * of experts are packed to nodes first, and each node then replicates and packs its own; global
 * after all if the nodes do not divide the groups, as in the published eplb.py. */
#include "plan/packer.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

enum { GROUPS, DOUBLES };

typedef struct {
  void *packer;
  int32_t *node_of;    /* [experts] */
  int32_t *set;        /* [experts] experts of one node */
  int32_t *free_slots; /* [nodes] */
  int32_t *quota;      /* [nodes] groups that it may still get */
  double *node_work;   /* [nodes] */
  double *group_work;  /* [experts] */
} eplb_scratch;

static void close_scratch(void *memory)
{
  eplb_scratch *s = memory;
  if (!s)
    return;
  neapi_packer_close(s->packer);
  free(s->node_of);
  free(s->set);
  free(s->free_slots);
  free(s->quota);
  free(s->node_work);
  free(s->group_work);
  free(s);
}

static int open_scratch(const neap_topology *t, void **out)
{
  eplb_scratch *s = neapi_alloc_zero(sizeof *s, "planner eplb");
  if (!s)
    return NEAP_MEMORY;
  s->node_of = neapi_alloc(t->experts * 4ll, "planner eplb");
  s->set = neapi_alloc(t->experts * 4ll, "planner eplb");
  s->free_slots = neapi_alloc(t->nodes * 4ll, "planner eplb");
  s->quota = neapi_alloc(t->nodes * 4ll, "planner eplb");
  s->node_work = neapi_alloc(t->nodes * 8ll, "planner eplb");
  s->group_work = neapi_alloc(t->experts * 8ll, "planner eplb");
  bool whole = s->node_of && s->set && s->free_slots && s->quota && s->node_work && s->group_work;
  int status = whole ? neapi_packer_open(t, &s->packer) : NEAP_MEMORY;
  if (status) {
    close_scratch(s);
    return status;
  }
  *out = s;
  return NEAP_OK;
}

/* Replicates the experts of set over slots and packs them to the ranks of one area. */
static void pack(neapi_packer *p, const int32_t *set, int32_t n, const int32_t *area, bool doubles)
{
  const neap_topology *t = p->topology;
  int32_t slots = t->first_slot[area[1]] - t->first_slot[area[0]];
  neapi_packer_replicate(p, set, n, slots, 1, 1, doubles ? slots : area[1] - area[0]);
  neapi_packer_sort(p, set, n);
  neapi_packer_areas(p, area, 1);
  for (int32_t i = 0; i < n; i++) {
    int32_t e = p->order[i];
    neapi_packer_spread(p, e, p->count[e], p->work[e] / p->count[e], doubles);
  }
}

/* First expert of a group: experts in order, groups as equal as can be. */
static int32_t group_start(const neap_topology *t, int32_t group, int32_t groups)
{
  return (int32_t)((int64_t)t->experts * group / groups);
}

/* The node with the least work per slot that has slots for size experts and may still get a group;
 * -1 if there is none. */
static int32_t lightest_node(const eplb_scratch *s, const neap_topology *t, int32_t size,
                             bool whole)
{
  int32_t best = -1;
  double least = 0;
  for (int32_t n = 0; n < t->nodes; n++) {
    int32_t slots = t->first_slot[t->first_rank[n + 1]] - t->first_slot[t->first_rank[n]];
    double filled = s->node_work[n] / slots;
    if (s->free_slots[n] < size || (whole && !s->quota[n]) || (best >= 0 && filled >= least))
      continue;
    best = n;
    least = filled;
  }
  return best;
}

static void assign(eplb_scratch *s, const neapi_packer *p, int32_t first, int32_t last,
                   int32_t node)
{
  for (int32_t e = first; e < last; e++) {
    s->node_of[e] = node;
    s->free_slots[node]--;
    s->node_work[node] += p->work[e];
  }
}

/* Packs groups to nodes, heaviest first; one that no node has slots for is taken apart. */
static void pack_groups(eplb_scratch *s, neapi_packer *p, int32_t groups)
{
  const neap_topology *t = p->topology;
  int32_t left = groups;
  for (int32_t n = 0; n < t->nodes; n++) {
    s->free_slots[n] = t->first_slot[t->first_rank[n + 1]] - t->first_slot[t->first_rank[n]];
    s->quota[n] = (int32_t)(((int64_t)groups * s->free_slots[n] + t->slots - 1) / t->slots);
    s->node_work[n] = 0;
  }
  for (int32_t g = 0; g < groups; g++) {
    double work = 0;
    for (int32_t e = group_start(t, g, groups); e < group_start(t, g + 1, groups); e++)
      work += p->work[e];
    p->expert_heap[g] = (neapi_heap_item){-work, g};
  }
  neapi_heap_build(p->expert_heap, groups);
  while (left) {
    int32_t g = neapi_heap_pop(p->expert_heap, &left).id;
    int32_t first = group_start(t, g, groups), last = group_start(t, g + 1, groups);
    int32_t node = lightest_node(s, t, last - first, true);
    if (node >= 0)
      s->quota[node]--;
    for (int32_t e = first; node < 0 && e < last; e++)
      assign(s, p, e, e + 1, lightest_node(s, t, 1, false));
    if (node >= 0)
      assign(s, p, first, last, node);
  }
}

static void pack_nodes(eplb_scratch *s, neapi_packer *p, bool doubles)
{
  const neap_topology *t = p->topology;
  for (int32_t n = 0; n < t->nodes; n++) {
    int32_t size = 0;
    for (int32_t e = 0; e < t->experts; e++)
      if (s->node_of[e] == n)
        s->set[size++] = e;
    if (size)
      pack(p, s->set, size, t->first_rank + n, doubles);
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  eplb_scratch *s = in->scratch;
  int32_t groups = (int32_t)in->parameter[GROUPS], all[2] = {0, t->ranks};
  bool doubles = in->parameter[DOUBLES] != 0;
  neapi_packer_weigh_all(s->packer, in->load);
  neapi_packer_begin(s->packer, expert_of);
  if (groups && groups % t->nodes == 0) {
    pack_groups(s, s->packer, groups < t->experts ? groups : t->experts);
    pack_nodes(s, s->packer, doubles);
  } else {
    pack(s->packer, NULL, t->experts, all, doubles);
  }
  neapi_packer_fill(s->packer);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_eplb = {
    .name = "eplb",
    .parameters =
        {
            {"groups", "groups of experts that stay in a node, if the nodes divide them; 0: none",
             0, 0, 1 << 20, 1},
            {"doubles", "whether a rank may get an expert twice, as in the published code", 1, 0, 1,
             1},
        },
    .open = open_scratch,
    .close = close_scratch,
    .plan = plan};
