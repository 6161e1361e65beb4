/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap: layouts that keep tokens on their node and stay balanced when loads are not as
 * forecast, given that the split evens out what it can.
 *
 * A forecast and its errors; several starts, among them the layout in force and, where nodes can
 * hold every expert, what a search over cells makes of the best one; all judged by the same
 * samples; and a climb from the cheapest. See the parts. */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

enum { EFFORT, SPREAD, LOCALITY, CHANGE_PRICE, FAR_PRICE }; /* parameters */
enum { SEARCHES = 3, CELLS = 2 }; /* cells of a node, at most, that are worth a search */
enum { HOMES = 3 };               /* starts with ever larger homes */
enum { ROUNDS = 4 };              /* of the climb, each on other samples */

static const double WORTH = 5e-4;      /* cost that a change of the layout in force must save */
static const double NEAR_IDEAL = 0.05; /* cost above the ideal that one round is enough for */

/* Keeps the layout at hand if it is the cheapest so far. */
static void compete(neapi_neap *n, double *cost)
{
  double now = neapi_neap_judge(n, *cost);
  if (now < *cost) {
    *cost = now;
    memcpy(n->best, n->expert_of, sizeof *n->best * n->topology->slots);
  }
}

/* The cell search from the best layout so far, with more and more weight on risk, as long as that
 * makes it cheaper. */
static void search(neapi_neap *n, const neapi_plan_input *input, double *cost)
{
  uint64_t bytes = sizeof *n->expert_of * n->topology->slots;
  memcpy(n->start, n->best, bytes);
  for (int32_t i = 0; i < SEARCHES; i++, n->caution *= 4) {
    double before = *cost;
    memcpy(n->expert_of, n->start, bytes);
    neapi_neap_search(n, input->parameter[EFFORT]);
    compete(n, cost);
    if (i && *cost >= before)
      break;
  }
}

/* The layout in force, at its cost; INFINITY if there is none. */
static double keep_previous(neapi_neap *n, const neap_layout *previous)
{
  double cost = INFINITY;
  n->previous = NULL;
  if (previous && neapi_neap_has_no_doubles(n, previous->expert_of)) {
    n->previous = previous->expert_of;
    memcpy(n->expert_of, previous->expert_of, sizeof *n->expert_of * n->topology->slots);
    compete(n, &cost);
  }
  return cost;
}

/* Starts: those from the forecast, the one in force, what a search makes of the best. Leaves the
 * cheapest in n->best, and what holds as many of every expert in n->even. */
static void start(neapi_neap *n, const neapi_plan_input *input, double *cost)
{
  uint64_t bytes = sizeof *n->expert_of * n->topology->slots;
  for (int32_t even = 1; even >= 0; even--) {
    neapi_neap_spread(n, even);
    if (even)
      memcpy(n->even, n->expert_of, bytes);
    compete(n, cost);
  }
  int32_t sizes = n->few ? HOMES : input->parameter[FAR_PRICE] > 0 ? 2 : 1;
  for (bool more = true; more && sizes--; n->home *= 2) {
    more = neapi_neap_greedy(n);
    compete(n, cost);
  }
  if (n->whole && n->cells <= CELLS * n->topology->nodes)
    search(n, input, cost);
}

/* The cheapest on samples that none of them was made for: the layout at hand, its start, as many
 * of every expert, or the one in force if that is hardly dearer. */
static void choose(neapi_neap *n)
{
  uint64_t bytes = sizeof *n->expert_of * n->topology->slots;
  const int32_t *candidates[] = {n->start, n->best, n->even, n->previous}, *chosen = n->start;
  double least = INFINITY;
  memcpy(n->start, n->expert_of, bytes);
  neapi_neap_draw(n, ROUNDS);
  for (int32_t i = 0; i < 4 && candidates[i]; i++) {
    memcpy(n->expert_of, candidates[i], bytes);
    double cost = neapi_neap_judge(n, INFINITY) - (candidates[i] == n->previous ? WORTH : 0);
    if (cost < least) {
      least = cost;
      chosen = candidates[i];
    }
  }
  memcpy(n->expert_of, chosen, bytes);
}

/* The best of several starts, climbed from; the layout in force if that is hardly dearer. A climb
 * makes the most of its samples, also of what they happen to have in common, so that where it
 * stays far from the ideal it goes on with others, and others yet choose. */
static void improve(neapi_neap *n, const neapi_plan_input *input)
{
  uint64_t bytes = sizeof *n->expert_of * n->topology->slots;
  int32_t tries = (int32_t)fmin(input->parameter[EFFORT] / 2, 1e6) / (n->few ? ROUNDS : 1);
  double before = keep_previous(n, input->previous), cost = before;
  if (before < neapi_neap_ideal() + WORTH)
    return;
  start(n, input, &cost);
  memcpy(n->expert_of, n->best, bytes);
  cost = neapi_neap_climb(n, tries);
  if (!n->few || cost < neapi_neap_ideal() + NEAR_IDEAL) {
    if (cost > before - WORTH)
      memcpy(n->expert_of, input->previous->expert_of, bytes);
    return;
  }
  for (int32_t i = 1; i < ROUNDS; i++) {
    neapi_neap_draw(n, i);
    neapi_neap_climb(n, tries);
  }
  choose(n);
}

static int neap_plan(const neapi_plan_input *input, int32_t *expert_of)
{
  neapi_neap *n = input->scratch;
  double towards = exp2(2 * input->parameter[LOCALITY] - 1); /* 1/2 to 2 */
  n->late = false;
  n->change_price = input->parameter[CHANGE_PRICE];
  n->spread = input->parameter[SPREAD];
  n->home = 0.45 * towards;
  n->caution = 0.05 / (towards * towards);
  n->toll = neapi_neap_toll(n, 0.3 * towards, input->parameter[FAR_PRICE]);
  neapi_neap_forecast(n, input);
  if (input->parameter[EFFORT] > 0) {
    neapi_neap_draw(n, 0);
    improve(n, input);
  } else {
    neapi_neap_greedy(n);
  }
  memcpy(expert_of, n->expert_of, sizeof *expert_of * n->topology->slots);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_neap = {
    "neap",
    {{"effort", "changes that the search looks at, a cell of up to 8 ranks; 0: no search, no climb",
      500, 0, 1e9, 0},
     {"spread", "error of a predicted load, relative, where there is one step of history", 0.25, 0,
      10, 0},
     {"locality", "from 0, balance whatever happens, to 1, tokens on their node", 0.5, 0, 1, 0},
     {"change_price", "imbalance that a changed slot on every rank must save; 0: changes are free",
      0, 0, 1e6, 0},
     {"far_price", "what work across nodes costs in the split ; at least as much as locality says",
      0, 0, 1e6, 0}},
    neapi_neap_open,
    neapi_neap_close,
    neap_plan,
    false};
