/* SPDX-License-Identifier: Apache-2.0 */
/* The splits minimax and local against brute force over expert sets and against a plain
 * shortest-path min-cost flow, on random small topologies, layouts and loads. */
#include "check.h"

#include <neap.h>
#include <stdlib.h>

enum {
  RANKS = 7,
  EXPERTS = 7,
  SLOTS = 24,
  CASES = 600,
  VERTICES = 100,
  FAR_AWAY = 1 << 20,
  FAR_APART = 100000
};

typedef struct {
  uint64_t seed, next;
  int32_t ranks, experts, slots;
  int32_t node_of[RANKS], slots_of[RANKS], rank_of[SLOTS], expert_of[SLOTS];
  double cost[EXPERTS], speed[RANKS];
  int64_t load[RANKS * EXPERTS];
  neap_topology *topology;
  neap_layout *layout;
} problem;

static int32_t draw(problem *p, int32_t bound)
{
  return neap_random_bits(p->seed, 7, p->next++) % bound;
}

/* Powers of two: products with them are exact, however far apart they are. */
static double far_apart(problem *p)
{
  return ldexp(1, draw(p, 39) - 19);
}

static void draw_topology(problem *p, bool costs, bool speeds)
{
  do {
    p->ranks = 1 + draw(p, RANKS);
    p->experts = 1 + draw(p, EXPERTS);
    p->slots = 0;
    for (int32_t r = 0; r < p->ranks; r++) {
      p->node_of[r] = r ? p->node_of[r - 1] + !draw(p, 3) : 0;
      p->slots_of[r] = 1 + draw(p, 3);
      for (int32_t i = 0; i < p->slots_of[r]; i++)
        p->rank_of[p->slots++] = r;
    }
  } while (p->slots < p->experts);
  for (int32_t e = 0; e < p->experts; e++)
    p->cost[e] = costs ? 0.5 + draw(p, 1000) / 300.0 : 1.0;
  for (int32_t r = 0; r < p->ranks; r++)
    p->speed[r] = speeds ? 0.25 + draw(p, 1000) / 600.0 : 1.0;
  if (p->seed < FAR_APART)
    return;
  for (int32_t e = 0; costs && e < p->experts; e++)
    p->cost[e] = far_apart(p);
  for (int32_t r = 0; speeds && r < p->ranks; r++)
    p->speed[r] = far_apart(p);
}

static void draw_layout(problem *p)
{
  for (int32_t s = 0; s < p->slots; s++)
    p->expert_of[s] = s < p->experts ? s : draw(p, p->experts);
  for (int32_t s = p->slots - 1; s > 0; s--) {
    int32_t other = draw(p, s + 1), expert = p->expert_of[s];
    p->expert_of[s] = p->expert_of[other];
    p->expert_of[other] = expert;
  }
}

static void draw_load(problem *p)
{
  int32_t scale = (int32_t[]){1, 3, 50, 100000}[draw(p, 4)];
  for (int32_t i = 0; i < p->ranks * p->experts; i++)
    p->load[i] = draw(p, 4) ? draw(p, scale + 1) * (draw(p, 5) ? 1 : 7) : 0;
}

static bool make(problem *p, uint64_t seed, bool costs, bool speeds)
{
  *p = (problem){.seed = seed};
  draw_topology(p, costs, speeds);
  draw_layout(p);
  draw_load(p);
  return check(
      !neap_topology_open(p->ranks, p->experts, p->node_of, p->slots_of, costs ? p->cost : NULL,
                          speeds ? p->speed : NULL, &p->topology) &&
          !neap_layout_open(p->topology, &p->layout) && !neap_layout_set(p->layout, p->expert_of),
      "case %d: %s", (int)seed, neap_error_message());
}

static void drop(problem *p)
{
  neap_layout_close(p->layout);
  neap_topology_close(p->topology);
}

/* ---- least max load by all sets of experts --------------------------------------------------- */

static bool holds(const problem *p, int32_t rank, int32_t set)
{
  for (int32_t s = 0; s < p->slots; s++)
    if (p->rank_of[s] == rank && set >> p->expert_of[s] & 1)
      return true;
  return false;
}

static int64_t tokens_of(const problem *p, int32_t expert)
{
  int64_t sum = 0;
  for (int32_t r = 0; r < p->ranks; r++)
    sum += p->load[r * p->experts + expert];
  return sum;
}

