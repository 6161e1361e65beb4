/* SPDX-License-Identifier: Apache-2.0 */
/* Expected cost of layouts under the rule lite. */
#include "plan/cost.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

int neapi_cost_model_open(const neap_topology *t, neapi_cost_model **out)
{
  neapi_cost_model *p = neapi_alloc_zero(sizeof *p, "planner");
  if (!p)
    return NEAP_MEMORY;
  p->topology = t;
  p->node_load = neapi_alloc(8ll * t->nodes * t->experts, "planner");
  p->pool = neapi_alloc(8ll * t->experts, "planner");
  p->rank_work = neapi_alloc(8ll * t->ranks, "planner");
  p->on_node = neapi_alloc(4ll * t->nodes * t->experts, "planner");
  p->replicas = neapi_alloc(4ll * t->experts, "planner");
  if (!p->node_load || !p->pool || !p->rank_work || !p->on_node || !p->replicas) {
    neapi_cost_model_close(p);
    return NEAP_MEMORY;
  }
  *out = p;
  return NEAP_OK;
}

void neapi_cost_model_close(neapi_cost_model *p)
{
  if (!p)
    return;
  free(p->node_load);
  free(p->pool);
  free(p->rank_work);
  free(p->on_node);
  free(p->replicas);
  free(p);
}

void neapi_cost_model_load(neapi_cost_model *p, const double *load)
{
  const neap_topology *t = p->topology;
  p->load = load;
  memset(p->node_load, 0, 8ul * t->nodes * t->experts);
  for (int32_t r = 0; r < t->ranks; r++, load += t->experts) {
    double *sum = p->node_load + (int64_t)t->node_of[r] * t->experts;
    for (int32_t e = 0; e < t->experts; e++)
      sum[e] += load[e];
  }
}

/* Replicas by node, and the tokens that find none on their node; returns those. */
static double count_replicas(neapi_cost_model *p, const int32_t *expert_of)
{
  const neap_topology *t = p->topology;
  memset(p->on_node, 0, 4ul * t->nodes * t->experts);
  memset(p->replicas, 0, 4ul * t->experts);
  memset(p->pool, 0, 8ul * t->experts);
  for (int32_t s = 0; s < t->slots; s++) {
    p->on_node[(int64_t)t->node_of[t->rank_of[s]] * t->experts + expert_of[s]]++;
    p->replicas[expert_of[s]]++;
  }
  for (int32_t n = 0; n < t->nodes; n++)
    for (int32_t e = 0; e < t->experts; e++)
      if (!p->on_node[(int64_t)n * t->experts + e])
        p->pool[e] += p->node_load[(int64_t)n * t->experts + e];
  double far = 0;
  for (int32_t e = 0; e < t->experts; e++)
    far += p->pool[e];
  return far;
}

neapi_cost neapi_cost_model_layout(neapi_cost_model *p, const int32_t *expert_of)
{
  const neap_topology *t = p->topology;
  neapi_cost cost = {.far_tokens = count_replicas(p, expert_of)};
  double speed = 0, work = 0;
  for (int32_t r = 0; r < t->ranks; r++) {
    double sum = 0, near = 0, own = 0;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      int32_t e = expert_of[s];
      int64_t cell = (int64_t)t->node_of[r] * t->experts + e;
      double here = p->node_load[cell] / p->on_node[cell];
      sum += (here + p->pool[e] / p->replicas[e]) * t->cost[e];
      near += here;
      own += p->load[(int64_t)r * t->experts + e] / p->on_node[cell];
    }
    p->rank_work[r] = sum / t->speed[r];
    cost.max_work = cost.max_work > p->rank_work[r] ? cost.max_work : p->rank_work[r];
    cost.near_tokens += near - own;
    work += sum;
    speed += t->speed[r];
  }
  cost.mean_work = work / speed;
  return cost;
}

int neapi_layout_search_open(const neap_topology *t, void **out)
{
  neapi_layout_search *s = neapi_alloc_zero(sizeof *s, "planner");
  if (!s)
    return NEAP_MEMORY;
  s->candidate = neapi_alloc(t->slots * 4ll, "planner");
  int status = s->candidate ? neapi_packer_open(t, &s->packer) : NEAP_MEMORY;
  if (!status)
    status = neapi_cost_model_open(t, &s->model);
  if (status) {
    neapi_layout_search_close(s);
    return status;
  }
  *out = s;
  return NEAP_OK;
}

void neapi_layout_search_close(void *search)
{
  neapi_layout_search *s = search;
  if (!s)
    return;
  neapi_packer_close(s->packer);
  neapi_cost_model_close(s->model);
  free(s->candidate);
  free(s);
}
