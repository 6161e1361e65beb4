/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap's judge, and its climb: single changes that make a layout cheaper over all samples.
 *
 * What a layout costs: the mean over samples of the fullest rank's level, a part of the worst one,
 * work that has to leave its node, for want of replicas or of room there (the latter is not
 * looked at again while climbing), and slots that change, if these have a price. In a sample whose
 * fullest rank is above the mean the ranks near it are critical. A change promises what it takes
 * from critical ranks that others have room for, less what it brings them, and what it keeps on its
 * node; the most promising are tried, and the first that makes the layout cheaper stays. */
#include "plan/neap/shortlist.h"
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

static const double WORST = 0.2;       /* weight of the worst sample */
static const float TOLERANCE = 1e-3f;  /* of a level */
static const double LEAST_GAIN = 2e-5; /* of a change */
static const float NEAR_MOST = 0.2f;   /* part of the excess that a critical rank may lack */
enum { CANDIDATES = 4, PROMISING = 24, SWAPPING = 1, FILL_ROUNDS = 4, SETTLE_ROUNDS = 1 };
/* The same on exact counts, where only one slot of a rank may change. */
enum { LATE_PROMISING = 96, LATE_SWAPPING = 9, LATE_FILL_ROUNDS = 16, LATE_SETTLE_ROUNDS = 3 };

/* ---- cost ------------------------------------------------------------------------------------ */

static double levels_cost(const neapi_neap *n, const neapi_lanes *most)
{
  double sum = 0, worst = 0;
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    double level = most->of[i] > 1 ? most->of[i] : 1;
    sum += level;
    worst = level > worst ? level : worst;
  }
  return sum / NEAPI_LANES + WORST * worst + (n->leaving + n->excess) * n->toll +
         n->change_price * n->changed / n->topology->ranks;
}

double neapi_neap_ideal(void)
{
  return 1 + WORST;
}

static double current_cost(neapi_neap *n)
{
  neapi_levels_most(&n->levels, &n->most);
  return levels_cost(n, &n->most);
}

static int32_t node_of(const neapi_neap *n, int32_t slot)
{
  return n->topology->node_of[n->topology->rank_of[slot]];
}

static void count_nodes(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->node_count, 0, sizeof *n->node_count * t->nodes * t->experts);
  for (int32_t s = 0; s < t->slots; s++)
    ++*neapi_neap_on_node(n, node_of(n, s), n->expert_of[s]);
  n->leaving = 0;
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++)
      n->leaving += *neapi_neap_on_node(n, g, e) ? 0 : n->load[(int64_t)g * t->experts + e];
}

/* Gives what a rank held before its slot of before, and counts the slots that change. */
static void match_previous(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  const int32_t *before = n->previous;
  n->changed = 0;
  for (int32_t r = 0; before && r < t->ranks; r++) {
    int32_t first = t->first_slot[r], last = t->first_slot[r + 1];
    for (int32_t s = first; s < last; s++)
      for (int32_t other = first; n->expert_of[s] != before[s] && other < last; other++)
        if (n->expert_of[other] == before[s] && before[other] != before[s]) {
          n->expert_of[other] = n->expert_of[s];
          n->expert_of[s] = before[s];
        }
    for (int32_t s = first; s < last; s++)
      n->changed += n->expert_of[s] != before[s];
  }
}

