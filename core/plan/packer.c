/* SPDX-License-Identifier: Apache-2.0 */
/* Replica counts and placement, shared by planners. */
#include "plan/packer.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

int neapi_packer_open(const neap_topology *t, void **out)
{
  neapi_packer *p = neapi_alloc_zero(sizeof *p, "planner");
  if (!p)
    return NEAP_MEMORY;
  p->topology = t;
  p->words = (t->experts + 63) / 64;
  p->work = neapi_alloc(t->experts * 8ll, "planner");
  p->count = neapi_alloc_zero(t->experts * 4ll, "planner");
  p->order = neapi_alloc(t->experts * 4ll, "planner");
  p->rank_work = neapi_alloc(t->ranks * 8ll, "planner");
  p->free_slots = neapi_alloc(t->ranks * 4ll, "planner");
  p->holds = neapi_alloc(8ll * t->ranks * p->words, "planner");
  p->expert_heap = neapi_alloc(t->experts * (int64_t)sizeof(neapi_heap_item), "planner");
  p->rank_heap = neapi_alloc(t->ranks * (int64_t)sizeof(neapi_heap_item), "planner");
  p->area_heap = neapi_alloc(t->ranks * (int64_t)sizeof(neapi_heap_item), "planner");
  p->area_size = neapi_alloc(t->ranks * 4ll, "planner");
  p->aside = neapi_alloc(t->ranks * 4ll, "planner");
  if (!p->work || !p->count || !p->order || !p->rank_work || !p->free_slots || !p->holds ||
      !p->expert_heap || !p->rank_heap || !p->area_heap || !p->area_size || !p->aside) {
    neapi_packer_close(p);
    return NEAP_MEMORY;
  }
  *out = p;
  return NEAP_OK;
}

void neapi_packer_close(void *packer)
{
  neapi_packer *p = packer;
  if (!p)
    return;
  free(p->work);
  free(p->count);
  free(p->order);
  free(p->rank_work);
  free(p->free_slots);
  free(p->holds);
  free(p->expert_heap);
  free(p->rank_heap);
  free(p->area_heap);
  free(p->area_size);
  free(p->aside);
  free(p);
}

void neapi_packer_weigh(neapi_packer *p, const double *load)
{
  const neap_topology *t = p->topology;
  memset(p->work, 0, t->experts * 8ul);
  for (int32_t r = 0; r < t->ranks; r++, load += t->experts)
    for (int32_t e = 0; e < t->experts; e++)
      p->work[e] += load[e];
  for (int32_t e = 0; e < t->experts; e++)
    p->work[e] *= t->cost[e];
}

void neapi_packer_weigh_all(neapi_packer *p, const double *load)
{
  int32_t experts = p->topology->experts;
  double total = 0;
  neapi_packer_weigh(p, load);
  for (int32_t e = 0; e < experts; e++)
    total += p->work[e];
  for (int32_t e = 0; e < experts; e++)
    p->work[e] += 1e-9 * (total > 0 ? total : 1);
}

void neapi_packer_sort(neapi_packer *p, const int32_t *set, int32_t n)
{
  for (int32_t i = 0; i < n; i++) {
    int32_t e = set ? set[i] : i;
    double share = p->count[e] ? p->work[e] / p->count[e] : p->work[e];
    p->expert_heap[i] = (neapi_heap_item){-share, e};
  }
  neapi_heap_build(p->expert_heap, n);
  for (int32_t i = 0, left = n; left;)
    p->order[i++] = neapi_heap_pop(p->expert_heap, &left).id;
}

void neapi_packer_replicate(neapi_packer *p, const int32_t *set, int32_t n, int32_t slots,
                            int32_t start, int32_t step, int32_t cap)
{
  int32_t left = slots - n * start, size = 0;
  for (int32_t i = 0; i < n; i++) {
    int32_t e = set ? set[i] : i;
    p->count[e] = start;
    if (start < cap)
      p->expert_heap[size++] = (neapi_heap_item){-p->work[e] / start, e};
  }
  neapi_heap_build(p->expert_heap, size);
  while (left > 0 && size) {
    int32_t e = p->expert_heap[0].id, gain = p->count[e] < step ? 1 : step;
    gain = gain < cap - p->count[e] ? gain : cap - p->count[e];
    if (gain > left || !gain) {
      neapi_heap_pop(p->expert_heap, &size);
      continue;
    }
    p->count[e] += gain;
    left -= gain;
    neapi_heap_sink(p->expert_heap, size, 0, (neapi_heap_item){-p->work[e] / p->count[e], e});
  }
}

