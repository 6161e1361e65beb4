/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap's start: a layout from the forecast alone.
 *
 * Every expert first gets homes, replicas enough to take its work even if that grows as it did of
 * late, on the nodes with most free slots (replicas by load, as in LAER and EPLB, but no more than
 * balance needs). The other slots go, node by node, where they keep most work on the node. Where
 * every node has a slot for every expert, each has its home on each. Within a node the heaviest
 * replicas go first, each to the least loaded rank without one (longest processing time first;
 * Graham 1969). */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

enum { PASSES = 8, APART = 5 };    /* of exchanges within a node; slots between nodes' firsts */
static const double CLOSER = 1e-4; /* what an exchange must save, in a rank's work */

/* ---- how many replicas a node gets ----------------------------------------------------------- */

/* An expert's work if it grows like of late; small loads grow by more than their part. */
static double grown(const neapi_neap *n, int32_t expert)
{
  const double floor = 0.05;
  return (n->total[expert] + floor) * exp(n->drift[expert]) - floor + 1e-9;
}

static int64_t count_homes(const neapi_neap *n, double size)
{
  int64_t sum = 0;
  for (int32_t e = 0; e < n->topology->experts; e++)
    sum += 1 + (int64_t)(n->each[e] / size);
  return sum;
}

/* Work that a home is meant for: n->home, or more if there are not slots enough. */
static double home_size(neapi_neap *n)
{
  double low = n->home, high = low;
  for (int32_t e = 0; e < n->topology->experts; e++) {
    n->each[e] = grown(n, e);
    high = fmax(high, 2 * n->each[e]);
  }
  if (count_homes(n, low) <= n->topology->slots)
    return low;
  for (int32_t i = 0; i < 40; i++) {
    double middle = (low + high) / 2;
    *(count_homes(n, middle) <= n->topology->slots ? &high : &low) = middle;
  }
  return high;
}

/* order[]: experts for which key[] is above 0, by that, largest first. Returns how many. */
static int32_t sort_experts(neapi_neap *n, const double *key)
{
  int32_t count = 0, sorted = 0;
  for (int32_t e = 0; e < n->topology->experts; e++)
    if (key[e] > 0)
      n->heap[count++] = (neapi_heap_item){-key[e], e};
  neapi_heap_build(n->heap, count);
  while (count)
    n->order[sorted++] = neapi_heap_pop(n->heap, &count).id;
  return sorted;
}

/* Where an expert's next home is best: where its work is, and where many slots are left. */
static double appeal(const neapi_neap *n, int32_t node, int32_t expert)
{
  const neap_topology *t = n->topology;
  double own = n->load[(int64_t)node * t->experts + expert] * t->nodes;
  double free = (double)n->pending[node] / neapi_neap_node_slots(t, node);
  return own / (n->total[expert] + 1e-9) + free;
}

/* Homes on that many different nodes. */
static void add_homes(neapi_neap *n, int32_t expert, int64_t homes)
{
  int32_t nodes = 0;
  for (int32_t g = 0; g < n->topology->nodes; g++)
    if (n->pending[g])
      n->heap[nodes++] = (neapi_heap_item){-appeal(n, g, expert), g};
  neapi_heap_build(n->heap, nodes);
  for (; homes > 0 && nodes; homes--) {
    int32_t node = neapi_heap_pop(n->heap, &nodes).id;
    ++*neapi_neap_on_node(n, node, expert);
    n->pending[node]--;
  }
}

static void give_homes(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  double size = home_size(n);
  sort_experts(n, n->each);
  for (int32_t i = 0; i < t->experts; i++) {
    int32_t expert = n->order[i];
    int64_t homes = 1 + (int64_t)fmin(n->each[expert] / size, t->ranks - 1);
    for (; homes > 0; homes -= t->nodes)
      add_homes(n, expert, homes);
  }
}

/* Worth of one more replica on a node: of the first, the work that it keeps there; of another, what
 * one cannot do alone, and a little for evening out. */
