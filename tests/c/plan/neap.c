/* SPDX-License-Identifier: Apache-2.0 */
/* What planner neap promises beyond a valid layout (which planners.c tries on every planner): it
 * keeps its layouts splittable when loads drift, nodes that differ for long get what they need, and
 * slots, costs and speeds are used. Loads follow the model of popularity that drifts and ranks that
 * scatter around it. */
#include "check.h"

#include <neap.h>
#include <stdlib.h>

enum { STEPS = 12, WARM = 4, MOST_RANKS = 32, MOST_EXPERTS = 32, TOKENS = 4096 };

typedef struct {
  int32_t ranks, node_size, experts, slots; /* slots per rank */
  double *cost, *speed;
  double per_node;          /* deviation of log popularity that a node keeps */
  double plan_at, split_at; /* prices of work across nodes */
} setting;

typedef struct {
  double imbalance, across; /* means over steps: max / mean work; share of tokens */
} score;

/* loads[STEPS][ranks][experts] of whole tokens. */
static void draw_loads(const setting *s, uint64_t seed, double *loads)
{
  double popularity[MOST_EXPERTS];
  uint64_t key = 0;
  for (int32_t e = 0; e < s->experts; e++)
    popularity[e] = neap_random_normal(seed, 1, e);
  for (int32_t i = 0; i < STEPS; i++)
    for (int32_t r = 0; r < s->ranks; r++) {
      double weight[MOST_EXPERTS], sum = 0;
      for (int32_t e = 0; e < s->experts; e++) {
        if (!r)
          popularity[e] += 0.15 * neap_random_normal(seed, 2, key++);
        double own = s->per_node * neap_random_normal(seed, 3, r / s->node_size * 64 + e);
        weight[e] = exp(popularity[e] + own + 0.6 * neap_random_normal(seed, 4, key++));
        sum += weight[e];
      }
      for (int32_t e = 0; e < s->experts; e++)
        *loads++ = floor(TOKENS * weight[e] / sum);
    }
}

static neap_topology *open_topology(const setting *s)
{
  int32_t node_of[MOST_RANKS], slots_of[MOST_RANKS];
  neap_topology *topology = NULL;
  for (int32_t r = 0; r < s->ranks; r++) {
    node_of[r] = r / s->node_size;
    slots_of[r] = s->slots;
  }
  check(!neap_topology_open(s->ranks, s->experts, node_of, slots_of, s->cost, s->speed, &topology),
        "%s", neap_error_message());
  return topology;
}

/* Plans every step on the ones before and splits it exactly. effort < 0: the default. */
static score replay(const setting *s, uint64_t seed, const char *name, double effort)
{
  static double loads[STEPS * MOST_RANKS * MOST_EXPERTS];
  static int64_t tokens[MOST_RANKS * MOST_EXPERTS];
  int32_t pairs = s->ranks * s->experts;
  neap_topology *topology = open_topology(s);
  neap_planner *planner;
  neap_layout *layout, *next;
  neap_split *split;
  score sum = {0, 0};
  draw_loads(s, seed, loads);
  check(!neap_planner_open(topology, name, &planner) && !neap_layout_open(topology, &layout) &&
            !neap_layout_open(topology, &next) && !neap_split_open(topology, "minimax", &split),
        "%s", neap_error_message());
  if (effort >= 0)
    check(!neap_planner_set(planner, "effort", effort), "%s", neap_error_message());
  check(!neap_split_set_price(split, s->split_at) &&
            (!s->plan_at || !neap_planner_set(planner, "far_price", s->plan_at)),
        "%s", neap_error_message());
  for (int32_t i = WARM; i < STEPS; i++) {
    const double *history[WARM];
    neap_balance balance;
    for (int32_t k = 0; k < WARM; k++)
      history[k] = loads + (i - WARM + k) * pairs;
    for (int32_t k = 0; k < pairs; k++)
      tokens[k] = loads[i * pairs + k];
    check(!neap_planner_plan_history(planner, history, WARM, i > WARM ? layout : NULL, 0, next) &&
              !neap_layout_copy(layout, next) && !neap_split_compute(split, layout, tokens) &&
              !neap_split_balance(split, &balance),
          "%s", neap_error_message());
    sum.imbalance += balance.imbalance / (STEPS - WARM);
    sum.across += (double)balance.inter_node / balance.tokens / (STEPS - WARM);
  }
  neap_split_close(split);
  neap_layout_close(next);
  neap_layout_close(layout);
  neap_planner_close(planner);
  neap_topology_close(topology);
  return sum;
}

