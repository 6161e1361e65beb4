/* Planner neap's repair: the forecast and disturbed forecasts are placed as the split will place
 * loads, by flow. Where work is stuck, the ranks that it is confined to and all others are the two
 * sides of a cut: a replica of one of the experts confined moves to the other side. */
#include "neap_state.h"

#include <math.h>
#include <string.h>

static const double UNITS = 1 << 20;  /* of the flow, in the work of a mean rank */
static const double TOLERANCE = 1e-3; /* work that may be stuck */
enum { CANDIDATES = 4, REPAIRS_A_SAMPLE = 8 };

static void index_layout(neapi_neap *n)
{
  memcpy(n->draft.expert_of, n->expert_of, sizeof *n->expert_of * n->topology->slots);
  neapi_layout_index(&n->draft); /* cannot fail: the layout is valid */
  neapi_flow_build(&n->flow, &n->draft);
}

static void count_replicas(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->count, 0, sizeof *n->count * t->experts);
  memset(n->node_count, 0, sizeof *n->node_count * t->nodes * t->experts);
  for (int32_t s = 0; s < t->slots; s++) {
    n->count[n->expert_of[s]]++;
    ++*neapi_neap_on_node(n, t->node_of[t->rank_of[s]], n->expert_of[s]);
  }
}

/* each: work of the experts in a sample; the first is the forecast itself. Where every node has
 * every expert, what is left to the flow is what whole nodes lack: less uncertain. */
static void draw(neapi_neap *n, int32_t sample)
{
  const neap_topology *t = n->topology;
  double sum = 0, deviation = sample ? (n->whole ? 0.15 : 0.25) : 0;
  for (int32_t e = 0; e < t->experts; e++) {
    double normal = sample ? neap_random_normal(0, sample, e) : 0;
    sum += n->each[e] = (n->total[e] + 0.02) * exp(deviation * normal);
  }
  for (int32_t e = 0; e < t->experts; e++)
    n->each[e] *= t->ranks / sum;
}

/* Places the sample, all work being free to go anywhere. Returns the work that is stuck. */
static double place(neapi_neap *n)
{
  neapi_flow *f = &n->flow;
  const neap_topology *t = f->topology;
  memset(f->supply, 0, sizeof *f->supply * f->groups);
  for (int32_t e = 0; e < t->experts; e++)
    f->outside[e] = n->each[e] * UNITS;
  for (int32_t r = 0; r < t->ranks; r++)
    f->room[r] = n->speed[r] * UNITS + 1;
  f->leaving = false;
  neapi_flow_reset(f);
  neapi_flow_pool(f);
  return neapi_flow_spread(f, false) / UNITS;
}

typedef struct {
  double score;
  int32_t slot, expert;
} repair;

static bool on_rank(const neapi_neap *n, int32_t rank, int32_t expert)
{
  const neap_topology *t = n->topology;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++)
    if (n->expert_of[s] == expert)
      return true;
  return false;
}

/* What it is worth to put an expert into a slot instead of the slot's: work that stays on the node,
 * and a little for evening out replicas. */
static double score(const neapi_neap *n, int32_t slot, int32_t expert)
{
  const neap_topology *t = n->topology;
  int32_t node = t->node_of[t->rank_of[slot]], old = n->expert_of[slot];
  const double *load = n->load + (int64_t)node * t->experts;
  double stays = *neapi_neap_on_node(n, node, expert) ? 0 : load[expert];
  double leaves = *neapi_neap_on_node(n, node, old) > 1 ? 0 : load[old];
  double eased = n->each[expert] / n->count[expert] / (n->count[expert] + 1);
  double burdened = n->each[old] / n->count[old] / (n->count[old] - 1);
  return stays - leaves + 0.1 * (eased - burdened);
}

/* The best slot for an expert on the ranks that are not members of the cut. */
static void try_expert(const neapi_neap *n, int32_t expert, repair *best)
{
  const neap_topology *t = n->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    if (n->member[r] || on_rank(n, r, expert))
      continue;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      double value = n->count[n->expert_of[s]] > 1 ? score(n, s, expert) : -INFINITY;
      if (value > best->score)
        *best = (repair){value, s, expert};
    }
  }
}

/* The confined experts with most work, at most CANDIDATES. Returns how many. */
static int32_t confined(const neapi_neap *n, int32_t *experts)
{
  int32_t count = 0;
  for (int32_t e = 0; e < n->topology->experts; e++) {
    if (!neapi_flow_confines(&n->flow, e))
      continue;
    int32_t i = count < CANDIDATES ? count++ : CANDIDATES;
    for (; i > 0 && n->each[e] > n->each[experts[i - 1]]; i--)
      if (i < CANDIDATES)
        experts[i] = experts[i - 1];
    if (i < CANDIDATES)
      experts[i] = e;
  }
  return count;
}

static bool move_replica(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  int32_t experts[CANDIDATES];
  repair best = {-INFINITY, -1, -1};
  neapi_flow_cut(&n->flow, n->member);
  for (int32_t i = confined(n, experts) - 1; i >= 0; i--)
    try_expert(n, experts[i], &best);
  if (best.slot < 0)
    return false;
  int32_t old = n->expert_of[best.slot], node = t->node_of[t->rank_of[best.slot]];
  n->count[old]--;
  n->count[best.expert]++;
  --*neapi_neap_on_node(n, node, old);
  ++*neapi_neap_on_node(n, node, best.expert);
  n->expert_of[best.slot] = best.expert;
  return true;
}

void neapi_neap_repair(neapi_neap *n, int32_t samples)
{
  int32_t left = REPAIRS_A_SAMPLE * samples, clean = 0;
  count_replicas(n);
  index_layout(n);
  for (int32_t i = 0; clean <= samples && left > 0; i = i == samples ? 0 : i + 1) {
    draw(n, i);
    clean++;
    while (place(n) > TOLERANCE && left-- > 0 && move_replica(n)) {
      index_layout(n);
      clean = 0;
    }
  }
}
