/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap's other start: replicas by load alone, over all ranks at once.
 *
 * As in EPLB and LAER the expert with the most work per replica gains one, again and again; then
 * the heaviest go first, to the least loaded ranks of the nodes that have the fewest of them. Where
 * loads are alike their ranks differ by chance, so that no two experts share all of theirs: work
 * can then be passed on from rank to rank, whatever experts turn out to be hot. */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

enum { STEP = 3, LONGER = 6 }; /* ranks: where the next slot begins; and the one after that */

/* Replicas: n->count; with even loads, as many of each as there can be. */
static void count_replicas(neapi_neap *n, bool even)
{
  const neap_topology *t = n->topology;
  int32_t heads = 0;
  for (int32_t e = 0; e < t->experts; e++) {
    n->count[e] = 1;
    n->heap[heads++] = (neapi_heap_item){-(even ? 1 + 1e-3 * n->total[e] : n->total[e] + 1e-6), e};
  }
  neapi_heap_build(n->heap, heads);
  for (int32_t left = t->slots - t->experts; left > 0 && heads; left--) {
    int32_t e = neapi_heap_pop(n->heap, &heads).id;
    double work = even ? 1 + 1e-3 * n->total[e] : n->total[e] + 1e-6;
    if (++n->count[e] < t->ranks)
      neapi_heap_push(n->heap, &heads, (neapi_heap_item){-work / n->count[e], e});
  }
}

static void put(neapi_neap *n, int32_t rank, int32_t expert)
{
  n->expert_of[n->topology->first_slot[rank + 1] - n->free_slots[rank]--] = expert;
  n->used[rank] += n->each[expert] / n->speed[rank];
}

/* Ranks of the heap for an expert's replicas, those of nodes that have few of them first. */
static void assign(neapi_neap *n, int32_t *ranks, int32_t expert)
{
  const neap_topology *t = n->topology;
  int32_t *aside = n->order + t->experts, count = 0;
  int32_t left = n->count[expert], most = (left + t->nodes - 1) / t->nodes;
  for (; left && *ranks; count++) {
    int32_t rank = neapi_heap_pop(n->heap, ranks).id;
    int32_t *on_node = neapi_neap_on_node(n, t->node_of[rank], expert);
    aside[count] = rank;
    if (*on_node < most) {
      ++*on_node;
      put(n, rank, expert);
      left--;
      aside[count] = -1 - rank;
    }
  }
  for (int32_t i = 0; i < count && left; i++)
    if (aside[i] >= 0) {
      put(n, aside[i], expert);
      aside[i] = -1 - aside[i];
      left--;
    }
  while (count--) {
    int32_t rank = aside[count] < 0 ? -1 - aside[count] : aside[count];
    double chance = 1e-3 * neap_random_uniform(1, rank, expert);
    if (n->free_slots[rank])
      neapi_heap_push(n->heap, ranks, (neapi_heap_item){n->used[rank] + chance, rank});
  }
  n->count[expert] -= left;
}

/* What is still free: an expert that the rank lacks, if there is one. */
static void fill(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->held, 0, sizeof *n->held * t->experts);
  for (int32_t r = 0; r < t->ranks; r++) {
    int32_t next = 0;
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1] - n->free_slots[r]; s++)
      n->held[n->expert_of[s]] = r + 1;
    while (n->free_slots[r]) {
      while (next < t->experts && n->held[n->order[next]] == (uint32_t)r + 1)
        next++;
      int32_t expert = n->order[next < t->experts ? next : n->free_slots[r] % t->experts];
      n->held[expert] = r + 1;
      put(n, r, expert);
    }
  }
}

/* As many of every expert where ranks have as many slots: experts in turn, slot after slot of all
 * ranks, every slot from another rank on, so that hardly two experts share two ranks. Returns
 * whether that was possible. */
static bool take_turns(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  int32_t slots = t->slots / t->ranks;
  for (int32_t r = 0; r <= t->ranks; r++)
    if (t->first_slot[r] != r * slots)
      return false;
  for (int64_t i = 0; i < t->slots; i++) {
    int64_t slot = i / t->ranks;
    int64_t rank = (i + slot * (STEP + slot * LONGER)) % t->ranks;
    n->expert_of[rank * slots + slot] = (int32_t)(i % t->experts);
  }
  return neapi_neap_has_no_doubles(n, n->expert_of);
}

void neapi_neap_spread(neapi_neap *n, bool even)
{
  const neap_topology *t = n->topology;
  if (even && take_turns(n))
    return;
  int32_t ranks = 0, sorted = 0, heads = 0;
  memset(n->node_count, 0, sizeof *n->node_count * t->nodes * t->experts);
  count_replicas(n, even);
  for (int32_t e = 0; e < t->experts; e++) {
    n->each[e] = n->total[e] / n->count[e];
    n->heap[heads++] = (neapi_heap_item){-n->each[e], e};
  }
  neapi_heap_build(n->heap, heads);
  while (heads)
    n->order[sorted++] = neapi_heap_pop(n->heap, &heads).id;
  for (int32_t r = 0; r < t->ranks; r++) {
    n->used[r] = 0;
    n->free_slots[r] = t->first_slot[r + 1] - t->first_slot[r];
    neapi_heap_push(n->heap, &ranks,
                    (neapi_heap_item){1e-3 * neap_random_uniform(1, r, t->experts), r});
  }
  for (int32_t i = 0; i < t->experts; i++)
    assign(n, &ranks, n->order[i]);
  fill(n);
}
