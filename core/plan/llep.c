/* LLEP, least-loaded expert parallelism (arXiv 2601.17111): experts by load, heaviest first; each
 * stays at home up to alpha x the even share of its rank, the rest spills to the least loaded ranks
 * in chunks. Slots that nothing spills to hold the experts next to the rank's own. */
#include "plan/packer.h"

enum { ALPHA, CHUNK, LAMBDA };

/* How far the home layout is from balance: max / mean. */
static double home_imbalance(const neapi_packer *p, double ideal)
{
  double most = 0;
  for (int32_t r = 0; r < p->topology->ranks; r++) {
    double work = p->rank_work[r] / p->topology->speed[r];
    most = work > most ? work : most;
  }
  return most / ideal;
}

/* Heap of the ranks with a free slot, least loaded first. */
static int32_t open_ranks(neapi_packer *p)
{
  const neap_topology *t = p->topology;
  int32_t size = 0;
  for (int32_t r = 0; r < t->ranks; r++)
    if (p->room[r])
      p->rank_heap[size++] = (neapi_heap_item){p->rank_work[r] / t->speed[r], r};
  neapi_heap_build(p->rank_heap, size);
  return size;
}

/* Moves excess work of an expert away from home, least loaded rank first. A key that is out of
 * date, since its rank has given or taken work, is corrected when it comes up. */
static void spill(neapi_packer *p, int32_t expert, int32_t home, double excess, double ideal,
                  const neapi_plan_input *in, int32_t *size)
{
  const neap_topology *t = p->topology;
  double chunk = in->parameter[CHUNK] * t->cost[expert];
  int32_t aside = 0;
  while (excess > 0 && *size) {
    int32_t r = p->rank_heap[0].id;
    double key = p->rank_work[r] / t->speed[r];
    if (key != p->rank_heap[0].key) {
      neapi_heap_sink(p->rank_heap, *size, 0, (neapi_heap_item){key, r});
      continue;
    }
    neapi_heap_pop(p->rank_heap, size);
    double some = neapi_packer_slack(p, r, ideal * in->parameter[ALPHA]);
    if (r == home || some <= 0 || neapi_packer_holds(p, r, expert)) {
      p->aside[aside++] = r;
      if (some <= 0)
        break; /* the least loaded is full */
      continue;
    }
    some = some > chunk ? some : chunk;
    some = some < excess ? some : excess;
    neapi_packer_move(p, expert, home, r, some);
    excess -= some;
    p->aside[aside++] = r;
  }
  while (aside) {
    int32_t r = p->aside[--aside];
    if (p->room[r])
      neapi_heap_push(p->rank_heap, size, (neapi_heap_item){p->rank_work[r] / t->speed[r], r});
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  neapi_packer *p = in->scratch;
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin_home(p, expert_of);
  double ideal = neapi_packer_ideal(p);
  if (home_imbalance(p, ideal) >= in->parameter[LAMBDA]) {
    for (int32_t e = 0; e < t->experts; e++)
      p->count[e] = 0; /* sorted by all of its work */
    neapi_packer_sort(p, NULL, t->experts);
    int32_t size = open_ranks(p);
    for (int32_t i = 0; i < t->experts; i++) {
      int32_t e = p->order[i], home = neapi_packer_home_of(t, e);
      double excess = -neapi_packer_slack(p, home, ideal * in->parameter[ALPHA]);
      spill(p, e, home, excess < p->work[e] ? excess : p->work[e], ideal, in, &size);
    }
  }
  neapi_packer_fill_next(p);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_llep = {
    .name = "llep",
    .parameters =
        {
            {"alpha", "share of the mean work that a rank keeps of its own", 1, 0.01, 100},
            {"chunk", "tokens that a spill moves at least, in the unit of the load", 1024, 0, 1e12},
            {"lambda", "max / mean work below which experts stay at home", 1.3, 1, 1e6},
        },
    .open = neapi_packer_open,
    .close = neapi_packer_close,
    .plan = plan};
