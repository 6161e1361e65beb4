/* Planner neap's repair: the forecast and disturbed forecasts are split as the split will do it,
 * and the layout changes where that makes their least max loads smaller.
 *
 * A sample's least max load is found by flow, as in split/minimax.c. The last cut on the way there
 * names the ranks that have too much and the experts that live only on them: a replica of one of
 * these moves to another rank, or changes places with one there. A change stays only if it makes
 * the whole layout cheaper: mean least max load, a part of the worst one, and work that leaves its
 * node. */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

static const double UNITS = 1 << 20;   /* of the flow, in the work of a mean rank */
static const double TOLERANCE = 1e-3;  /* of a least max load */
static const double WORST = 0.1;       /* weight of the worst sample */
static const double LEAST_GAIN = 0.02; /* of a change, in what is above ideal: less may be chance */
enum { CANDIDATES = 4 };

/* ---- samples --------------------------------------------------------------------------------- */

/* Work of the experts in every sample; the first is the forecast. Where every node has every expert
 * only what whole nodes lack is left to the flow: less uncertain. */
void neapi_neap_draw(neapi_neap *n, int32_t samples)
{
  memset(n->tight, 0, (int64_t)samples * n->topology->experts);
  n->samples = samples;
  int32_t experts = n->topology->experts;
  double least = n->whole ? 0.15 : 0.25;
  for (int32_t i = 0; i < samples; i++) {
    double *work = n->sample + (int64_t)i * experts, sum = 0;
    for (int32_t e = 0; e < experts; e++) {
      double deviation = fmin(fmax(least, 0.5 * n->drift[e]), 0.6);
      double normal = i ? neap_random_normal(0, i, e) : 0;
      sum += work[e] = (n->total[e] + (i ? 0.02 : 1e-9)) * exp(deviation * normal);
    }
    for (int32_t e = 0; e < experts; e++)
      work[e] *= n->topology->ranks / sum;
  }
}

static void index_layout(neapi_neap *n)
{
  memcpy(n->indexed.expert_of, n->expert_of, sizeof *n->expert_of * n->topology->slots);
  neapi_layout_index(&n->indexed); /* cannot fail: the layout is valid */
  neapi_flow_build(&n->flow, &n->indexed);
  memset(n->flow.supply, 0, sizeof *n->flow.supply * n->flow.groups);
}

static void start_flow(neapi_neap *n, const double *work, double bound)
{
  neapi_flow_network *f = &n->flow;
  for (int32_t e = 0; e < f->topology->experts; e++)
    f->outside[e] = work[e] * UNITS;
  for (int32_t r = 0; r < f->topology->ranks; r++)
    f->capacity[r] = bound * n->speed[r] * UNITS + 1;
  f->leaving = false;
  neapi_flow_reset(f);
  neapi_flow_pool(f);
}

/* The experts of a cut that have most work; returns how many. */
static int32_t heaviest(const neapi_neap *n, const double *work, const uint8_t *tight,
                        int32_t *experts)
{
  int32_t count = 0;
  for (int32_t e = 0; e < n->topology->experts; e++) {
    if (!tight[e])
      continue;
    int32_t i = count < CANDIDATES ? count++ : CANDIDATES;
    for (; i > 0 && work[e] > work[experts[i - 1]]; i--)
      if (i < CANDIDATES)
        experts[i] = experts[i - 1];
    if (i < CANDIDATES)
      experts[i] = e;
  }
  return count;
}

/* Least max load that a set of experts allows, be the other ranks as empty as they may; 0 if it is
 * empty. Marks its ranks in n->member. */
static double load_of(neapi_neap *n, const double *work, const uint8_t *tight)
{
  const neapi_flow_network *f = &n->flow;
  double sum = 0, speed = 0;
  memset(n->member, 0, f->topology->ranks);
  for (int32_t e = 0; e < f->topology->experts; e++) {
    if (!tight[e])
      continue;
    sum += work[e];
    for (int32_t i = n->indexed.first[e]; i < n->indexed.first[e + 1]; i++) {
      speed += n->member[f->layout->rank_at[i]] ? 0 : n->speed[f->layout->rank_at[i]];
      n->member[f->layout->rank_at[i]] = 1;
    }
  }
  return sum > 0 ? sum / speed : 0;
}

/* What no split of a sample can be below, as far as the experts tell that decided it for the layout
 * before. Marks their ranks in n->member. */
