/* Planner neap: layouts that keep tokens on their node and stay balanced when loads are not as
 * forecast, given that the split evens out what it can.
 *
 * A forecast, a greedy start, a search over the cells where nodes can hold every expert, and a
 * repair of what the split could not even out; see the parts. */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

enum { EFFORT, SAMPLES, SPREAD, LOCALITY }; /* parameters */
enum { SEARCHES = 3 };

bool neapi_neap_has_no_doubles(neapi_neap *n, const int32_t *expert_of)
{
  const neap_topology *t = n->topology;
  memset(n->held, 0, sizeof *n->held * t->experts);
  for (int32_t r = 0; r < t->ranks; r++) {
    int32_t slots = t->first_slot[r + 1] - t->first_slot[r], different = 0;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      different += n->held[expert_of[s]] != (uint32_t)r + 1;
      n->held[expert_of[s]] = r + 1;
    }
    if (different < (slots < t->experts ? slots : t->experts))
      return false;
  }
  return true;
}

/* Starts from the previous layout where that is better than the greedy one. */
static void choose_start(neapi_neap *n, const neap_layout *previous)
{
  uint64_t bytes = sizeof *n->expert_of * n->topology->slots;
  if (!previous || !neapi_neap_has_no_doubles(n, previous->expert_of))
    return;
  double greedy = neapi_neap_cost(n);
  memcpy(n->expert_of, previous->expert_of, bytes);
  if (neapi_neap_cost(n) >= greedy)
    memcpy(n->expert_of, n->rival, bytes);
}

/* Keeps the layout at hand if it is the cheapest so far. Returns whether it is balanced. */
static bool compare(neapi_neap *n, double *cost)
{
  bool balanced;
  double now = neapi_neap_evaluate(n, *cost, &balanced);
  if (now < *cost) {
    *cost = now;
    memcpy(n->best, n->expert_of, sizeof *n->best * n->topology->slots);
  }
  return balanced;
}

/* Searches with more and more weight on risk, as long as the outcome is not balanced. The greedy
 * layout competes, too. Returns whether the winner, in n->best, is balanced. */
static bool compete(neapi_neap *n, const neapi_plan_input *input)
{
  uint64_t bytes = sizeof *n->expert_of * n->topology->slots;
  double cost = INFINITY;
  memcpy(n->rival, n->expert_of, bytes);
  choose_start(n, input->previous);
  memcpy(n->start, n->expert_of, bytes);
  bool done = false;
  for (int32_t i = 0; i < SEARCHES && !done; i++, n->caution *= 4) {
    memcpy(n->expert_of, n->start, bytes);
    neapi_neap_search(n, input->parameter[EFFORT]);
    done = compare(n, &cost);
  }
  memcpy(n->expert_of, n->rival, bytes);
  return done || compare(n, &cost);
}

/* 0 to 1: how much depends on the samples. All where nodes have hardly more slots than experts;
 * else by how much loads changed of late. */
static double restlessness(const neapi_neap *n)
{
  const neap_topology *t = n->topology;
  double sum = 0;
  for (int32_t e = 0; e < t->experts; e++)
    sum += n->total[e] * n->drift[e];
  if (n->whole && t->slots < 1.5 * t->nodes * t->experts)
    return 1;
  return fmin(fmax(sum / t->ranks / 0.2 - 1, 0), 1);
}

/* The forecast and disturbed ones: as many as the parameter says, and that many times more, as far
 * as the number of slots allows. */
static void draw(neapi_neap *n, const neapi_plan_input *input, double times)
{
  double samples = input->parameter[SAMPLES];
  double more = fmin(times * samples, 4096.0 / n->topology->slots);
  neapi_neap_draw(n, 1 + (int32_t)fmin(samples + more, NEAPI_SAMPLES - 1));
}

/* Where no layout is balanced for all samples, small differences decide: over more samples, and as
 * many flows as the number of slots allows. */
static void repair(neapi_neap *n, const neapi_plan_input *input)
{
  double slots = n->topology->slots;
  draw(n, input, fmax(2, 4 * restlessness(n)));
  neapi_neap_repair(n, 8 + (int32_t)fmin(input->parameter[EFFORT] / 8, 32768 / slots));
}

/* A search, where nodes can hold all experts, and a repair of what is not balanced then. */
static void improve(neapi_neap *n, const neapi_plan_input *input)
{
  bool done = false;
  if (n->whole) {
    draw(n, input, 4 * restlessness(n));
    done = compete(n, input);
    memcpy(n->expert_of, n->best, sizeof *n->expert_of * n->topology->slots);
  }
  if (!done)
    repair(n, input);
}

static int neap_plan(const neapi_plan_input *input, int32_t *expert_of)
{
  neapi_neap *n = input->scratch;
  double towards = exp2(2 * input->parameter[LOCALITY] - 1); /* 1/2 to 2 */
  n->late = false;
  n->spread = input->parameter[SPREAD];
  n->home = 0.45 * towards;
  n->caution = 0.05 / (towards * towards);
  n->toll = 0.2 * towards / n->topology->ranks;
  neapi_neap_forecast(n, input);
  neapi_neap_greedy(n);
  if (input->parameter[EFFORT] > 0)
    improve(n, input);
  memcpy(expert_of, n->expert_of, sizeof *expert_of * n->topology->slots);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_neap = {
    "neap",
    {{"effort",
      "changes that the search looks at, a cell of up to 8 ranks; 0: no search, no repair", 500, 0,
      1e9, 0},
     {"samples", "disturbed loads that a layout must carry", 8, 0, 64, 1},
     {"spread", "error of a node's predicted load of an expert, relative", 0.25, 0, 10, 0},
     {"locality", "from 0, balance whatever happens, to 1, tokens on their node", 0.5, 0, 1, 0}},
    neapi_neap_open,
    neapi_neap_close,
    neap_plan};
