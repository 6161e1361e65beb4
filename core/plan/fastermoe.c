/* SPDX-License-Identifier: Apache-2.0 */
/* FasterMoE (He et al., 2022): shadows an expert, that is puts it on every rank so that sources
 * compute their own tokens of it, as long as that saves more compute on the slowest rank than
 * sending its weights costs; heaviest expert first. All others stay at home alone: slots left over
 * hold the rank's own experts again. The paper has as many experts per rank as at home; with fewer
 * experts than ranks some have none, and keep what they hold. */
#include "plan/packer.h"

#include <string.h>

enum { PRICE, DOUBLES };

static double slowest(const neapi_packer *p)
{
  double most = 0;
  for (int32_t r = 0; r < p->topology->ranks; r++) {
    double work = p->rank_work[r] / p->topology->speed[r];
    most = work > most ? work : most;
  }
  return most;
}

/* Moves an expert's work from its home to its sources (sign 1), or back (-1). */
static void move_to_sources(neapi_packer *p, const double *load, int32_t expert, double sign)
{
  const neap_topology *t = p->topology;
  int32_t home = neapi_topology_home_of(t, expert, 0);
  for (int32_t r = 0; r < t->ranks; r++) {
    double work = sign * load[(int64_t)r * t->experts + expert] * t->cost[expert];
    if (!p->free_slots[r])
      continue;
    p->rank_work[home] -= work;
    p->rank_work[r] += work;
  }
}

static void put_everywhere(neapi_packer *p, int32_t expert)
{
  for (int32_t r = 0; r < p->topology->ranks; r++)
    if (p->free_slots[r] && !neapi_packer_holds(p, r, expert))
      neapi_packer_put(p, r, expert, 0);
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  neapi_packer *p = in->scratch;
  neapi_packer_weigh(p, in->load);
  memset(p->count, 0, 4ul * t->experts); /* sorted by all of their work */
  neapi_packer_sort(p, NULL, t->experts);
  neapi_packer_begin_home(p, expert_of);
  double now = slowest(p);
  for (int32_t i = 0; i < t->experts; i++) {
    int32_t e = p->order[i];
    move_to_sources(p, in->load, e, 1);
    double then = slowest(p);
    if (now - then <= in->parameter[PRICE] * t->cost[e]) {
      move_to_sources(p, in->load, e, -1);
      break;
    }
    now = then;
    put_everywhere(p, e);
  }
  if (in->parameter[DOUBLES] != 0)
    neapi_packer_fill_own(p);
  neapi_packer_fill_held(p, in->previous);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_fastermoe = {
    .name = "fastermoe",
    .parameters =
        {
            {"price",
             "tokens, in the unit of the load, that could be computed while an expert's weights "
             "are sent",
             2400, 0, 1e12, 0},
            {"doubles", "whether slots left over hold the rank's own experts again", 1, 0, 1, 1},
        },
    .open = neapi_packer_open,
    .close = neapi_packer_close,
    .plan = plan,
    .at_home = true};