static double floor_of(neapi_neap *n, int32_t sample)
{
  int64_t first = (int64_t)sample * n->topology->experts;
  double load = load_of(n, n->sample + first, n->tight + first);
  return load > 1 + TOLERANCE ? load : 1;
}

/* Least max load of a sample, in the work of a mean rank: from floor_of up, by Newton steps. Leaves
 * the ranks that decide it in n->member, if floor_of did not, and the heaviest experts that live
 * only there in n->confined. */
static double least_max(neapi_neap *n, int32_t sample, double bound)
{
  neapi_flow_network *f = &n->flow;
  const double *work = n->sample + (int64_t)sample * n->topology->experts;
  uint8_t *tight = n->tight + (int64_t)sample * n->topology->experts;
  double next;
  start_flow(n, work, bound);
  for (n->flows--; neapi_flow_spread(f, false); n->flows--, bound = next) {
    double units = neapi_flow_cut(f, n->member), speed = 0;
    for (int32_t e = 0; e < f->topology->experts; e++)
      tight[e] = neapi_flow_confines(f, e);
    for (int32_t r = 0; r < f->topology->ranks; r++)
      speed += n->member[r] ? n->speed[r] : 0;
    next = units / UNITS / speed;
    if (next < bound + TOLERANCE) {
      bound = next;
      break;
    }
    for (int32_t r = 0; r < f->topology->ranks; r++)
      f->capacity[r] += (next - bound) * n->speed[r] * UNITS + 1;
  }
  n->confine_count = bound > 1 ? heaviest(n, work, tight, n->confined) : 0;
  return bound;
}

/* What the layout costs, as far as it is below limit. The sample with the largest least max load:
 * *worst. */
static double layout_cost(neapi_neap *n, double limit, int32_t *worst)
{
  int32_t samples = n->samples;
  double sum = 0, largest = 0, leaving = n->leaving * n->toll, floor[NEAPI_SAMPLES];
  index_layout(n);
  for (int32_t i = 0; i < samples; i++) {
    sum += floor[i] = floor_of(n, i);
    largest = fmax(largest, floor[i]);
  }
  for (int32_t i = 0; i < samples; i++) {
    if (sum / samples + WORST * largest + leaving >= limit)
      return INFINITY;
    double least = least_max(n, i, floor[i]);
    sum += least - floor[i];
    if (least >= largest) {
      largest = least;
      *worst = i;
    }
  }
  double cost = sum / samples + WORST * largest + leaving;
  return cost < limit ? cost : INFINITY;
}

/* Cost of the layout if all samples could be split evenly. */
static double ideal(const neapi_neap *n)
{
  return 1 + WORST + n->leaving * n->toll;
}

static bool balanced(const neapi_neap *n, double cost)
{
  return cost <= ideal(n) + TOLERANCE;
}

/* ---- changes --------------------------------------------------------------------------------- */

static bool on_rank(const neapi_neap *n, int32_t rank, int32_t expert)
{
  const neap_topology *t = n->topology;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++)
    if (n->expert_of[s] == expert)
      return true;
  return false;
}

static int32_t node_of(const neapi_neap *n, int32_t slot)
{
  return n->topology->node_of[n->topology->rank_of[slot]];
}

/* Puts an expert into a slot; keeps count, node_count and leaving. */
static void put(neapi_neap *n, int32_t slot, int32_t expert)
{
  int32_t node = node_of(n, slot), old = n->expert_of[slot];
  const double *load = n->load + (int64_t)node * n->topology->experts;
  n->leaving += --*neapi_neap_on_node(n, node, old) ? 0 : load[old];
  n->leaving -= (*neapi_neap_on_node(n, node, expert))++ ? 0 : load[expert];
  n->count[old]--;
  n->count[expert]++;
  n->expert_of[slot] = expert;
}

typedef struct {
  double score;
  int32_t slot, expert; /* the slot gets that expert; */
  int32_t other;        /* the slot's goes to that slot of the expert; -1: nowhere */
} change;

/* What an expert on a slot's node would keep there, less what the slot's expert keeps there. */
static double stays(const neapi_neap *n, int32_t slot, int32_t expert)
{
  int32_t node = node_of(n, slot), old = n->expert_of[slot];
  const double *load = n->load + (int64_t)node * n->topology->experts;
  return (*neapi_neap_on_node(n, node, expert) ? 0 : load[expert]) -
         (*neapi_neap_on_node(n, node, old) > 1 ? 0 : load[old]);
}

/* Work of one replica when there are count. */
static double share(const double *work, int32_t expert, int32_t count)
{
  return work[expert] / count;
}

