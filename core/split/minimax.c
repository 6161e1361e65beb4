/* SPDX-License-Identifier: Apache-2.0 */
/* Splits of least max load: minimax over all ranks, local within each node first.
 *
 * The least max load is the largest ratio, over sets of experts, of their work to the speed of the
 * ranks that hold them. It is found from below: try to place all work under a bound; if some is
 * stuck, the ranks it is confined to give a larger bound (Newton's method of Dinkelbach 1967 over
 * cuts, as in parametric maximum flow; Gallo, Grigoriadis and Tarjan 1989).
 *
 * Bound and work are whole units of work. When all experts cost the same a unit is a token and the
 * result is the least max load of whole tokens. Otherwise a unit is a small fraction of a token's
 * work, at least 2^-50 of all work, and the optimal work of slots is rounded to whole tokens
 * afterwards: no rank then has more than one token per slot, of that slot's cost, above the optimum
 * of fractional tokens.
 *
 * With a price on far work, max work + price x far work is made least over bounds from the least
 * one up to the one at which no work leaves a node that could stay. The least far work under a
 * bound is a convex function of it (the value of a linear programme), whose slope is what shortest
 * paths from the full ranks would save: the bound is found between tangents (Kelley 1960). */
#include "split/flow_network.h"

#include "base/memory.h"
#include "split/split.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  neapi_flow_network flow;
  bool equal;          /* experts cost the same: a unit is a token */
  int64_t *unit;       /* [experts] units of a token */
  int64_t *total;      /* [experts] tokens */
  int32_t *weight;     /* [experts] price of leaving a node, relative: by tokens */
  int32_t *by_work;    /* [experts] the same, by work */
  int32_t *next_group; /* [experts] */
  int64_t *cap;        /* [ranks] units that the bound allows */
  double *speed;       /* [ranks] relative to the fastest */
  double fastest;      /* speed of that rank */
  uint8_t *member;     /* [ranks] of a cut */
  int64_t most;        /* units of all work together */
  int64_t *rest;       /* [slots] by index */
} minimax;

static void minimax_close(void *scratch)
{
  minimax *m = scratch;
  if (!m)
    return;
  neapi_flow_close(&m->flow);
  free(m->unit);
  free(m->total);
  free(m->weight);
  free(m->by_work);
  free(m->next_group);
  free(m->cap);
  free(m->speed);
  free(m->member);
  free(m->rest);
  free(m);
}

static bool equal_costs(const neap_topology *t)
{
  for (int32_t e = 1; e < t->experts; e++)
    if (t->cost[e] != t->cost[0])
      return false;
  return true;
}

/* Returns the fastest one. */
static double relative_speeds(const neap_topology *t, double *speed)
{
  double fastest = 0;
  for (int32_t r = 0; r < t->ranks; r++)
    fastest = fmax(fastest, t->speed[r]);
  for (int32_t r = 0; r < t->ranks; r++)
    speed[r] = t->speed[r] / fastest;
  return fastest;
}

/* Weight of a unit of work: the tokens that it is, 8 for the cheapest expert. */
static void weigh_tokens(const neap_topology *t, int32_t *weight)
{
  int32_t most = equal_costs(t) ? 1 : NEAPI_FLOW_WEIGHTS;
  double least = t->cost[0];
  for (int32_t e = 1; e < t->experts; e++)
    least = fmin(least, t->cost[e]);
  for (int32_t e = 0; e < t->experts; e++)
    weight[e] = fmax(1, round(most * least / t->cost[e]));
}

static int minimax_open(const neap_topology *t, void **scratch)
{
  minimax *m = neapi_alloc_zero(sizeof *m, "split");
  if (!m)
    return NEAP_MEMORY;
  int status = neapi_flow_open(t, &m->flow);
  m->unit = neapi_alloc(t->experts * 8ll, "split");
  m->total = neapi_alloc(t->experts * 8ll, "split");
  m->weight = neapi_alloc(t->experts * 4ll, "split");
  m->by_work = neapi_alloc(t->experts * 4ll, "split");
  m->next_group = neapi_alloc(t->experts * 4ll, "split");
  m->cap = neapi_alloc(t->ranks * 8ll, "split");
  m->speed = neapi_alloc(t->ranks * 8ll, "split");
  m->member = neapi_alloc(t->ranks, "split");
  m->rest = neapi_alloc(t->slots * 8ll, "split");
  if (status || !m->unit || !m->total || !m->weight || !m->by_work || !m->next_group || !m->cap ||
      !m->speed || !m->member || !m->rest) {
    minimax_close(m);
    return NEAP_MEMORY;
  }
  m->equal = equal_costs(t);
  weigh_tokens(t, m->weight);
  for (int32_t e = 0; e < t->experts; e++)
    m->by_work[e] = 1;
  m->fastest = relative_speeds(t, m->speed);
  *scratch = m;
  return NEAP_OK;
}

