/* SPDX-License-Identifier: Apache-2.0 */
/* Static expert parallelism: device d holds experts i * (E/C) + d mod (E/C), i < C, whatever the
 * load. For slots that differ from rank to rank, or C that does not divide E: ranks form groups
 * that hold every expert; within a group, experts are dealt one slot after the other. Where experts
 * have homes, they are there and nowhere else. */
#include "plan/packer.h"

static int32_t slots_of(const neap_topology *t, int32_t rank)
{
  return t->first_slot[rank + 1] - t->first_slot[rank];
}

/* Ranks from first on that together have a slot for every expert; those left over at the end form
 * a group of the size before, cut short. */
static int32_t group_size(const neap_topology *t, int32_t first, int32_t before)
{
  int32_t slots = 0, rank = first;
  while (rank < t->ranks && slots < t->experts)
    slots += slots_of(t, rank++);
  return slots < t->experts ? before : rank - first;
}

/* The next expert in turn that rank lacks, unless it has them all. */
static int32_t deal(const neapi_packer *p, int32_t rank, int32_t *turn)
{
  const neap_topology *t = p->topology;
  if (slots_of(t, rank) - p->free_slots[rank] < t->experts)
    while (neapi_packer_holds(p, rank, *turn % t->experts))
      ++*turn;
  return (*turn)++ % t->experts;
}

static void deal_group(neapi_packer *p, int32_t first, int32_t size)
{
  const neap_topology *t = p->topology;
  int32_t turn = 0;
  for (int32_t slot = 0, dealt = 1; dealt; slot++) {
    dealt = 0;
    for (int32_t rank = first; rank < first + size; rank++) {
      int32_t alike = rank < t->ranks ? rank : rank - size; /* of a group cut short: only counted */
      if (slots_of(t, alike) <= slot)
        continue;
      if (rank < t->ranks)
        neapi_packer_put(p, rank, deal(p, rank, &turn), 0);
      else
        turn++;
      dealt = 1;
    }
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  neapi_packer *p = in->scratch;
  if (in->topology->homes) {
    neapi_packer_weigh(p, in->load);
    neapi_packer_begin_home(p, expert_of);
    neapi_packer_fill_held(p, NULL);
    return NEAP_OK;
  }
  neapi_packer_begin(p, expert_of);
  for (int32_t first = 0, size = 0; first < in->topology->ranks; first += size) {
    size = group_size(in->topology, first, size);
    deal_group(p, first, size);
  }
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_static = {.name = "static",
                                              .open = neapi_packer_open,
                                              .close = neapi_packer_close,
                                              .plan = plan,
                                              .at_home = true};