/* Least bound under which those ranks may take so many whole tokens: some rank is exactly full. */
static double whole_bound(const problem *p, const bool *member, int64_t tokens)
{
  double best = INFINITY;
  for (int32_t r = 0; r < p->ranks; r++) {
    int64_t low = -1, high = tokens; /* tokens of rank r when it is the one that is full */
    while (member[r] && high - low > 1) {
      int64_t middle = low + (high - low) / 2, fit = 0;
      for (int32_t q = 0; q < p->ranks; q++)
        fit += member[q] ? floor(middle / p->speed[r] * p->speed[q] + 1e-6) : 0;
      *(fit >= tokens ? &high : &low) = middle;
    }
    if (member[r])
      best = fmin(best, high / p->speed[r]);
  }
  return best;
}

static double least_max(const problem *p, bool whole)
{
  double worst = 0;
  for (int32_t set = 1; set < 1 << p->experts; set++) {
    bool member[RANKS];
    double work = 0, speed = 0;
    int64_t tokens = 0;
    for (int32_t e = 0; e < p->experts; e++)
      if (set >> e & 1) {
        tokens += tokens_of(p, e);
        work += tokens_of(p, e) * p->cost[e];
      }
    for (int32_t r = 0; r < p->ranks; r++) {
      member[r] = holds(p, r, set);
      speed += member[r] ? p->speed[r] : 0;
    }
    worst = fmax(worst, whole ? whole_bound(p, member, tokens) : work / speed);
  }
  return worst;
}

/* ---- fewest tokens across nodes, by a plain min-cost flow ------------------------------------ */

typedef struct {
  int32_t vertices;
  int64_t capacity[VERTICES][VERTICES];
  int32_t price[VERTICES][VERTICES];
} network;

static void arc(network *n, int32_t from, int32_t to, int64_t capacity, int32_t price)
{
  n->capacity[from][to] = capacity;
  n->price[from][to] = price;
  n->price[to][from] = -price;
}

/* Bellman and Ford from 0; the last vertex is the sink. Returns the price of one more unit. */
static int32_t cheapest(const network *n, int32_t *before)
{
  int32_t price[VERTICES] = {0};
  for (int32_t v = 1; v < n->vertices; v++)
    price[v] = FAR_AWAY;
  for (bool changed = true; changed;) {
    changed = false;
    for (int32_t v = 0; v < n->vertices; v++)
      for (int32_t w = 0; w < n->vertices; w++)
        if (n->capacity[v][w] && price[v] < FAR_AWAY && price[v] + n->price[v][w] < price[w]) {
          price[w] = price[v] + n->price[v][w];
          before[w] = v;
          changed = true;
        }
  }
  return price[n->vertices - 1];
}

/* Sends all it can; returns amount, adds to *cost. */
static int64_t send(network *n, int64_t *cost)
{
  int32_t before[VERTICES], price, sink = n->vertices - 1;
  int64_t sent = 0;
  while ((price = cheapest(n, before)) < FAR_AWAY) {
    int64_t amount = INT64_MAX;
    for (int32_t w = sink; w; w = before[w])
      amount = amount < n->capacity[before[w]][w] ? amount : n->capacity[before[w]][w];
    for (int32_t w = sink; w; w = before[w]) {
      n->capacity[before[w]][w] -= amount;
      n->capacity[w][before[w]] += amount;
    }
    sent += amount;
    *cost += amount * price;
  }
  return sent;
}