/* ---- supply ---------------------------------------------------------------------------------- */

/* Tokens of every group, and of nodes without the expert. */
static void gather(minimax *m, const int64_t *node_load)
{
  neapi_flow_network *f = &m->flow;
  const neap_topology *t = f->topology;
  memset(m->total, 0, t->experts * 8ul);
  memset(f->outside, 0, t->experts * 8ul);
  memcpy(m->next_group, f->expert_group, t->experts * 4ul);
  for (int32_t g = 0; g < t->nodes; g++, node_load += t->experts)
    for (int32_t e = 0; e < t->experts; e++) {
      int32_t k = m->next_group[e];
      m->total[e] += node_load[e];
      if (k < f->expert_group[e + 1] && f->group_node[k] == g) {
        f->supply[k] = node_load[e];
        m->next_group[e]++;
      } else {
        f->outside[e] += node_load[e];
      }
    }
}

/* Units of a token: about 2^50 units are all work together, so that sums stay exact. */
static void choose_units(minimax *m)
{
  const neap_topology *t = m->flow.topology;
  double work = 0;
  for (int32_t e = 0; e < t->experts; e++)
    work += m->total[e] * t->cost[e];
  for (int32_t e = 0; e < t->experts; e++)
    m->unit[e] = m->equal || work <= 0 ? 1 : llround(fmax(1.0, ldexp(t->cost[e] / work, 50)));
  m->most = 0;
  for (int32_t e = 0; e < t->experts; e++)
    m->most += m->total[e] * m->unit[e];
}

static void to_units(minimax *m)
{
  neapi_flow_network *f = &m->flow;
  for (int32_t e = 0; e < f->topology->experts; e++) {
    f->outside[e] *= m->unit[e];
    for (int32_t k = f->expert_group[e]; k < f->expert_group[e + 1]; k++)
      f->supply[k] *= m->unit[e];
  }
}

/* ---- the bound ------------------------------------------------------------------------------- */

/* Units that a rank of that speed may take under a bound: whole tokens stay below it, unless this
 * is a rounding error of the product; fractions of tokens may exceed it by one unit. A rank that is
 * far faster than another one's bound needs could take more than there is. */
static int64_t allowed(const minimax *m, double speed, double bound)
{
  double units = m->equal ? floor(bound * speed * (1 + 0x1p-44)) : ceil(bound * speed);
  return units < m->most ? (int64_t)units : m->most;
}

static int64_t allowed_together(const minimax *m, const uint8_t *member, double bound)
{
  int64_t sum = 0;
  for (int32_t r = 0; r < m->flow.topology->ranks; r++)
    sum += member[r] ? allowed(m, m->speed[r], bound) : 0;
  return sum;
}

/* The least bound under which the member ranks together may take that work. */
static double bound_for(const minimax *m, const uint8_t *member, int64_t work)
{
  double speed = 0;
  int32_t count = 0;
  for (int32_t r = 0; r < m->flow.topology->ranks; r++) {
    speed += member[r] ? m->speed[r] : 0;
    count += member[r];
  }
  double low = work / speed, high = (work + count) / speed * (1 + 0x1p-40);
  if (speed == count)
    return (work + count - 1) / count;
  if (allowed_together(m, member, low) >= work)
    return low;
  for (int32_t i = 0; i < 60 && high - low > high * 0x1p-52; i++) {
    double middle = low + (high - low) / 2;
    *(allowed_together(m, member, middle) >= work ? &high : &low) = middle;
  }
  return high * (1 + 0x1p-46); /* clear of the edge, for other ranks that are full at this bound */
}

/* Raises the capacity of ranks to a bound above the present one. */
static void raise_capacity(minimax *m, double bound, int32_t first, int32_t last)
{
  for (int32_t r = first; r < last; r++) {
    int64_t cap = allowed(m, m->speed[r], bound);
    m->flow.capacity[r] += cap - m->cap[r];
    m->cap[r] = cap;
  }
}

static void clear_capacity(minimax *m)
{
  memset(m->flow.capacity, 0, m->flow.topology->ranks * 8ul);
  memset(m->cap, 0, m->flow.topology->ranks * 8ul);
}

