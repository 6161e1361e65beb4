/* SPDX-License-Identifier: Apache-2.0 */
/* FlexMoE (Nie et al., 2023): from the layout in force, each round gives the expert with the most
 * load per replica one more and takes one from that with the least, in every node; a round is kept
 * if balance improves, and the first that does not ends the search. */
#include "plan/cost.h"

#include <stdlib.h>
#include <string.h>

enum { ROUNDS };

/* Work of one replica of an expert on a node, as costed last; of one more, if the node has none. */
static double share(const neapi_cost_model *model, int32_t node, int32_t expert)
{
  const neap_topology *t = model->topology;
  int64_t cell = (int64_t)node * t->experts + expert;
  double pool = model->pool[expert] / model->replicas[expert];
  int32_t here = model->on_node[cell] ? model->on_node[cell] : 1;
  return t->cost[expert] * (model->node_load[cell] / here + pool);
}

static int32_t hottest(const neapi_cost_model *model, int32_t node)
{
  int32_t best = 0;
  for (int32_t e = 1; e < model->topology->experts; e++)
    if (share(model, node, e) > share(model, node, best))
      best = e;
  return best;
}

static bool rank_holds(const neap_topology *t, const int32_t *expert_of, int32_t rank, int32_t e)
{
  bool found = false;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++)
    found |= expert_of[s] == e;
  return found;
}

/* The slot of the node that hot should take over: of the coldest expert that keeps another replica,
 * there on the rank with the least work, which lacks hot; -1 if there is none. */
static int32_t coldest_slot(const neapi_cost_model *model, int32_t node, int32_t hot,
                            const int32_t *expert_of)
{
  const neap_topology *t = model->topology;
  int32_t best = -1;
  for (int32_t r = t->first_rank[node]; r < t->first_rank[node + 1]; r++) {
    if (rank_holds(t, expert_of, r, hot))
      continue;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      int32_t e = expert_of[s], than = best < 0 ? e : expert_of[best];
      double here = share(model, node, e), there = share(model, node, than);
      bool lighter = best < 0 || here < there ||
                     (e == than && model->rank_work[r] < model->rank_work[t->rank_of[best]]);
      if (model->replicas[e] > 1 && lighter)
        best = s;
    }
  }
  return best;
}

/* One change in every node; replicas counts what is left of each expert while it goes on. */
static void change(neapi_cost_model *model, int32_t *expert_of)
{
  for (int32_t n = 0; n < model->topology->nodes; n++) {
    int32_t hot = hottest(model, n), slot = coldest_slot(model, n, hot, expert_of);
    if (slot < 0 || share(model, n, expert_of[slot]) >= share(model, n, hot))
      continue;
    model->replicas[expert_of[slot]]--;
    model->replicas[hot]++;
    expert_of[slot] = hot;
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  neapi_layout_search *s = in->scratch;
  size_t bytes = 4ul * in->topology->slots;
  neapi_plan_input begin = *in;
  begin.scratch = s->packer;
  if (in->previous)
    memcpy(expert_of, in->previous->expert_of, bytes);
  else
    neapi_plan_static.plan(&begin, expert_of);
  neapi_cost_model_load(s->model, in->load);
  double best = neapi_cost_model_layout(s->model, expert_of).max_work;
  for (int32_t round = 0; round < (int32_t)in->parameter[ROUNDS]; round++) {
    memcpy(s->candidate, expert_of, bytes);
    change(s->model, s->candidate);
    double work = neapi_cost_model_layout(s->model, s->candidate).max_work;
    if (work >= best)
      break;
    best = work;
    memcpy(expert_of, s->candidate, bytes);
  }
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_flexmoe = {
    .name = "flexmoe",
    .parameters = {{"rounds", "changes of one slot per node, at most", 10, 0, 10000, 1}},
    .open = neapi_layout_search_open,
    .close = neapi_layout_search_close,
    .plan = plan};