static double worth(const neapi_neap *n, int32_t node, int32_t expert)
{
  double own = n->load[(int64_t)node * n->topology->experts + expert];
  int32_t copies = *neapi_neap_on_node(n, node, expert);
  if (!copies)
    return own;
  double each = own / copies;
  return fmax(0, each - 0.9) + 0.1 * each * each;
}

/* Uses up the node's pending slots. */
static void give_rest(neapi_neap *n, int32_t node)
{
  const neap_topology *t = n->topology;
  int32_t ranks = t->first_rank[node + 1] - t->first_rank[node], count = 0;
  for (int32_t e = 0; n->pending[node] && e < t->experts; e++)
    if (*neapi_neap_on_node(n, node, e) < ranks)
      n->heap[count++] = (neapi_heap_item){-worth(n, node, e), e};
  neapi_heap_build(n->heap, count);
  for (; n->pending[node] && count; n->pending[node]--) {
    int32_t expert = neapi_heap_pop(n->heap, &count).id;
    if (++*neapi_neap_on_node(n, node, expert) < ranks)
      neapi_heap_push(n->heap, &count, (neapi_heap_item){-worth(n, node, expert), expert});
  }
}

static void give_everywhere(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  for (int32_t g = 0; g < t->nodes; g++) {
    for (int32_t e = 0; e < t->experts; e++)
      *neapi_neap_on_node(n, g, e) = 1;
    n->pending[g] -= t->experts;
  }
}

/* count and away of what nodes have been given. */
static void sum_up(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->count, 0, sizeof *n->count * t->experts);
  memcpy(n->away, n->total, sizeof *n->away * t->experts);
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++) {
      int32_t copies = *neapi_neap_on_node(n, g, e);
      n->count[e] += copies;
      n->away[e] -= copies ? n->load[(int64_t)g * t->experts + e] : 0;
    }
}

/* ---- which ranks of the node ----------------------------------------------------------------- */

static void put(neapi_neap *n, int32_t rank, int32_t expert, double work)
{
  n->expert_of[n->topology->first_slot[rank + 1] - n->free_slots[rank]--] = expert;
  n->used[rank] += work / n->speed[rank];
}

/* Replicas on as many ranks, those in the heap with least work. */
static void assign(neapi_neap *n, int32_t *ranks, int32_t expert, int32_t copies)
{
  int32_t *aside = n->order + n->topology->experts, taken = 0;
  for (; taken < copies && *ranks; taken++) {
    aside[taken] = neapi_heap_pop(n->heap, ranks).id;
    put(n, aside[taken], expert, n->each[expert]);
  }
  while (taken--) {
    int32_t rank = aside[taken];
    if (n->free_slots[rank])
      neapi_heap_push(n->heap, ranks, (neapi_heap_item){n->used[rank], rank});
  }
}

/* Fills a rank's free slots with experts that it lacks, those of the node first; doubles only where
 * it has them all. */
static void fill(neapi_neap *n, int32_t rank, int32_t sorted)
{
  const neap_topology *t = n->topology;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1] - n->free_slots[rank]; s++)
    n->held[n->expert_of[s]] = rank + 1;
  for (int32_t i = 0; n->free_slots[rank] && i < sorted + t->experts; i++) {
    int32_t expert = i < sorted ? n->order[i] : i - sorted;
    if (n->held[expert] != (uint32_t)rank + 1)
      put(n, rank, expert, 0);
    n->held[expert] = rank + 1;
  }
  for (int32_t i = 0; n->free_slots[rank]; i++)
    put(n, rank, n->order[i % sorted], 0);
}

static bool has(const neapi_neap *n, int32_t rank, int32_t expert)
{
  const int32_t *first = n->topology->first_slot;
  for (int32_t s = first[rank]; s < first[rank + 1]; s++)
    if (n->expert_of[s] == expert)
      return true;
  return false;
}