double neapi_neap_judge(neapi_neap *n, double least)
{
  match_previous(n);
  count_nodes(n);
  n->excess = 0;
  neapi_levels_fill(&n->levels, n->late ? LATE_FILL_ROUNDS : FILL_ROUNDS);
  double cost = current_cost(n);
  for (int32_t i = 0; i < NEAPI_LANES; i++)
    n->most.of[i] = n->most.of[i] > 1 ? n->most.of[i] : 1;
  if (!n->late && cost < least)
    n->excess =
        neapi_levels_excess(&n->levels, n->load, &n->most, FILL_ROUNDS, n->kept_part, n->kept_load);
  return cost + n->excess * n->toll;
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

static void put(neapi_neap *n, int32_t slot, int32_t expert)
{
  int32_t node = node_of(n, slot), old = n->expert_of[slot];
  const double *load = n->load + (int64_t)node * n->topology->experts;
  n->leaving += --*neapi_neap_on_node(n, node, old) ? 0 : load[old];
  n->leaving -= (*neapi_neap_on_node(n, node, expert))++ ? 0 : load[expert];
  if (n->previous)
    n->changed += (expert != n->previous[slot]) - (old != n->previous[slot]);
  if (n->late)
    n->late_slot[n->topology->rank_of[slot]] = expert == n->start[slot] ? -1 : slot;
  neapi_levels_put(&n->levels, slot, expert);
}

/* What an expert would keep on a node that lacks it. */
static double would_keep(const neapi_neap *n, int32_t node, int32_t expert)
{
  const double *load = n->load + (int64_t)node * n->topology->experts;
  return *neapi_neap_on_node(n, node, expert) ? 0 : load[expert];
}

/* What a slot's expert keeps on its node by that slot alone. */
static double keeps(const neapi_neap *n, int32_t slot)
{
  int32_t node = node_of(n, slot), expert = n->expert_of[slot];
  const double *load = n->load + (int64_t)node * n->topology->experts;
  return *neapi_neap_on_node(n, node, expert) > 1 ? 0 : load[expert];
}

static void keep_levels(neapi_neap *n, neapi_lanes *part, neapi_lanes *load,
                        const neapi_lanes *from_part, const neapi_lanes *from_load)
{
  memcpy(part, from_part, sizeof *part * (size_t)n->topology->slots);
  memcpy(load, from_load, sizeof *load * (size_t)n->topology->ranks);
}

/* The expert without a replica on a node that has most work there; -1: there is none. */
static void find_missing(neapi_neap *n, int32_t node)
{
  const double *load = n->load + (int64_t)node * n->topology->experts;
  int32_t best = -1;
  for (int32_t e = 0; e < n->topology->experts; e++)
    if (!*neapi_neap_on_node(n, node, e) && load[e] > (best < 0 ? 0 : load[best]))
      best = e;
  n->missing[node] = best;
}

/* Makes a change if that makes the layout cheaper. */
static bool try(neapi_neap *n, neapi_change c, double *cost)
{
  int32_t old = n->expert_of[c.slot];
  double leaving = n->leaving;
  n->tries--;
  keep_levels(n, n->kept_part, n->kept_load, n->levels.part, n->levels.load);
  put(n, c.slot, c.expert);
  if (c.other >= 0)
    put(n, c.other, old);
  neapi_levels_pour(&n->levels, old);
  neapi_levels_pour(&n->levels, c.expert);
  for (int32_t i = 0; i < (n->late ? LATE_SETTLE_ROUNDS : SETTLE_ROUNDS); i++)
    neapi_levels_settle(&n->levels);
  double changed = current_cost(n);
  if (changed < *cost - LEAST_GAIN) {
    *cost = changed;
    find_missing(n, node_of(n, c.slot));
    if (c.other >= 0)
      find_missing(n, node_of(n, c.other));
    return true;
  }
  put(n, c.slot, old);
  if (c.other >= 0)
    put(n, c.other, c.expert);
  n->leaving = leaving;
  keep_levels(n, n->levels.part, n->levels.load, n->kept_part, n->kept_load);
  return false;
}

/* ---- what promises something ----------------------------------------------------------------- */

/* Per sample, what a unit of work off the critical ranks gains. */
static void find_critical(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  neapi_lanes least, speed = {{0}};
  neapi_levels_most(&n->levels, &n->most);
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    float excess = n->most.of[i] - 1;
    least.of[i] = excess > TOLERANCE ? n->most.of[i] - NEAR_MOST * excess : 1e30f;
  }
  for (int32_t r = 0; r < t->ranks; r++) {
    neapi_lanes load = n->levels.load[r], critical; /* copies: vectors need to know them apart */
    float own = n->levels.speed[r];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      critical.of[i] = load.of[i] >= least.of[i] * own ? 1.0f : 0.0f;
      speed.of[i] += critical.of[i] * own;
    }
    n->critical[r] = critical;
  }
  for (int32_t i = 0; i < NEAPI_LANES; i++)
    n->gain.of[i] = speed.of[i] > 0 ? 1 / speed.of[i] / NEAPI_LANES : 0;
}

/* What a rank can still take without being the fullest. */
static inline float room_at(const neapi_neap *n, int32_t rank, int32_t lane)
{
  return n->most.of[lane] * n->levels.speed[rank] - n->levels.load[rank].of[lane];
}

/* Per expert, its work on critical ranks, and what its ranks can still take. */
static void find_confined(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->stuck, 0, sizeof *n->stuck * (size_t)t->experts);
  memset(n->room, 0, sizeof *n->room * (size_t)t->experts);
  for (int32_t s = 0; s < t->slots; s++) {
    int32_t rank = t->rank_of[s];
    const neapi_lanes *critical = &n->critical[rank], *part = &n->levels.part[s];
    neapi_lanes *stuck = &n->stuck[n->expert_of[s]], *room = &n->room[n->expert_of[s]];
    for (int32_t i = 0; i < NEAPI_LANES; i++) {
      stuck->of[i] += critical->of[i] * part->of[i];
      room->of[i] += room_at(n, rank, i);
    }
  }
}

