/* SPDX-License-Identifier: Apache-2.0 */
/* Random topologies for tests of planners. */
#ifndef NEAP_TEST_PROBLEM_H
#define NEAP_TEST_PROBLEM_H

#include "check.h"
#include "layout/topology.h"

enum { RANKS = 16, EXPERTS = 48, SLOTS = RANKS * 6 };

typedef struct {
  uint64_t stream, drawn;
} generator;

static inline int32_t draw(generator *g, int32_t below)
{
  return (int32_t)(neap_random_bits(11, g->stream, g->drawn++) % (uint64_t)below);
}

typedef struct {
  neap_topology *topology;
  int32_t ranks, experts, slots, nodes;
  double load[RANKS * EXPERTS];
} problem;

/* Any nodes and slots; even: the same slots per rank, costs and speeds of 1. */
static inline void open_problem(generator *g, problem *c, bool even)
{
  int32_t node_of[RANKS] = {0}, slots_of[RANKS], each = 1 + draw(g, 5), size = 1 + draw(g, 9);
  bool ragged = !even && draw(g, 2);
  double cost[EXPERTS], speed[RANKS];
  c->ranks = 1 + draw(g, RANKS);
  c->slots = 0;
  for (int32_t r = 0; r < c->ranks; r++) {
    node_of[r] = r ? node_of[r - 1] + (ragged ? !draw(g, 4) : r % size == 0) : 0;
    slots_of[r] = ragged ? 1 + draw(g, 6) : each;
    speed[r] = ragged ? 0.25 * (1 + draw(g, 8)) : 1;
    c->slots += slots_of[r];
  }
  c->nodes = node_of[c->ranks - 1] + 1;
  c->experts = 1 + draw(g, c->slots < EXPERTS ? c->slots : EXPERTS);
  for (int32_t e = 0; e < c->experts; e++)
    cost[e] = ragged ? 0.5 * (1 + draw(g, 6)) : 1;
  check(!neap_topology_open(c->ranks, c->experts, node_of, slots_of, cost, speed, &c->topology),
        "topology: %s", neap_error_message());
}

/* One plan; parameter (may be NULL) gets value. */
static inline neap_layout *plan_once(const problem *c, const char *name, const char *parameter,
                                     double value)
{
  neap_planner *planner;
  neap_layout *layout;
  check(!neap_planner_open(c->topology, name, &planner), "open: %s", neap_error_message());
  if (parameter)
    check(!neap_planner_set(planner, parameter, value), "set: %s", neap_error_message());
  check(!neap_layout_open(c->topology, &layout), "layout");
  check(!neap_planner_plan(planner, c->load, NULL, 1, layout), "plan: %s", neap_error_message());
  neap_planner_close(planner);
  return layout;
}

#endif
