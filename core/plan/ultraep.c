/* UltraEP (arXiv 2606.04101): binary search for the least threshold such that ranks above it can
 * export quotas of their experts to ranks below it, within their free slots, no expert twice on a
 * rank, no replica for fewer than a number of tokens. Slots left over hold the experts next to the
 * rank's own. */
#include "plan/packer.h"

#include <string.h>

enum { MIN_TOKENS, STEPS };

static void push_taker(neapi_packer *p, int32_t rank, double threshold, int32_t *size)
{
  double slack = neapi_packer_slack(p, rank, threshold);
  if (slack > 0 && p->room[rank])
    neapi_heap_push(p->rank_heap, size, (neapi_heap_item){-slack, rank});
}

/* Exports at least excess of an expert's work, if it can, to the roomiest ranks of the heap. */
static void export_expert(neapi_packer *p, int32_t expert, int32_t home, double excess,
                          double least, double threshold, int32_t *size)
{
  double left = p->work[expert];
  int32_t aside = 0;
  while (excess > 0 && *size) {
    double room = -p->rank_heap[0].key, some = excess > least ? excess : least;
    some = some < room ? some : room;
    if (some < least || some > left)
      break; /* no room for a whole quota, or too few tokens for one */
    int32_t to = neapi_heap_pop(p->rank_heap, size).id;
    neapi_packer_move(p, expert, home, to, some);
    p->aside[aside++] = to; /* has the expert now: back when it is done */
    excess -= some;
    left -= some;
  }
  while (aside)
    push_taker(p, p->aside[--aside], threshold, size);
}

/* Plans for a threshold; true if no rank ends above it. */
static bool plan_below(neapi_packer *p, double threshold, double min_tokens, int32_t *expert_of)
{
  const neap_topology *t = p->topology;
  double trifle = 1e-9 * threshold;
  int32_t size = 0;
  neapi_packer_begin_home(p, expert_of);
  for (int32_t r = 0; r < t->ranks; r++)
    push_taker(p, r, threshold, &size);
  for (int32_t i = 0; i < t->experts; i++) {
    int32_t e = p->order[i], home = neapi_packer_home_of(t, e);
    double excess = -neapi_packer_slack(p, home, threshold);
    if (excess <= trifle)
      continue;
    excess = excess < p->work[e] ? excess : p->work[e];
    export_expert(p, e, home, excess, min_tokens * t->cost[e], threshold, &size);
  }
  for (int32_t r = 0; r < t->ranks; r++)
    if (neapi_packer_slack(p, r, threshold) < -trifle)
      return false;
  return true;
}

/* The threshold that holds without any export. */
static double home_threshold(neapi_packer *p, int32_t *expert_of)
{
  double most = 0;
  neapi_packer_begin_home(p, expert_of);
  for (int32_t r = 0; r < p->topology->ranks; r++) {
    double work = p->rank_work[r] / p->topology->speed[r];
    most = work > most ? work : most;
  }
  return most;
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const double *v = in->parameter;
  neapi_packer *p = in->scratch;
  neapi_packer_weigh(p, in->load);
  memset(p->count, 0, 4ul * in->topology->experts); /* sorted by all of their work */
  neapi_packer_sort(p, NULL, in->topology->experts);
  double low = neapi_packer_ideal(p), high = home_threshold(p, expert_of);
  for (int32_t step = 0; step < (int32_t)v[STEPS] && high > low; step++) {
    double middle = step ? 0.5 * (low + high) : low; /* the ideal itself first */
    if (plan_below(p, middle, v[MIN_TOKENS], expert_of))
      high = middle;
    else
      low = middle;
  }
  plan_below(p, high, v[MIN_TOKENS], expert_of);
  neapi_packer_fill_next(p);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_ultraep = {
    .name = "ultraep",
    .parameters =
        {
            {"min_tokens", "tokens a replica must be worth, in the unit of the load", 1024, 0,
             1e12},
            {"steps", "steps of the binary search", 20, 1, 100},
        },
    .open = neapi_packer_open,
    .close = neapi_packer_close,
    .plan = plan};