void neapi_packer_begin(neapi_packer *p, int32_t *expert_of)
{
  const neap_topology *t = p->topology;
  p->expert_of = expert_of;
  memset(expert_of, -1, t->slots * 4ul);
  memset(p->rank_work, 0, t->ranks * 8ul);
  memset(p->holds, 0, 8ul * t->ranks * p->words);
  for (int32_t r = 0; r < t->ranks; r++)
    p->free_slots[r] = t->first_slot[r + 1] - t->first_slot[r];
}

static neapi_heap_item rank_item(const neapi_packer *p, int32_t rank)
{
  return (neapi_heap_item){p->rank_work[rank] / p->topology->speed[rank], rank};
}

void neapi_packer_areas(neapi_packer *p, const int32_t *first_rank, int32_t areas)
{
  p->area_first = first_rank;
  p->areas = areas;
  for (int32_t a = 0; a < areas; a++) {
    neapi_heap_item *heap = p->rank_heap + first_rank[a];
    int32_t size = 0;
    for (int32_t r = first_rank[a]; r < first_rank[a + 1]; r++)
      if (p->free_slots[r])
        heap[size++] = rank_item(p, r);
    neapi_heap_build(heap, size);
    p->area_size[a] = size;
  }
}

bool neapi_packer_holds(const neapi_packer *p, int32_t rank, int32_t expert)
{
  return p->holds[(int64_t)rank * p->words + expert / 64] >> (expert % 64) & 1;
}

void neapi_packer_put(neapi_packer *p, int32_t rank, int32_t expert, double work)
{
  p->expert_of[p->topology->first_slot[rank + 1] - p->free_slots[rank]--] = expert;
  p->holds[(int64_t)rank * p->words + expert / 64] |= 1ull << (expert % 64);
  p->rank_work[rank] += work;
}

/* What neapi_packer_spread puts where. */
typedef struct {
  int32_t expert;
  double work; /* of one replica */
  bool doubles;
  int32_t set_aside; /* ranks in aside: they have free slots, but must not get the expert again */
} spreading;

/* Heap of the areas that have a rank for the expert, by their least loaded rank. Returns its
 * size. */
static int32_t open_areas(neapi_packer *p)
{
  int32_t size = 0;
  for (int32_t a = 0; a < p->areas; a++)
    if (p->area_size[a])
      p->area_heap[size++] = (neapi_heap_item){p->rank_heap[p->area_first[a]].key, a};
  neapi_heap_build(p->area_heap, size);
  return size;
}

/* Puts a replica on the least loaded rank of an area. */
static void put_in_area(neapi_packer *p, spreading *s, int32_t a)
{
  neapi_heap_item *ranks = p->rank_heap + p->area_first[a];
  int32_t rank = neapi_heap_pop(ranks, &p->area_size[a]).id;
  neapi_packer_put(p, rank, s->expert, s->work);
  if (!p->free_slots[rank])
    return;
  if (s->doubles)
    neapi_heap_push(ranks, &p->area_size[a], rank_item(p, rank));
  else
    p->aside[s->set_aside++] = rank;
}

/* One replica to each area that has a rank for it, in the order of their least loaded ranks; at
 * most count. Returns how many were placed. */
static int32_t spread_round(neapi_packer *p, spreading *s, int32_t count)
{
  int32_t size = open_areas(p), placed = 0;
  for (; placed < count && size; placed++)
    put_in_area(p, s, neapi_heap_pop(p->area_heap, &size).id);
  return placed;
}

/* Count replicas, each to the least loaded rank of all areas. */
static void spread_anywhere(neapi_packer *p, spreading *s, int32_t count)
{
  int32_t size = open_areas(p);
  for (; count && size; count--) {
    int32_t a = p->area_heap[0].id;
    put_in_area(p, s, a);
    if (p->area_size[a])
      neapi_heap_sink(p->area_heap, size, 0,
                      (neapi_heap_item){p->rank_heap[p->area_first[a]].key, a});
    else
      neapi_heap_pop(p->area_heap, &size);
  }
}