/* First slot of a rank that may change. */
static int32_t first_slot(const neapi_neap *n, int32_t rank)
{
  const int32_t *first = n->topology->first_slot;
  return n->late ? first[rank + 1] - 1 : first[rank];
}

/* Best slot for one more replica of an expert, on the ranks that are not in the cut; toll: weight
 * of what stays on its node. */
static change best_replacement(const neapi_neap *n, const double *work, int32_t expert, double toll)
{
  const neap_topology *t = n->topology;
  change best = {-INFINITY, -1, expert, -1};
  for (int32_t r = 0; r < t->ranks; r++) {
    if (n->member[r] || on_rank(n, r, expert))
      continue;
    for (int32_t s = first_slot(n, r); s < t->first_slot[r + 1]; s++) {
      int32_t old = n->expert_of[s], count = n->count[old];
      if (count == 1)
        continue;
      double score =
          toll * stays(n, s, expert) - share(work, old, count - 1) + 0.5 * share(work, old, count);
      if (score > best.score)
        best = (change){score, s, expert, -1};
    }
  }
  return best;
}

/* Best slot outside the cut for an expert of a slot inside, whose own expert comes inside. */
static change best_swap(const neapi_neap *n, const double *work, int32_t expert)
{
  const neap_topology *t = n->topology;
  int32_t inside = n->indexed.by_expert[n->indexed.first[expert]], home = t->rank_of[inside];
  change best = {-INFINITY, -1, expert, inside};
  for (int32_t r = 0; r < t->ranks; r++) {
    if (n->member[r] || on_rank(n, r, expert))
      continue;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      int32_t old = n->expert_of[s];
      double score = stays(n, s, expert) + stays(n, inside, old) - share(work, old, n->count[old]);
      if (score > best.score && !on_rank(n, home, old))
        best = (change){score, s, expert, inside};
    }
  }
  return best;
}

/* Makes a change if that makes the layout cheaper. */
static bool try(neapi_neap *n, change c, double *cost, int32_t *worst)
{
  if (c.slot < 0 || n->flows <= 0)
    return false;
  int32_t old = n->expert_of[c.slot], now = *worst;
  double limit = *cost - LEAST_GAIN * (*cost - ideal(n));
  n->flows--;
  put(n, c.slot, c.expert);
  if (c.other >= 0)
    put(n, c.other, old);
  double changed = layout_cost(n, limit, &now);
  if (changed < limit) {
    *cost = changed;
    *worst = now;
    return true;
  }
  put(n, c.slot, old);
  if (c.other >= 0)
    put(n, c.other, c.expert);
  return false;
}

/* Looks for a change that relieves the worst sample. */
static bool improve(neapi_neap *n, double *cost, int32_t *worst)
{
  const double *work = n->sample + (int64_t)*worst * n->topology->experts;
  index_layout(n);
  least_max(n, *worst, floor_of(n, *worst));
  change list[3 * CANDIDATES];
  int32_t count = 0;
  for (int32_t i = 0; i < n->confine_count; i++) {
    list[count++] = best_replacement(n, work, n->confined[i], 1);
    list[count++] = best_replacement(n, work, n->confined[i], 0.1);
    if (!n->late)
      list[count++] = best_swap(n, work, n->confined[i]);
  }
  for (int32_t i = 0; i < count; i++)
    if (try(n, list[i], cost, worst))
      return true;
  return false;
}

static void count_replicas(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->count, 0, sizeof *n->count * t->experts);
  memset(n->node_count, 0, sizeof *n->node_count * t->nodes * t->experts);
  for (int32_t s = 0; s < t->slots; s++) {
    n->count[n->expert_of[s]]++;
    ++*neapi_neap_on_node(n, node_of(n, s), n->expert_of[s]);
  }
  n->leaving = 0;
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++)
      n->leaving += *neapi_neap_on_node(n, g, e) ? 0 : n->load[(int64_t)g * t->experts + e];
}

double neapi_neap_evaluate(neapi_neap *n, double limit, bool *done)
{
  int32_t worst = 0;
  count_replicas(n);
  double cost = layout_cost(n, limit, &worst);
  *done = balanced(n, cost);
  return cost;
}

void neapi_neap_repair(neapi_neap *n, int32_t flows)
{
  int32_t worst = 0;
  count_replicas(n);
  double cost = layout_cost(n, INFINITY, &worst);
  n->flows = flows;
  while (n->flows > 0 && !balanced(n, cost) && improve(n, &cost, &worst))
    continue;
}