static score mean_of(const setting *s, const char *name, double effort)
{
  score sum = {0, 0};
  for (uint64_t seed = 1; seed <= 4; seed++) {
    score one = replay(s, seed, name, effort);
    sum.imbalance += one.imbalance / 4;
    sum.across += one.across / 4;
  }
  return sum;
}

/* Nodes that can hold every expert: balanced, and hardly a token leaves its node. */
static void test_whole_nodes(void)
{
  setting s = {16, 8, 12, 4, NULL, NULL, 0, 0, 0};
  score neap = mean_of(&s, "neap", -1), laer = mean_of(&s, "laer", -1);
  check(neap.imbalance < 1.005, "imbalance %g", neap.imbalance);
  check(neap.across < 0.005, "%g of the tokens cross nodes", neap.across);
  check(neap.imbalance < laer.imbalance, "laer is better: %g", laer.imbalance);
}

/* Nodes that cannot: balanced, with fewer tokens across than LAER's layouts under the same
 * split. */
static void test_many_experts(void)
{
  setting s = {32, 8, 32, 3, NULL, NULL, 0, 0, 0};
  score neap = mean_of(&s, "neap", -1), laer = mean_of(&s, "laer", -1);
  check(neap.imbalance < 1.01, "imbalance %g", neap.imbalance);
  check(neap.across < laer.across, "%g cross nodes; laer: %g", neap.across, laer.across);
}

/* Scarce slots: the search does not lose to the start, nor to LAER. */
static void test_scarce_slots(void)
{
  for (int32_t slots = 1; slots <= 2; slots++) {
    setting s = {24, 6, 18, slots, NULL, NULL, 0, 0, 0};
    score neap = mean_of(&s, "neap", -1), start = mean_of(&s, "neap", 0);
    score laer = mean_of(&s, "laer", -1);
    check(neap.imbalance < start.imbalance * 1.02, "%d slots: %g; start: %g", slots, neap.imbalance,
          start.imbalance);
    check(neap.imbalance < laer.imbalance * 1.02, "%d slots: %g; laer: %g", slots, neap.imbalance,
          laer.imbalance);
  }
}

static void test_more_slots(void)
{
  score before = {INFINITY, INFINITY};
  for (int32_t slots = 1; slots <= 8; slots++) {
    setting s = {16, 4, 12, slots, NULL, NULL, 0, 0, 0};
    score now = mean_of(&s, "neap", -1);
    check(now.imbalance < before.imbalance + 0.005, "%d slots: imbalance %g after %g", slots,
          now.imbalance, before.imbalance);
    check(now.across < before.across + 0.01, "%d slots: %g across after %g", slots, now.across,
          before.across);
    before = now;
  }
}

/* Experts that are hot on one node for long are held where they are hot. */
static void test_nodes_that_differ(void)
{
  setting s = {24, 8, 32, 2, NULL, NULL, 1.5, 0, 0};
  score neap = mean_of(&s, "neap", -1), laer = mean_of(&s, "laer", -1);
  check(neap.across < 0.8 * laer.across, "%g cross nodes; laer: %g", neap.across, laer.across);
}

