/* SPDX-License-Identifier: Apache-2.0 */
/* LAER-MoE's planner (arXiv 2602.11686), by the rules of its published greedy_balancer.cpp:
 * replicas by a heap, or the same number each; heaviest first to the nodes with the fewest of the
 * expert, there to the least loaded rank, and if those nodes are full to the least loaded rank of
 * any; the cheaper of the two by predicted time wins, the latter if they cost the same. The
 * source's prediction counts what is left of an uneven division of tokens twice, which decides
 * otherwise on batches of a few tokens per expert and rank; here every token counts once. For any
 * number of ranks and any nodes, so slots may be left over: those go to the experts with the most
 * work per replica. */
#include "plan/cost.h"

#include <stdlib.h>
#include <string.h>

enum { NO_EVEN, NO_PQ, DOUBLES, TOKEN_BYTES, NEAR_GBS, FAR_GBS, TOKEN_US, RECOMPUTE };

/* Places count[] replicas of every expert, heaviest first. */
static void relocate(neapi_packer *p, bool doubles, int32_t *expert_of)
{
  const neap_topology *t = p->topology;
  neapi_packer_sort(p, NULL, t->experts);
  neapi_packer_begin(p, expert_of);
  neapi_packer_areas(p, t->first_rank, t->nodes);
  for (int32_t i = 0; i < t->experts; i++) {
    int32_t e = p->order[i];
    neapi_packer_spread(p, e, p->count[e], p->work[e] / p->count[e], doubles);
  }
  neapi_packer_fill(p);
}

/* Replicas by priority queue: one per node to begin with, if that fits. An expert that has one per
 * node gains as many again, and keeps what it has if so many slots are not left. */
static void by_load(neapi_packer *p, bool doubles)
{
  const neap_topology *t = p->topology;
  int32_t start = (int64_t)t->experts * t->nodes <= t->slots ? t->nodes : 1;
  neapi_packer_replicate(p, NULL, t->experts, t->slots, start, t->nodes,
                         doubles ? t->slots : t->ranks);
}

/* The same number of replicas for every expert. */
static void alike(neapi_packer *p)
{
  const neap_topology *t = p->topology;
  for (int32_t e = 0; e < t->experts; e++)
    p->count[e] = t->slots / t->experts;
}

/* Predicted time in microseconds: four token exchanges, summed over ranks, and the compute of the
 * slowest rank, forward and backward. */
static double time_of(const neapi_plan_input *in, neapi_cost_model *model, const int32_t *expert_of)
{
  const double *v = in->parameter;
  neapi_cost c = neapi_cost_model_layout(model, expert_of);
  double exchange =
      v[TOKEN_BYTES] * 1e-3 * (c.near_tokens / v[NEAR_GBS] + c.far_tokens / v[FAR_GBS]);
  return 4 * exchange + (3 + v[RECOMPUTE]) * v[TOKEN_US] * c.max_work;
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  neapi_layout_search *s = in->scratch;
  bool doubles = in->parameter[DOUBLES] != 0, divides = t->slots % t->experts == 0;
  bool even = divides && (!in->parameter[NO_EVEN] || in->parameter[NO_PQ]);
  bool queue = !even || !in->parameter[NO_PQ];
  neapi_packer_weigh_all(s->packer, in->load);
  if (even) {
    alike(s->packer);
    relocate(s->packer, doubles, expert_of);
  }
  if (queue) {
    by_load(s->packer, doubles);
    relocate(s->packer, doubles, even ? s->candidate : expert_of);
  }
  if (!queue || !even)
    return NEAP_OK;
  neapi_cost_model_load(s->model, in->load);
  if (time_of(in, s->model, s->candidate) < time_of(in, s->model, expert_of))
    memcpy(expert_of, s->candidate, t->slots * 4ul);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_laer = {
    .name = "laer",
    .parameters =
        {
            {"no_even", "without the candidate with the same replicas for all", 0, 0, 1, 1},
            {"no_pq", "without the candidate with replicas by load", 0, 0, 1, 1},
            {"doubles", "whether a rank may get an expert twice, as in the published code", 1, 0, 1,
             1},
            {"token_bytes", "bytes of a token", 8192, 1, 1e9, 0},
            {"near_gbs", "GB/s between ranks of a node", 216.27, 1e-6, 1e9, 0},
            {"far_gbs", "GB/s between nodes", 88.95, 1e-6, 1e9, 0},
            {"token_us", "microseconds of a token's expert forward", 1.63809, 1e-9, 1e9, 0},
            {"recompute", "whether the forward is computed again in backward", 1, 0, 1, 1},
        },
    .open = neapi_layout_search_open,
    .close = neapi_layout_search_close,
    .plan = plan};
