/* SPDX-License-Identifier: Apache-2.0 */
/* A random layout: every expert on one random slot, the rest at random, no expert twice on a rank.
 * The floor that any planner must beat. */
#include "plan/packer.h"

static int32_t draw(const neapi_plan_input *in, uint64_t *drawn, int32_t below)
{
  return (int32_t)(neap_random_bits(in->seed, 0, (*drawn)++) % (uint64_t)below);
}

/* Some expert that the rank lacks; any, if it has all. */
static int32_t draw_expert(const neapi_plan_input *in, uint64_t *drawn, int32_t rank)
{
  const neapi_packer *p = in->scratch;
  int32_t experts = in->topology->experts, e = draw(in, drawn, experts);
  for (int32_t tried = 0; tried < experts && neapi_packer_holds(p, rank, e); tried++)
    e = (e + 1) % experts;
  return e;
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  neapi_packer *p = in->scratch;
  uint64_t drawn = 0;
  neapi_packer_begin(p, expert_of);
  /* The ranks of the first slots of a random order, found by reservoir: slot s is chosen for the
   * next expert with the probability that leaves each expert one. */
  for (int32_t s = 0, next = 0; s < t->slots && next < t->experts; s++)
    if (draw(in, &drawn, t->slots - s) < t->experts - next)
      p->order[next++] = t->rank_of[s];
  for (int32_t e = t->experts - 1; e >= 0; e--) {
    int32_t other = draw(in, &drawn, e + 1), rank = p->order[other];
    p->order[other] = p->order[e];
    neapi_packer_put(p, rank, e, 0);
  }
  for (int32_t r = 0; r < t->ranks; r++)
    while (p->free_slots[r])
      neapi_packer_put(p, r, draw_expert(in, &drawn, r), 0);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_random = {
    .name = "random", .open = neapi_packer_open, .close = neapi_packer_close, .plan = plan};