/* Where work across nodes has a price, plans that know it are cheaper, and more of it stays. */
static void test_price(void)
{
  for (double price = 2; price <= 8; price *= 4) {
    setting s = {32, 8, 32, 3, NULL, NULL, 0, 0, price}, knows = s;
    knows.plan_at = price;
    score without = mean_of(&s, "neap", -1), with = mean_of(&knows, "neap", -1);
    check(with.across < without.across, "%g cross nodes; without the price %g", with.across,
          without.across);
    check(with.imbalance + price * with.across < without.imbalance + price * without.across,
          "at %g: %g and %g across; without the price %g and %g", price, with.imbalance,
          with.across, without.imbalance, without.across);
  }
}

static void test_costs_and_speeds(void)
{
  double cost[12], speed[16];
  for (int32_t e = 0; e < 12; e++)
    cost[e] = 1 + e % 3;
  for (int32_t r = 0; r < 16; r++)
    speed[r] = r % 5 ? 1 : 0.5;
  setting s = {16, 8, 12, 4, cost, speed, 0, 0, 0};
  score neap = mean_of(&s, "neap", -1);
  check(neap.imbalance < 1.01, "imbalance %g", neap.imbalance);
}

static double max_work(neap_topology *topology, const neap_layout *layout, const int64_t *tokens)
{
  neap_split *split;
  neap_balance balance = {0};
  check(!neap_split_open(topology, "minimax", &split) &&
            !neap_split_compute(split, layout, tokens) && !neap_split_balance(split, &balance),
        "%s", neap_error_message());
  neap_split_close(split);
  return balance.max_work;
}

/* At most one slot of every rank changes. */
static void check_late_slots(const setting *s, const neap_layout *before, const neap_layout *after)
{
  const int32_t *had = neap_layout_experts(before), *has = neap_layout_experts(after);
  for (int32_t r = 0; r < s->ranks; r++) {
    int32_t changed = 0;
    for (int32_t slot = r * s->slots; slot < (r + 1) * s->slots; slot++)
      changed += had[slot] != has[slot];
    check(changed <= 1, "rank %d: %d slots change", r, changed);
  }
}

/* The late slots: one of a rank changes, and only for the better. */
static void test_late(void)
{
  static double loads[STEPS * MOST_RANKS * MOST_EXPERTS];
  static int64_t tokens[MOST_RANKS * MOST_EXPERTS];
  setting s = {24, 8, 24, 2, NULL, NULL, 0, 0, 0};
  neap_topology *topology = open_topology(&s);
  neap_planner *early, *late;
  neap_layout *before, *after;
  double gained = 0;
  check(!neap_planner_open(topology, "neap", &early) &&
            !neap_planner_open(topology, "late", &late) && !neap_layout_open(topology, &before) &&
            !neap_layout_open(topology, &after),
        "%s", neap_error_message());
  draw_loads(&s, 5, loads);
  for (int32_t i = 1; i < STEPS; i++) {
    const double *exact = loads + i * s.ranks * s.experts;
    for (int32_t k = 0; k < s.ranks * s.experts; k++)
      tokens[k] = exact[k];
    check(!neap_planner_plan(early, exact - s.ranks * s.experts, NULL, 0, before) &&
              !neap_planner_plan(late, exact, before, 0, after),
          "%s", neap_error_message());
    check_late_slots(&s, before, after);
    double was = max_work(topology, before, tokens), is = max_work(topology, after, tokens);
    check(is <= was * 1.001, "step %d: max work %g after %g", i, is, was);
    gained += (was / is - 1) / (STEPS - 1);
  }
  check(gained > 0.02, "late slots gain %g", gained);
  neap_layout_close(after);
  neap_layout_close(before);
  neap_planner_close(late);
  neap_planner_close(early);
  neap_topology_close(topology);
}

int main(void)
{
  test_late();
  test_whole_nodes();
  test_many_experts();
  test_scarce_slots();
  test_more_slots();
  test_nodes_that_differ();
  test_price();
  test_costs_and_speeds();
  return check_done();
}
