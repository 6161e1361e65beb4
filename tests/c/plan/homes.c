/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Planners where experts have homes: static keeps each expert there alone, and what begins at home
 * plans every run of ranks as if it were all there is.
 */
#include "problem.h"

#include <string.h>

static const char *const at_home[] = {"static", "moonep",  "ultraep",
                                      "llep",   "maxtext", "fastermoe"};

/* The ranks of a run as a topology of their own, and their loads. */
static void take_run(const problem *all, int32_t first, int32_t run, problem *part)
{
  const int32_t *node_of = neap_topology_node_of(all->topology);
  const int32_t *first_slot = neap_topology_first_slot(all->topology);
  int32_t nodes[RANKS] = {0}, slots[RANKS] = {0};
  for (int32_t r = 0; r < run; r++) {
    nodes[r] = node_of[first + r] - node_of[first];
    slots[r] = first_slot[first + r + 1] - first_slot[first + r];
  }
  part->ranks = run;
  part->experts = all->experts;
  memcpy(part->load, all->load + first * all->experts,
         sizeof(double) * (size_t)(run * all->experts));
  check(!neap_topology_open(run, all->experts, nodes, slots, neap_topology_cost(all->topology),
                            neap_topology_speed(all->topology) + first, &part->topology) &&
            !neap_topology_set_homes(part->topology, run),
        "topology: %s", neap_error_message());
}

static void check_runs(const problem *all, const char *name, int32_t run)
{
  const int32_t *first_slot = neap_topology_first_slot(all->topology);
  neap_layout *whole = plan_once(all, name, NULL, 0);
  for (int32_t first = 0; first < all->ranks; first += run) {
    problem *part = calloc(1, sizeof *part);
    take_run(all, first, run, part);
    neap_layout *alone = plan_once(part, name, NULL, 0);
    int32_t slots = first_slot[first + run] - first_slot[first];
    check(!memcmp(neap_layout_experts(whole) + first_slot[first], neap_layout_experts(alone),
                  4ul * (size_t)slots),
          "%s: ranks %d to %d are not planned by themselves", name, first, first + run - 1);
    neap_layout_close(alone);
    neap_topology_close(part->topology);
    free(part);
  }
  neap_layout_close(whole);
}

/* Under static, a slot has an expert that is at home there, if any is. */
static void check_static(const problem *all)
{
  const int32_t *first_slot = neap_topology_first_slot(all->topology);
  neap_layout *layout = plan_once(all, "static", NULL, 0);
  for (int32_t r = 0; r < all->ranks; r++) {
    int32_t first, end;
    neap_topology_home(all->topology, r, &first, &end);
    for (int32_t s = first_slot[r]; s < first_slot[r + 1] && first < end; s++) {
      int32_t e = neap_layout_experts(layout)[s];
      check(e >= first && e < end, "expert %d in slot %d of rank %d, the home of %d to %d", e, s, r,
            first, end - 1);
    }
  }
  neap_layout_close(layout);
}

int main(void)
{
  int32_t several = 0;
  for (uint64_t round = 0; round < 200; round++) {
    generator g = {round, 0};
    problem *c = calloc(1, sizeof *c);
    open_problem(&g, c, draw(&g, 2));
    for (int32_t i = 0; i < c->ranks * c->experts; i++)
      c->load[i] = draw(&g, 3) ? draw(&g, 1000) : 0;
    int32_t run = 1 + draw(&g, c->ranks);
    while (c->ranks % run || neap_topology_set_homes(c->topology, run))
      run++;
    several += run < c->ranks;
    check(neap_topology_homes(c->topology) == run, "homes");
    check_static(c);
    for (size_t i = 0; i < sizeof at_home / sizeof *at_home; i++)
      check_runs(c, at_home[i], run);
    neap_topology_close(c->topology);
    free(c);
  }
  check(several > 20, "%d problems have several runs", several);
  return check_done();
}