/* In an order that vectors can add in, and with few detours over memory. */
static float sum_lanes(const neapi_lanes *a)
{
  enum { PART = NEAPI_LANES / 4 };
  const float *of = a->of;
  float sum[PART];
  for (int32_t i = 0; i < PART; i++)
    sum[i] = (of[i] + of[i + 2 * PART]) + (of[i + PART] + of[i + 3 * PART]);
  for (int32_t half = PART / 2; half; half /= 2)
    for (int32_t i = 0; i < half; i++)
      sum[i] += sum[i + half];
  return sum[0];
}

/* What a replica of an expert takes from critical ranks in the place of a slot's, at most. */
static float relief(const neapi_neap *n, int32_t slot, int32_t expert)
{
  int32_t rank = n->topology->rank_of[slot];
  const neapi_lanes *part = &n->levels.part[slot], *stuck = &n->stuck[expert];
  neapi_lanes product;
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    float room = room_at(n, rank, i) + part->of[i];
    float work = stuck->of[i] < room ? stuck->of[i] : room;
    float gain = n->gain.of[i] * (1 - n->critical[rank].of[i]) * work;
    float most = (n->most.of[i] - 1) / NEAPI_LANES;
    product.of[i] = gain < most ? gain : most;
  }
  return sum_lanes(&product);
}

/* What no replica of an expert takes more than. */
static float most_relief(const neapi_neap *n, int32_t expert)
{
  neapi_lanes product;
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    float gain = n->gain.of[i] * n->stuck[expert].of[i];
    float most = (n->most.of[i] - 1) / NEAPI_LANES;
    product.of[i] = gain < most ? gain : most;
  }
  return sum_lanes(&product);
}

/* What the other ranks of a slot's expert would have too much of without the slot. */
static float harm(const neapi_neap *n, int32_t slot)
{
  int32_t old = n->expert_of[slot], rank = n->topology->rank_of[slot];
  float each = 1 / (float)(n->levels.count[old] - 1) / NEAPI_LANES;
  neapi_lanes product;
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    float over = n->levels.part[slot].of[i] - (n->room[old].of[i] - room_at(n, rank, i));
    product.of[i] = over > 0 ? over * each : 0;
  }
  return sum_lanes(&product);
}

static bool may_change(const neapi_neap *n, int32_t slot)
{
  int32_t late = n->late ? n->late_slot[n->topology->rank_of[slot]] : -1;
  return late < 0 || late == slot;
}

static void add_replicas(neapi_neap *n, int32_t expert, int32_t first, int32_t last,
                         neapi_shortlist *list)
{
  const neap_topology *t = n->topology;
  double at_most = most_relief(n, expert);
  for (int32_t r = first; r < last; r++) {
    if (on_rank(n, r, expert))
      continue;
    double kept = n->toll * would_keep(n, t->node_of[r], expert);
    neapi_change best = {neapi_shortlist_least(list, LEAST_GAIN), -1, expert, -1, 0, 0};
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      double rest = kept - n->harm[s];
      if (n->levels.count[n->expert_of[s]] == 1 || at_most + rest <= best.score ||
          !may_change(n, s))
        continue;
      double score = relief(n, s, expert) + rest;
      if (score > best.score)
        best = (neapi_change){score, s, expert, -1, 0, 0};
    }
    if (best.slot >= 0)
      neapi_shortlist_add(list, best);
  }
}

/* What the change of places of two slots takes from critical ranks. */
static float exchange(const neapi_neap *n, int32_t slot, int32_t other)
{
  const neap_topology *t = n->topology;
  int32_t rank = t->rank_of[slot], to = t->rank_of[other];
  neapi_lanes product;
  for (int32_t i = 0; i < NEAPI_LANES; i++) {
    float moved = n->levels.part[slot].of[i] - n->levels.part[other].of[i];
    float room = n->most.of[i] * n->levels.speed[to] - n->levels.load[to].of[i];
    float eased = moved < room - moved ? moved : room - moved;
    product.of[i] = n->gain.of[i] * n->critical[rank].of[i] * eased;
  }
  return sum_lanes(&product);
}