/* Lets two slots change places if that brings their ranks closer. Returns whether it did. */
static bool exchange(neapi_neap *n, int32_t slot, int32_t other)
{
  int32_t rank = n->topology->rank_of[slot], to = n->topology->rank_of[other];
  int32_t a = n->expert_of[slot], b = n->expert_of[other];
  double moved = n->each[a] - n->each[b];
  double here = n->used[rank] - moved / n->speed[rank], there = n->used[to] + moved / n->speed[to];
  double fuller = n->used[rank] > n->used[to] ? n->used[rank] : n->used[to];
  if (here > fuller - CLOSER || there > fuller - CLOSER || has(n, rank, b) || has(n, to, a))
    return false;
  n->expert_of[slot] = b;
  n->expert_of[other] = a;
  n->used[rank] = here;
  n->used[to] = there;
  return true;
}

/* Evens out the ranks of a node, every node from another slot on, so that nodes differ. */
static void even_out(neapi_neap *n, int32_t node)
{
  const neap_topology *t = n->topology;
  int32_t first = t->first_slot[t->first_rank[node]], slots = neapi_neap_node_slots(t, node);
  bool closer = n->few;
  for (int32_t pass = 0; closer && pass < PASSES; pass++) {
    closer = false;
    for (int32_t i = 0; i < slots; i++) {
      int32_t slot = first + (i + node * APART) % slots;
      for (int32_t other = first; other < first + slots; other++)
        if (t->rank_of[other] != t->rank_of[slot])
          closer |= exchange(n, slot, other);
    }
  }
}

static void pack_node(neapi_neap *n, int32_t node)
{
  const neap_topology *t = n->topology;
  const double *load = n->load + (int64_t)node * t->experts;
  int32_t ranks = 0;
  for (int32_t e = 0; e < t->experts; e++) {
    int32_t copies = *neapi_neap_on_node(n, node, e);
    n->each[e] = copies ? load[e] / copies + n->away[e] / n->count[e] + 1e-9 : 0;
  }
  int32_t sorted = sort_experts(n, n->each);
  for (int32_t r = t->first_rank[node]; r < t->first_rank[node + 1]; r++) {
    n->used[r] = 0;
    n->free_slots[r] = t->first_slot[r + 1] - t->first_slot[r];
    neapi_heap_push(n->heap, &ranks, (neapi_heap_item){0, r});
  }
  for (int32_t i = 0; i < sorted; i++)
    assign(n, &ranks, n->order[i], *neapi_neap_on_node(n, node, n->order[i]));
  for (int32_t r = t->first_rank[node]; r < t->first_rank[node + 1]; r++)
    if (n->free_slots[r])
      fill(n, r, sorted);
  even_out(n, node);
}

/* Whether every node can hold every expert, those with much work more than once. */
static bool fits_everywhere(const neapi_neap *n)
{
  const neap_topology *t = n->topology;
  bool fits = n->whole;
  for (int32_t g = 0; g < t->nodes && fits; g++) {
    double slots = 0;
    for (int32_t e = 0; e < t->experts; e++)
      slots += fmax(1, ceil(n->load[(int64_t)g * t->experts + e]));
    fits = slots <= neapi_neap_node_slots(t, g);
  }
  return fits;
}

bool neapi_neap_greedy(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->node_count, 0, sizeof *n->node_count * t->nodes * t->experts);
  memset(n->held, 0, sizeof *n->held * t->experts);
  for (int32_t g = 0; g < t->nodes; g++)
    n->pending[g] = neapi_neap_node_slots(t, g);
  bool fits = fits_everywhere(n);
  if (fits)
    give_everywhere(n);
  else
    give_homes(n);
  for (int32_t g = 0; g < t->nodes; g++)
    give_rest(n, g);
  sum_up(n);
  for (int32_t g = 0; g < t->nodes; g++)
    pack_node(n, g);
  return !fits;
}