/* Mean work: what no bound can be below. */
static double mean_bound(minimax *m)
{
  memset(m->member, 1, m->flow.topology->ranks);
  return bound_for(m, m->member, m->most);
}

/* Spreads what is in the pools under the least bound that is possible, and not below this one. */
static double spread_under(minimax *m, double bound, bool cheap)
{
  const neap_topology *t = m->flow.topology;
  while (neapi_flow_spread(&m->flow, cheap)) {
    int64_t work = neapi_flow_cut(&m->flow, m->member);
    bound = fmax(bound, bound_for(m, m->member, work));
    raise_capacity(m, bound, 0, t->ranks);
    cheap = false;
  }
  return bound;
}

static void fill_nodes(minimax *m)
{
  for (int32_t g = 0; g < m->flow.topology->nodes; g++)
    neapi_flow_fill_node(&m->flow, g);
  neapi_flow_pool(&m->flow);
}

/* The least bound from this one on; if that turned out to be above it, once more for the fewest
 * leavings, under one that is larger by a share of slack. */
static double solve_from(minimax *m, double bound, double slack)
{
  const neap_topology *t = m->flow.topology;
  for (bool again = true; again;) {
    clear_capacity(m);
    raise_capacity(m, bound, 0, t->ranks);
    neapi_flow_reset(&m->flow);
    fill_nodes(m);
    double least = spread_under(m, bound, true);
    again = least > bound;
    bound = again ? least * (1 + slack) : bound;
  }
  return bound;
}

/* Every node's own work under its own least bound; then what nodes lack, where it fits best. */
static double solve_local(minimax *m)
{
  neapi_flow_network *f = &m->flow;
  const neap_topology *t = f->topology;
  double bound = mean_bound(m);
  clear_capacity(m);
  neapi_flow_reset(f);
  for (int32_t g = 0; g < t->nodes; g++) {
    int32_t first = t->first_rank[g], last = t->first_rank[g + 1];
    double node = 0;
    while (neapi_flow_fill_node(f, g)) {
      int64_t work = neapi_flow_cut_node(f, g, m->member);
      node = fmax(node, bound_for(m, m->member, work));
      raise_capacity(m, node, first, last);
    }
    bound = fmax(bound, node);
  }
  neapi_flow_pool(f);
  raise_capacity(m, bound, 0, t->ranks);
  return spread_under(m, bound, false);
}

/* ---- a price --------------------------------------------------------------------------------- */

static const double NEARLY = 2.5e-4; /* of the cost: twice that is near enough to the least one */
enum { BOUNDS = 16 };                /* that are tried at most */

/* A bound, what the split under it costs beyond work of nodes that lack its expert, and how that
 * grows with the bound. */
typedef struct {
  double bound, cost, slope;
} priced;

/* The slope is looked for only where there may be something to gain. */
static priced solve_priced_under(minimax *m, double bound, double price)
{
  priced p = {solve_from(m, bound, NEARLY), 0, 1};
  p.cost = p.bound + price * (double)neapi_flow_left(&m->flow);
  if (p.cost > p.bound + NEARLY * p.cost)
    p.slope = 1 - price * neapi_flow_relief(&m->flow, m->speed);
  return p;
}

/* The bound at which the tangents of two bounds meet, and their cost there: what no bound between
 * them can be below. Without a slope at the lower one: a bound near it. */
static priced meet(priced low, priced high)
{
  double apart = high.bound - low.bound;
  if (isinf(low.slope))
    return (priced){low.bound + apart / 8, high.cost - high.slope * apart, 0};
  double at = (low.cost - high.cost + high.slope * apart) / (high.slope - low.slope);
  return (priced){low.bound + at, low.cost + low.slope * at, 0};
}

/* Bounds from the mean on, or from the least one if that is larger. Most often the first one is the
 * best. No cost is below its bound: the first tangent from above. */
static void solve_priced(minimax *m, double price)
{
  priced low = solve_priced_under(m, mean_bound(m) * (1 + NEARLY), price);
  priced high = {2 * low.cost, 2 * low.cost, 1}, best = low;
  double last = low.bound;
  for (int32_t i = 0; i < BOUNDS && low.slope < 0; i++) {
    priced next = meet(low, high);
    if (best.cost <= next.cost + NEARLY * best.cost)
      break;
    next = solve_priced_under(m, next.bound, price);
    last = next.bound;
    best = next.cost < best.cost ? next : best;
    *(next.slope < 0 ? &low : &high) = next;
  }
  if (best.bound != last)
    solve_from(m, best.bound, 0);
}