/* Vertices: source, node x expert, ranks, sink; leaving the node costs 1. */
static int64_t fewest_across(const problem *p, double bound)
{
  static network n;
  int32_t nodes = p->node_of[p->ranks - 1] + 1, pairs = nodes * p->experts;
  memset(&n, 0, sizeof n);
  n.vertices = pairs + p->ranks + 2;
  int64_t total = 0, cost = 0;
  for (int32_t r = 0; r < p->ranks; r++) {
    for (int32_t e = 0; e < p->experts; e++) {
      n.capacity[0][1 + p->node_of[r] * p->experts + e] += p->load[r * p->experts + e];
      total += p->load[r * p->experts + e];
    }
    arc(&n, 1 + pairs + r, n.vertices - 1, floor(bound * p->speed[r] + 1e-6), 0);
  }
  for (int32_t s = 0; s < p->slots; s++)
    for (int32_t g = 0; g < nodes; g++)
      arc(&n, 1 + g * p->experts + p->expert_of[s], 1 + pairs + p->rank_of[s], INT64_MAX / 4,
          g != p->node_of[p->rank_of[s]]);
  int64_t sent = send(&n, &cost);
  check(sent == total, "reference flow sends %lld of %lld", (long long)sent, (long long)total);
  return cost;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static neap_balance compute(const problem *p, const char *rule, int64_t *tokens)
{
  neap_split *split = NULL;
  neap_balance balance = {0};
  check(!neap_split_open(p->topology, rule, &split) &&
            !neap_split_compute(split, p->layout, p->load) &&
            !neap_split_balance(split, &balance) && !neap_split_slot_tokens(split, tokens),
        "case %d: %s", (int)p->seed, neap_error_message());
  neap_split_close(split);
  return balance;
}

static void check_conserved(const problem *p, const int64_t *tokens)
{
  for (int32_t e = 0; e < p->experts; e++) {
    int64_t sum = 0;
    for (int32_t s = 0; s < p->slots; s++)
      if (p->expert_of[s] == e) {
        sum += tokens[s];
        check(tokens[s] >= 0, "case %d: slot %d has %lld", (int)p->seed, s, (long long)tokens[s]);
      }
    check(sum == tokens_of(p, e), "case %d: expert %d has %lld tokens instead of %lld",
          (int)p->seed, e, (long long)sum, (long long)tokens_of(p, e));
  }
}

static void check_whole(uint64_t seed, bool speeds)
{
  problem p;
  int64_t tokens[SLOTS];
  if (!make(&p, seed, false, speeds))
    return;
  neap_balance balance = compute(&p, "minimax", tokens);
  check_conserved(&p, tokens);
  double bound = least_max(&p, true);
  check_close(balance.max_work, bound, 1e-9, "max work");
  if (seed >= FAR_APART) { /* the flow below counts in whole tokens at moderate bounds */
    drop(&p);
    return;
  }
  int64_t across = fewest_across(&p, bound);
  check(balance.inter_node == across, "case %d: %lld tokens cross nodes; the fewest are %lld",
        (int)seed, (long long)balance.inter_node, (long long)across);
  drop(&p);
}

static void check_costs(uint64_t seed)
{
  problem p;
  int64_t tokens[SLOTS];
  if (!make(&p, seed, true, seed & 1))
    return;
  neap_balance balance = compute(&p, "minimax", tokens);
  check_conserved(&p, tokens);
  double bound = least_max(&p, false), above = 0, grain = 0;
  for (int32_t e = 0; e < p.experts; e++) /* a token counts as 2^-50 of all work at least */
    for (int32_t other = 0; other < p.experts; other++)
      grain += ldexp((double)tokens_of(&p, e) * p.cost[e] * tokens_of(&p, other), -50);
  for (int32_t r = 0; r < p.ranks; r++) {
    double work = -grain, one_each = 0;
    for (int32_t s = 0; s < p.slots; s++)
      if (p.rank_of[s] == r) {
        work += tokens[s] * p.cost[p.expert_of[s]];
        one_each += p.cost[p.expert_of[s]];
      }
    above = fmax(above, p.experts > 1 ? (work - one_each) / p.speed[r] : 0);
  }
  check(balance.max_work >= bound * (1 - 1e-9), "case %d: max work %g is below the least %g",
        (int)seed, balance.max_work, bound);
  check(above <= bound * (1 + 1e-9), "case %d: %g is too far above the least max work %g",
        (int)seed, balance.max_work, bound);
  drop(&p);
}

/* Tokens of experts that the node has stay in it; one node's max is the least there is. */
static void check_local(uint64_t seed)
{
  problem p;
  int64_t tokens[SLOTS], lacking = 0;
  bool costs = seed % 3 == 0;
  if (!make(&p, seed, costs, seed & 1))
    return;
  neap_balance least = compute(&p, "minimax", tokens), balance = compute(&p, "local", tokens);
  check_conserved(&p, tokens);
  for (int32_t r = 0; r < p.ranks; r++)
    for (int32_t e = 0; e < p.experts; e++) {
      bool has = false;
      for (int32_t s = 0; s < p.slots; s++)
        has |= p.expert_of[s] == e && p.node_of[p.rank_of[s]] == p.node_of[r];
      lacking += has ? 0 : p.load[r * p.experts + e];
    }
  check(balance.inter_node == lacking, "case %d: %lld tokens cross nodes instead of %lld",
        (int)seed, (long long)balance.inter_node, (long long)lacking);
  check(costs || balance.max_work >= least.max_work * (1 - 1e-9), "case %d: local beats minimax",
        (int)seed);
  if (p.node_of[p.ranks - 1] == 0 && !costs)
    check_close(balance.max_work, least.max_work, 1e-9, "local max work of one node");
  drop(&p);
}

int main(void)
{
  for (uint64_t seed = 1; seed <= CASES; seed++) {
    check_whole(seed, false);
    check_whole(seed, true);
    check_costs(seed);
    check_local(seed);
    check_whole(FAR_APART + seed, true);
    check_costs(FAR_APART + seed);
    check_local(FAR_APART + seed);
  }
  return check_done();
}