static void add_swaps(neapi_neap *n, int32_t slot, neapi_shortlist *list)
{
  const neap_topology *t = n->topology;
  int32_t home = t->rank_of[slot], expert = n->expert_of[slot];
  for (int32_t r = 0; r < t->ranks; r++) {
    if (r == home || on_rank(n, r, expert))
      continue;
    neapi_change best = {LEAST_GAIN, -1, expert, slot, 0, 0};
    double comes = would_keep(n, t->node_of[r], expert) - keeps(n, slot);
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      int32_t old = n->expert_of[s];
      double stays = t->node_of[r] == t->node_of[home]
                         ? 0
                         : comes + would_keep(n, t->node_of[home], old) - keeps(n, s);
      double score = exchange(n, slot, s) + n->toll * stays;
      if (score > best.score && !on_rank(n, home, old) && may_change(n, s))
        best = (neapi_change){score, s, expert, slot, 0, 0};
    }
    if (best.slot >= 0)
      neapi_shortlist_add(list, best);
  }
}

/* Experts with most work on critical ranks. */
static int32_t find_experts(const neapi_neap *n, int32_t *experts)
{
  neapi_change best[PROMISING];
  neapi_shortlist list = {.most = PROMISING, .best = best};
  for (int32_t e = 0; e < n->topology->experts; e++) {
    neapi_lanes product;
    for (int32_t i = 0; i < NEAPI_LANES; i++)
      product.of[i] = n->gain.of[i] * n->stuck[e].of[i];
    double work = sum_lanes(&product);
    if (work > 0)
      neapi_shortlist_add(&list, (neapi_change){work, -1, e, -1, 0, 0});
  }
  int32_t count = list.count < CANDIDATES ? list.count : CANDIDATES;
  for (int32_t i = 0; i < count; i++)
    experts[i] = list.best[i].expert;
  return count;
}

/* The ranks that are critical in most samples. */
static int32_t find_ranks(const neapi_neap *n, int32_t *ranks)
{
  neapi_change best[LATE_SWAPPING];
  neapi_shortlist list = {.most = n->late ? LATE_SWAPPING : SWAPPING, .best = best};
  for (int32_t r = 0; r < n->topology->ranks; r++) {
    neapi_lanes product;
    for (int32_t i = 0; i < NEAPI_LANES; i++)
      product.of[i] = n->gain.of[i] * n->critical[r].of[i];
    double critical = sum_lanes(&product);
    if (critical > 0)
      neapi_shortlist_add(&list, (neapi_change){critical, r, -1, -1, 0, 0});
  }
  for (int32_t i = 0; i < list.count; i++)
    ranks[i] = list.best[i].slot;
  return list.count;
}

/* On every node, the expert that is missing there most. */
static void add_missing(neapi_neap *n, neapi_shortlist *list)
{
  const neap_topology *t = n->topology;
  for (int32_t g = 0; g < t->nodes; g++)
    if (n->missing[g] >= 0)
      add_replicas(n, n->missing[g], t->first_rank[g], t->first_rank[g + 1], list);
}

static void find_changes(neapi_neap *n, neapi_shortlist *list)
{
  const neap_topology *t = n->topology;
  int32_t experts[CANDIDATES], ranks[LATE_SWAPPING];
  find_critical(n);
  find_confined(n);
  for (int32_t s = 0; s < t->slots; s++)
    n->harm[s] = n->levels.count[n->expert_of[s]] > 1 ? harm(n, s) + n->toll * keeps(n, s) : 0;
  int32_t count = find_experts(n, experts);
  for (int32_t i = 0; i < count; i++)
    add_replicas(n, experts[i], 0, t->ranks, list);
  count = find_ranks(n, ranks);
  for (int32_t i = 0; i < count; i++)
    for (int32_t s = t->first_slot[ranks[i]]; s < t->first_slot[ranks[i] + 1]; s++)
      if (may_change(n, s))
        add_swaps(n, s, list);
  if (!n->late)
    add_missing(n, list);
}

double neapi_neap_climb(neapi_neap *n, int32_t tries)
{
  double cost = neapi_neap_judge(n, INFINITY);
  n->tries = tries;
  for (int32_t g = 0; g < n->topology->nodes; g++)
    find_missing(n, g);
  for (bool better = true; better && n->tries > 0;) {
    neapi_change best[LATE_PROMISING];
    neapi_shortlist list = {.most = n->late ? LATE_PROMISING : PROMISING, .best = best};
    better = false;
    find_changes(n, &list);
    for (int32_t i = 0; i < list.count && !better && n->tries > 0; i++)
      better = try(n, list.best[i], &cost);
  }
  return cost;
}