/* ---- whole tokens ---------------------------------------------------------------------------- */

/* The index among [first, last) that has a rest, and so may get one more token, and whose rank has
 * most capacity. */
static int32_t most_capacity(const neapi_flow_network *f, const int64_t *rest, int32_t first,
                             int32_t last)
{
  int32_t best = -1;
  int64_t best_capacity = 0;
  for (int32_t i = first; i < last; i++) {
    int64_t capacity = f->capacity[f->layout->rank_at[i]];
    if (rest[i] && (best < 0 || capacity > best_capacity)) {
      best = i;
      best_capacity = capacity;
    }
  }
  return best;
}

/* Rounds the work at indices [first, last), in units, to tokens with that sum: down, then up
 * again where most capacity is left. rest is overwritten. */
static void round_slots(neapi_flow_network *f, int64_t *work, int64_t *rest, int32_t first,
                        int32_t last, int64_t unit, int64_t tokens)
{
  for (int32_t i = first; i < last; i++) {
    rest[i] = work[i] % unit;
    work[i] /= unit;
    tokens -= work[i];
    f->capacity[f->layout->rank_at[i]] += rest[i];
  }
  for (; tokens > 0; tokens--) {
    int32_t index = most_capacity(f, rest, first, last);
    rest[index] = 0;
    work[index]++;
    f->capacity[f->layout->rank_at[index]] -= unit;
  }
}

/* Near tokens of a group are as many as it has and its slots take. */
static void divide_group(neapi_flow_network *f, int32_t group, int64_t tokens)
{
  for (int32_t i = f->group_first[group]; i < f->group_first[group + 1]; i++) {
    int64_t near = f->near[i] < tokens ? f->near[i] : tokens;
    f->far[i] = f->near[i] - near;
    f->near[i] = near;
    tokens -= near;
  }
}

static void round_minimax(minimax *m)
{
  neapi_flow_network *f = &m->flow;
  const int32_t *first = f->layout->first;
  for (int32_t i = 0; i < f->topology->slots; i++)
    f->near[i] += f->far[i];
  for (int32_t e = 0; e < f->topology->experts; e++) {
    round_slots(f, f->near, f->far, first[e], first[e + 1], m->unit[e], m->total[e]);
    for (int32_t k = f->expert_group[e]; k < f->expert_group[e + 1]; k++)
      divide_group(f, k, f->supply[k] / m->unit[e]);
  }
}

static void round_local(minimax *m)
{
  neapi_flow_network *f = &m->flow;
  const int32_t *first = f->layout->first;
  for (int32_t e = 0; e < f->topology->experts; e++) {
    int64_t unit = m->unit[e];
    round_slots(f, f->far, m->rest, first[e], first[e + 1], unit, f->outside[e] / unit);
    for (int32_t k = f->expert_group[e]; k < f->expert_group[e + 1]; k++)
      round_slots(f, f->near, m->rest, f->group_first[k], f->group_first[k + 1], unit,
                  f->supply[k] / unit);
  }
}

/* ---- rules ----------------------------------------------------------------------------------- */

static minimax *prepare(neap_split *split)
{
  minimax *m = split->scratch;
  m->flow.near = split->near;
  m->flow.far = split->far;
  neapi_flow_build(&m->flow, split->layout);
  gather(m, split->node_load);
  choose_units(m);
  to_units(m);
  return m;
}

static int local_compute(neap_split *split)
{
  minimax *m = prepare(split);
  m->flow.leaving = m->flow.weighted = false;
  solve_local(m);
  if (!m->equal)
    round_local(m);
  return NEAP_OK;
}

static int minimax_compute(neap_split *split)
{
  if (isinf(split->price))
    return local_compute(split);
  minimax *m = prepare(split);
  m->flow.leaving = true;
  m->flow.weighted = !m->equal && !split->price;
  m->flow.weight = split->price ? m->by_work : m->weight;
  if (split->price)
    solve_priced(m, split->price * m->fastest / split->topology->ranks);
  else
    solve_from(m, mean_bound(m), 0);
  if (!m->equal)
    round_minimax(m);
  return NEAP_OK;
}

const neapi_split_rule neapi_split_minimax = {"minimax",       true, minimax_open, minimax_close,
                                              minimax_compute, NULL};
const neapi_split_rule neapi_split_local = {"local",       false,         minimax_open,
                                            minimax_close, local_compute, NULL};
