/* SPDX-License-Identifier: Apache-2.0 */
/* MaxText's dynamic redundancy (AI-Hypercomputer/maxtext, pull request 4760): while the fullest
 * rank has more than a threshold times the mean, the hottest of its own experts that has no replica
 * yet gets one on the least loaded rank with a free slot, and sends it what evens out the two, at
 * most half of its tokens. Every expert has at most one replica besides its home. Slots left over
 * keep what they hold. */
#include "plan/packer.h"

#include <string.h>

enum { THRESHOLD };

static double per_speed(const neapi_packer *p, int32_t rank)
{
  return p->rank_work[rank] / p->topology->speed[rank];
}

static int32_t fullest_rank(const neapi_packer *p)
{
  int32_t best = 0;
  for (int32_t r = 1; r < p->topology->ranks; r++)
    if (per_speed(p, r) > per_speed(p, best))
      best = r;
  return best;
}

/* The least loaded rank other than home with a free slot; -1 if there is none. */
static int32_t free_rank(const neapi_packer *p, int32_t home)
{
  int32_t best = -1;
  for (int32_t r = 0; r < p->topology->ranks; r++)
    if (r != home && p->free_slots[r] && (best < 0 || per_speed(p, r) < per_speed(p, best)))
      best = r;
  return best;
}

/* The hottest of a rank's own experts without a replica (count 0); -1 if there is none. */
static int32_t hottest_own(const neapi_packer *p, int32_t home)
{
  int32_t best = -1;
  for (int32_t e = neapi_packer_home(p->topology, home);
       e < neapi_packer_home(p->topology, home + 1); e++)
    if (!p->count[e] && (best < 0 || p->work[e] > p->work[best]))
      best = e;
  return best;
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  neapi_packer *p = in->scratch;
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin_home(p, expert_of);
  memset(p->count, 0, 4ul * t->experts);
  double most = in->parameter[THRESHOLD] * neapi_packer_ideal(p, 0, t->ranks);
  for (;;) {
    int32_t from = fullest_rank(p), to = free_rank(p, from), e = hottest_own(p, from);
    if (per_speed(p, from) <= most || to < 0 || e < 0)
      break;
    double even = (p->rank_work[from] * t->speed[to] - p->rank_work[to] * t->speed[from]) /
                  (t->speed[from] + t->speed[to]);
    neapi_packer_move(p, e, from, to, even < 0.5 * p->work[e] ? even : 0.5 * p->work[e]);
    p->count[e] = 1;
  }
  neapi_packer_fill_held(p, in->previous);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_maxtext = {
    .name = "maxtext",
    .parameters = {{"threshold", "max / mean work up to which nothing is replicated", 1.15, 1, 1e6,
                    0}},
    .open = neapi_packer_open,
    .close = neapi_packer_close,
    .plan = plan,
    .at_home = true};
