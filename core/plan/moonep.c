/* MoonEP: again and again the rank with the most work too much gives to the rank with the most
 * room, from its own expert with the most work left, until the one or the other is exactly full;
 * free slots hold what was received. Slots left over hold the experts next to the rank's own. */
#include "plan/packer.h"

/* Of a rank's own experts, that with the most work left. */
static int32_t largest_own(const neap_topology *t, const double *left, int32_t rank)
{
  int32_t best = neapi_packer_home(t, rank);
  for (int32_t e = best + 1; e < neapi_packer_home(t, rank + 1); e++)
    if (left[e] > left[best])
      best = e;
  return best;
}

/* Givers in area_heap, takers with a free slot in rank_heap, both by how far they are from even. */
static void fill_heaps(neapi_packer *p, double ideal, int32_t *givers, int32_t *takers)
{
  *givers = *takers = 0;
  for (int32_t r = 0; r < p->topology->ranks; r++) {
    double slack = neapi_packer_slack(p, r, ideal);
    if (slack < 0)
      p->area_heap[(*givers)++] = (neapi_heap_item){slack, r};
    else if (slack > 0 && p->room[r])
      p->rank_heap[(*takers)++] = (neapi_heap_item){-slack, r};
  }
  neapi_heap_build(p->area_heap, *givers);
  neapi_heap_build(p->rank_heap, *takers);
}

/* Every turn empties a giver, fills a taker or uses an expert up, and a taker's slot. */
static void even_out(neapi_packer *p, double *left, double ideal)
{
  int32_t givers, takers;
  double trifle = 1e-9 * ideal;
  fill_heaps(p, ideal, &givers, &takers);
  while (givers && takers) {
    neapi_heap_item from = p->area_heap[0], to = p->rank_heap[0];
    int32_t e = largest_own(p->topology, left, from.id);
    double some = -from.key < -to.key ? -from.key : -to.key;
    some = some < left[e] ? some : left[e];
    neapi_packer_move(p, e, from.id, to.id, some);
    left[e] -= some;
    from.key += some;
    to.key += some;
    if (-from.key > trifle)
      neapi_heap_sink(p->area_heap, givers, 0, from);
    else
      neapi_heap_pop(p->area_heap, &givers);
    if (-to.key > trifle && p->room[to.id])
      neapi_heap_sink(p->rank_heap, takers, 0, to);
    else
      neapi_heap_pop(p->rank_heap, &takers);
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  neapi_packer *p = in->scratch;
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin_home(p, expert_of);
  double ideal = neapi_packer_ideal(p);
  even_out(p, p->work, ideal); /* the work itself is not needed any more */
  neapi_packer_fill_next(p);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_moonep = {
    .name = "moonep", .open = neapi_packer_open, .close = neapi_packer_close, .plan = plan};
