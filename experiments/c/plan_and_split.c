/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans a layout on the loads of some steps and splits the next step's counts with it, from C.
 *
 *   cc plan_and_split.c $(pkg-config --cflags --libs neap) -o plan_and_split && ./plan_and_split
 *
 * Prints the imbalance (largest work of a rank / mean) of plain expert parallelism and of three
 * planners; under a second. Where Neap is installed outside the system's folders, PKG_CONFIG_PATH
 * names PREFIX/lib/pkgconfig, and LD_LIBRARY_PATH PREFIX/lib.
 */
#include <neap.h>
#include <stdio.h>
#include <stdlib.h>

enum { RANKS = 32, NODE = 8, EXPERTS = 16, SLOTS = 4, STEPS = 5, TOKENS = 65536 };

/* Every function of the engine returns a status, and keeps the reason of the last failure. */
static void check(int status)
{
  if (status) {
    fprintf(stderr, "%s\n", neap_error_message());
    exit(1);
  }
}

/* Tokens of every rank to every expert in a step: popular experts stay popular. */
static void draw_load(int step, int64_t load[RANKS][EXPERTS])
{
  double popularity[EXPERTS];
  for (int e = 0; e < EXPERTS; e++)
    popularity[e] = 1.2 * neap_random_normal(1, 0, (uint64_t)e) +
                    0.1 * step * neap_random_normal(1, 1, (uint64_t)e);
  neap_synth synth = {RANKS, EXPERTS, 2, TOKENS / 2, 0.3, 1, 2};
  check(neap_synth_load(&synth, popularity, step, &load[0][0]));
}

static double imbalance(neap_topology *topology, const char *planner_name, const char *rule,
                        const double *history, const int64_t *load)
{
  neap_planner *planner;
  neap_layout *layout;
  neap_split *split;
  neap_balance balance;
  check(neap_planner_open(topology, planner_name, &planner));
  check(neap_layout_open(topology, &layout));
  check(neap_split_open(topology, rule, &split));
  check(neap_planner_plan(planner, history, NULL, 0, layout));
  check(neap_split_compute(split, layout, load));
  check(neap_split_balance(split, &balance));
  neap_split_close(split);
  neap_layout_close(layout);
  neap_planner_close(planner);
  return balance.imbalance;
}

int main(void)
{
  int32_t node_of[RANKS], slots_of[RANKS];
  for (int r = 0; r < RANKS; r++) {
    node_of[r] = r / NODE;
    slots_of[r] = SLOTS;
  }
  neap_topology *topology;
  check(neap_topology_open(RANKS, EXPERTS, node_of, slots_of, NULL, NULL, &topology));

  static int64_t load[RANKS][EXPERTS];
  static double history[RANKS][EXPERTS];
  for (int step = 0; step < STEPS; step++) {
    draw_load(step, load);
    for (int i = 0; i < RANKS * EXPERTS; i++)
      (&history[0][0])[i] += (double)(&load[0][0])[i];
  }
  draw_load(STEPS, load);

  static const char *const policies[][2] = {
      {"static", "lite"}, {"laer", "lite"}, {"laer", "minimax"}, {"neap", "minimax"}};
  for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
    printf("%s+%s: imbalance %.4f\n", policies[i][0], policies[i][1],
           imbalance(topology, policies[i][0], policies[i][1], &history[0][0], &load[0][0]));
  neap_topology_close(topology);
  return 0;
}
