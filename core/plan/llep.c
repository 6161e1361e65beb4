/* SPDX-License-Identifier: Apache-2.0 */
/* LLEP, least-loaded expert parallelism (arXiv 2601.17111), by the rules of its published
 * compute_llep_lpt_plan: experts by load, heaviest first; each stays at home up to alpha x the even
 * share of its rank, and the rest spills to the least loaded ranks, as much as each has slack for;
 * not less than a chunk, unless it is all that is left. What no rank has slack for is forced on the
 * least loaded. A rank's load is what it was given and its own experts' that are not planned yet.
 * Nothing spills while max / mean is below lambda. Slots that nothing spills to keep what they
 * hold; a rank without a free slot takes nothing. */
#include "plan/packer.h"

#include <string.h>

enum { ALPHA, CHUNK, LAMBDA };

/* An expert on its way from home. */
typedef struct {
  int32_t expert, home;
  double most;   /* work a rank may have, per unit of speed */
  double chunk;  /* work of the least chunk */
  double trifle; /* work that is rounding */
} spilling;

/* How far the home layout is from balance: max / mean. */
static double home_imbalance(const neapi_packer *p, double ideal)
{
  double most = 0;
  for (int32_t r = 0; r < p->topology->ranks; r++) {
    double work = p->rank_work[r] / p->topology->speed[r];
    most = work > most ? work : most;
  }
  return ideal > 0 ? most / ideal : 1;
}

static neapi_heap_item item(const neapi_packer *p, int32_t rank)
{
  return (neapi_heap_item){p->rank_work[rank] / p->topology->speed[rank], rank};
}

/* Heap of the ranks other than home that could take the expert, least loaded first. */
static int32_t open_ranks(neapi_packer *p, const spilling *s)
{
  int32_t size = 0;
  for (int32_t r = 0; r < p->topology->ranks; r++)
    if (r != s->home && (p->free_slots[r] || neapi_packer_holds(p, r, s->expert)))
      p->rank_heap[size++] = item(p, r);
  neapi_heap_build(p->rank_heap, size);
  return size;
}

/* Moves excess work of an expert away from home. all: home keeps nothing of it. */
static void spill(neapi_packer *p, const spilling *s, double excess, bool all)
{
  int32_t open = open_ranks(p, s), first = open ? p->rank_heap[0].id : -1;
  while (excess > s->trifle && open) {
    int32_t r = neapi_heap_pop(p->rank_heap, &open).id;
    double some = neapi_packer_slack(p, r, s->most);
    if (some <= s->trifle)
      break; /* the least loaded is full, so all are */
    some = some < excess ? some : excess;
    if (some < s->chunk && some + s->trifle < excess)
      continue;
    neapi_packer_move(p, s->expert, s->home, r, some);
    excess -= some;
  }
  if (excess <= s->trifle || first < 0)
    return;
  /* Forced: on the rank that was the least loaded before, or is now. */
  open = open_ranks(p, s);
  bool fits = p->free_slots[first] || neapi_packer_holds(p, first, s->expert);
  neapi_packer_move(p, s->expert, s->home, all && fits ? first : p->rank_heap[0].id, excess);
}

static void spill_all(neapi_packer *p, const neapi_plan_input *in, double ideal)
{
  const neap_topology *t = in->topology;
  memset(p->count, 0, 4ul * t->experts); /* sorted by all of their work */
  neapi_packer_sort(p, NULL, t->experts);
  for (int32_t i = 0; i < t->experts; i++) {
    int32_t e = p->order[i], home = neapi_topology_home_of(t, e, 0);
    spilling s = {e, home, ideal * in->parameter[ALPHA], in->parameter[CHUNK] * t->cost[e],
                  1e-9 * ideal};
    double excess = -neapi_packer_slack(p, home, s.most);
    bool all = excess >= p->work[e];
    spill(p, &s, all ? p->work[e] : excess, all);
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  neapi_packer *p = in->scratch;
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin_home(p, expert_of);
  double ideal = neapi_packer_ideal(p, 0, in->topology->ranks);
  if (home_imbalance(p, ideal) >= in->parameter[LAMBDA])
    spill_all(p, in, ideal);
  neapi_packer_fill_held(p, in->previous);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_llep = {
    .name = "llep",
    .parameters =
        {
            {"alpha", "share of the mean work that a rank keeps of its own", 1, 0.01, 100, 0},
            {"chunk", "tokens that a spill moves at least, in the unit of the load", 1024, 0, 1e12,
             0},
            {"lambda", "max / mean work below which experts stay at home", 1.3, 1, 1e6, 0},
        },
    .open = neapi_packer_open,
    .close = neapi_packer_close,
    .plan = plan,
    .at_home = true};