/* Area of a rank: areas are ranges, so the last one that starts at or before it. */
static int32_t area_of(const neapi_packer *p, int32_t rank)
{
  int32_t low = 0, high = p->areas - 1;
  while (low < high) {
    int32_t middle = (low + high + 1) / 2;
    if (p->area_first[middle] <= rank)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

void neapi_packer_spread(neapi_packer *p, int32_t expert, int32_t count, double work, bool doubles)
{
  spreading s = {expert, work, doubles, 0};
  /* After a round that every area took part in, all have the same number again. */
  for (int32_t placed = p->areas; count && placed == p->areas; count -= placed)
    placed = spread_round(p, &s, count);
  spread_anywhere(p, &s, count);
  while (s.set_aside) {
    int32_t rank = p->aside[--s.set_aside], a = area_of(p, rank);
    neapi_heap_push(p->rank_heap + p->area_first[a], &p->area_size[a], rank_item(p, rank));
  }
}

/* Counts the replicas placed so far, for fill. */
static void count_placed(neapi_packer *p)
{
  memset(p->count, 0, p->topology->experts * 4ul);
  for (int32_t s = 0; s < p->topology->slots; s++)
    if (p->expert_of[s] >= 0)
      p->count[p->expert_of[s]]++;
}

/* The expert with the most work per replica; of those that rank lacks, if lacking. */
static int32_t neediest(const neapi_packer *p, int32_t rank, bool lacking)
{
  int32_t best = -1;
  double most = -1;
  for (int32_t e = 0; e < p->topology->experts; e++) {
    double need = p->work[e] / (p->count[e] ? p->count[e] : 1e-9);
    if (need > most && !(lacking && neapi_packer_holds(p, rank, e))) {
      most = need;
      best = e;
    }
  }
  return best;
}

void neapi_packer_fill(neapi_packer *p)
{
  bool counted = false;
  for (int32_t r = 0; r < p->topology->ranks; r++)
    while (p->free_slots[r]) {
      if (!counted)
        count_placed(p);
      counted = true;
      int32_t e = neediest(p, r, true);
      if (e < 0)
        e = neediest(p, r, false);
      p->count[e]++;
      neapi_packer_put(p, r, e, p->work[e] / p->count[e]);
    }
}

/* Fills a rank's free slots with what it had before and lacks now. */
static void keep_held(neapi_packer *p, int32_t rank, const int32_t *before)
{
  const neap_topology *t = p->topology;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1] && p->free_slots[rank]; s++)
    if (!neapi_packer_holds(p, rank, before[s]))
      neapi_packer_put(p, rank, before[s], 0);
}

/* Fills a rank's free slots with the experts at home there, which are there already. */
static void repeat_own(neapi_packer *p, int32_t rank)
{
  int32_t first, end;
  neap_topology_home(p->topology, rank, &first, &end);
  for (int32_t e = first; first < end && p->free_slots[rank]; e = e + 1 < end ? e + 1 : first)
    neapi_packer_put(p, rank, e, 0);
}

void neapi_packer_fill_held(neapi_packer *p, const neap_layout *previous)
{
  const neap_topology *t = p->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    if (previous)
      keep_held(p, r, previous->expert_of);
    if (t->homes)
      repeat_own(p, r);
    int32_t e = neapi_packer_home(t, r + 1), held = t->first_slot[r + 1] - t->first_slot[r];
    for (held -= p->free_slots[r]; p->free_slots[r]; e++) {
      int32_t expert = e % t->experts;
      if (held < t->experts && neapi_packer_holds(p, r, expert))
        continue;
      neapi_packer_put(p, r, expert, 0);
      held++;
    }
  }
}

void neapi_packer_fill_own(neapi_packer *p)
{
  const neap_topology *t = p->topology;
  count_placed(p);
  for (int32_t r = 0; r < t->ranks; r++) {
    const int32_t *own = p->expert_of + t->first_slot[r];
    int32_t n = neapi_packer_home(t, r + 1) - neapi_packer_home(t, r);
    while (n && p->free_slots[r]) {
      int32_t best = own[0];
      for (int32_t i = 1; i < n; i++)
        best = p->count[own[i]] < p->count[best] ? own[i] : best;
      p->count[best]++;
      neapi_packer_put(p, r, best, 0);
    }
  }
}

int32_t neapi_packer_home(const neap_topology *t, int32_t rank)
{
  int32_t first = t->experts, end;
  if (rank < t->ranks)
    neap_topology_home(t, rank, &first, &end);
  return first;
}

void neapi_packer_begin_home(neapi_packer *p, int32_t *expert_of)
{
  neapi_packer_begin(p, expert_of);
  for (int32_t r = 0; r < p->topology->ranks; r++)
    for (int32_t e = neapi_packer_home(p->topology, r); e < neapi_packer_home(p->topology, r + 1);
         e++)
      neapi_packer_put(p, r, e, p->work[e]);
}

double neapi_packer_ideal(const neapi_packer *p, int32_t first, int32_t last)
{
  double work = 0, speed = 0;
  for (int32_t r = first; r < last; r++) {
    work += p->rank_work[r];
    speed += p->topology->speed[r];
  }
  return work / speed;
}

double neapi_packer_slack(const neapi_packer *p, int32_t rank, double most)
{
  return most * p->topology->speed[rank] - p->rank_work[rank];
}

void neapi_packer_move(neapi_packer *p, int32_t expert, int32_t from, int32_t to, double work)
{
  p->rank_work[from] -= work;
  if (neapi_packer_holds(p, to, expert))
    p->rank_work[to] += work;
  else
    neapi_packer_put(p, to, expert, work);
}
