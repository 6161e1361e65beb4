/* SPDX-License-Identifier: Apache-2.0 */
/* Random topologies and layouts for tests, made from a seed. */
#ifndef NEAP_TEST_SCENE_H
#define NEAP_TEST_SCENE_H

#include "comm/threads.h"

#include <stdlib.h>

/* Counts a failure, with the engine's message, unless the call is OK. */
#define check_ok(call)                                                                             \
  check_report((call) == NEAP_OK, __FILE__, __LINE__, #call ": %s", neap_error_message())

/* A stream of random numbers. */
typedef struct {
  uint64_t seed, next;
} dice;

static int64_t roll(dice *d, int64_t least, int64_t most)
{
  return least + (int64_t)(neap_random_uniform(d->seed, 1, d->next++) * (double)(most - least + 1));
}

/* Nodes of random sizes, slots that may differ, as many as the experts need. */
__attribute__((unused)) static neap_topology *random_topology(dice *d, int32_t ranks,
                                                              int32_t experts)
{
  int32_t node_of[64], slots_of[64], slots = 0;
  bool even = roll(d, 0, 1);
  int32_t base = (int32_t)roll(d, 1, 3);
  for (int32_t r = 0; r < ranks; r++) {
    node_of[r] = r ? node_of[r - 1] + (int32_t)roll(d, 0, 1) : 0;
    slots_of[r] = even ? base : (int32_t)roll(d, 1, 4);
    slots += slots_of[r];
  }
  for (int32_t r = 0; slots < experts; r = (r + 1) % ranks, slots++)
    slots_of[r]++;
  neap_topology *t = NULL;
  check_ok(neap_topology_open(ranks, experts, node_of, slots_of, NULL, NULL, &t));
  return t;
}

/* Every expert in one random slot, anything in the others. */
__attribute__((unused)) static void random_layout(dice *d, neap_layout *layout)
{
  neap_topology *t = neap_layout_topology(layout);
  int32_t slots = neap_topology_slots(t), experts = neap_topology_experts(t);
  int32_t *expert_of = calloc((size_t)slots, sizeof *expert_of);
  for (int32_t s = 0; s < slots; s++)
    expert_of[s] = s < experts ? s : (int32_t)roll(d, 0, experts - 1);
  for (int32_t s = slots - 1; s > 0; s--) {
    int32_t other = (int32_t)roll(d, 0, s), e = expert_of[s];
    expert_of[s] = expert_of[other];
    expert_of[other] = e;
  }
  check_ok(neap_layout_set(layout, expert_of));
  free(expert_of);
}

#endif
