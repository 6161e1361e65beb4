/* SPDX-License-Identifier: Apache-2.0 */
/* Shortest paths of the flow and blocking flows along them: Dinic (1970) within a length, Ford and
 * Fulkerson (1962) from length to length. A length counts leavings of a node first and arcs second;
 * that orders the arcs of shortest paths without cycles. */
#include "split/flow_path.h"

#include <stddef.h>

enum { NONE = -1 };

static int32_t slots_of_rank(const neapi_flow_network *f, int32_t rank)
{
  return f->topology->first_slot[rank + 1] - f->topology->first_slot[rank];
}

/* ---- lengths, backwards from the ranks with capacity ----------------------------------------- */

/* Vertices whose length has changed wait in line: in a ring those with less than reach, in a list
 * those with more leavings, until the ring is empty and reach grows. */
typedef struct {
  int32_t head, tail, size; /* of the ring, f->queue */
  int32_t later;            /* length of the list, f->later */
  int32_t reach;
  int32_t missing; /* sources without a length below reach */
} line;

enum { IN_RING = 1, IN_LIST };

static bool is_source(const neapi_flow_network *f, int32_t vertex)
{
  int32_t group = vertex - f->topology->ranks, expert = group - f->topology->slots;
  if (expert >= 0)
    return f->excess[expert] > 0;
  return group >= 0 && !f->pooled && neapi_flow_source(f, group);
}

static void join_ring(neapi_flow_network *f, line *q, int32_t vertex)
{
  f->queued[vertex] = IN_RING;
  f->queue[q->tail] = vertex;
  q->tail = q->tail + 1 == q->size ? 0 : q->tail + 1;
}

static void shorten(neapi_flow_network *f, line *q, int32_t vertex, int32_t length)
{
  bool near = length < q->reach, before = f->length[vertex] < q->reach;
  f->length[vertex] = length;
  q->missing -= near && !before && is_source(f, vertex);
  if (f->queued[vertex] == IN_RING || (!near && f->queued[vertex]))
    return;
  if (near) {
    join_ring(f, q, vertex);
  } else {
    f->queued[vertex] = IN_LIST;
    f->later[q->later++] = vertex;
  }
}

static inline void relax(neapi_flow_network *f, line *q, int32_t vertex, int32_t length)
{
  if (length < f->length[vertex])
    shorten(f, q, vertex, length);
}

static void relax_to_rank(neapi_flow_network *f, line *q, int32_t rank)
{
  const neap_topology *t = f->topology;
  int32_t next = f->length[rank] + 1;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    int32_t group = f->group_of[s], expert = f->layout->expert_of[s];
    if (f->pooled)
      relax(f, q, neapi_flow_pool_of(f, expert), next);
    if (f->pooled && !f->grouped)
      continue;
    if (neapi_flow_is_vertex(f, group)) {
      relax(f, q, neapi_flow_group(f, group), next);
    } else if (f->leaving && f->left[group]) {
      int32_t price = neapi_flow_price(f, expert);
      if (next >= price)
        relax(f, q, neapi_flow_pool_of(f, expert), next - price);
    }
  }
}

static void relax_to_group(neapi_flow_network *f, line *q, int32_t group)
{
  int32_t length = f->length[neapi_flow_group(f, group)];
  for (int32_t i = f->group_first[group]; i < f->group_first[group + 1]; i++) {
    if (f->near[i])
      relax(f, q, f->layout->rank_at[i], length + 1);
  }
  int32_t expert = f->group_expert[group], price = neapi_flow_price(f, expert);
  if (f->pooled && f->leaving && f->left[group] && length + 1 >= price)
    relax(f, q, neapi_flow_pool_of(f, expert), length + 1 - price);
}

static void relax_to_pool(neapi_flow_network *f, line *q, int32_t expert)
{
  int32_t next = f->length[neapi_flow_pool_of(f, expert)] + 1;
  for (int32_t i = f->layout->first[expert]; i < f->layout->first[expert + 1]; i++) {
    if (f->far[i])
      relax(f, q, f->layout->rank_at[i], next);
  }
  int32_t farther = next + neapi_flow_price(f, expert);
  for (int32_t k = f->expert_group[expert]; f->leaving && k < f->expert_group[expert + 1]; k++) {
    int32_t index = f->group_first[k];
    if (neapi_flow_is_vertex(f, k))
      relax(f, q, neapi_flow_group(f, k), farther);
    else if (f->near[index])
      relax(f, q, f->layout->rank_at[index], farther);
  }
}

static void relax_to(neapi_flow_network *f, line *q, int32_t vertex)
{
  int32_t group = vertex - f->topology->ranks, expert = group - f->topology->slots;
  if (group < 0)
    relax_to_rank(f, q, vertex);
  else if (expert < 0)
    relax_to_group(f, q, group);
  else
    relax_to_pool(f, q, expert);
}

/* Takes the next vertex out of the ring. Below one leaving, lengths are found in their order: when
 * no source is missing, the others need none. */
static void take_next(neapi_flow_network *f, line *q)
{
  int32_t vertex = f->queue[q->head];
  q->head = q->head + 1 == q->size ? 0 : q->head + 1;
  f->queued[vertex] = 0;
  if (q->missing || q->reach > NEAPI_LEAVING)
    relax_to(f, q, vertex);
}

/* Extends reach by one leaving and moves what is below it from the list into the ring. */
static void extend(neapi_flow_network *f, line *q)
{
  int32_t count = q->later;
  q->later = 0;
  q->reach += NEAPI_LEAVING;
  for (int32_t i = 0; i < count; i++) {
    int32_t vertex = f->later[i];
    if (f->queued[vertex] != IN_LIST)
      continue;
    if (f->length[vertex] < q->reach) {
      q->missing -= is_source(f, vertex);
      join_ring(f, q, vertex);
    } else {
      f->later[q->later++] = vertex;
    }
  }
}

void neapi_flow_measure(neapi_flow_network *f, int32_t first, int32_t last, int32_t sources)
{
  line q = {0, 0, neapi_flow_vertices(f) + 1, 0, NEAPI_LEAVING, sources};
  for (int32_t r = first; r < last; r++)
    if (f->capacity[r])
      relax(f, &q, r, 0);
  for (;;) {
    if (q.head == q.tail && q.missing && q.later)
      extend(f, &q);
    else if (q.head == q.tail)
      break;
    else
      take_next(f, &q);
  }
  for (int32_t i = 0; i < q.later; i++)
    f->queued[f->later[i]] = 0;
}

/* ---- blocking flow ---------------------------------------------------------------------------
 *
 * A vertex's arcs are numbered: of a rank, 2i and 2i + 1 undo near and far work of its i-th slot;
 * of a group, one per slot and then its pool; of a pool, one per slot and then one per group. Where
 * a group is no vertex its arcs lead on, to its pool or to its slot's rank. */

/* Where the work of a slot goes that is undone, if that is on a shortest path; else NONE. */
static int32_t step_from_slot(const neapi_flow_network *f, int32_t slot, bool far, int32_t next)
{
  int32_t group = f->group_of[slot], pool = neapi_flow_pool_of(f, f->group_expert[group]);
  if (!(far ? f->far : f->near)[f->layout->index_of[slot]])
    return NONE;
  if (far)
    return f->length[pool] == next ? pool : NONE;
  if (neapi_flow_is_vertex(f, group))
    return f->length[neapi_flow_group(f, group)] == next ? neapi_flow_group(f, group) : NONE;
  next -= neapi_flow_price(f, f->group_expert[group]);
  return f->leaving && f->length[pool] == next ? pool : NONE;
}

static int32_t step_from_rank(neapi_flow_network *f, int32_t rank)
{
  int32_t first = f->topology->first_slot[rank], arcs = 2 * slots_of_rank(f, rank);
  for (; f->cursor[rank] < arcs; f->cursor[rank]++) {
    int32_t a = f->cursor[rank];
    int32_t to = step_from_slot(f, first + a / 2, a & 1, f->length[rank] - 1);
    if (to != NONE)
      return to;
  }
  return NONE;
}

static int32_t step_to_slot(neapi_flow_network *f, int32_t vertex, int32_t first, int32_t count)
{
  for (; f->cursor[vertex] < count; f->cursor[vertex]++) {
    int32_t to = f->layout->rank_at[first + f->cursor[vertex]];
    if (f->length[to] == f->length[vertex] - 1)
      return to;
  }
  return NONE;
}

static int32_t step_from_group(neapi_flow_network *f, int32_t group)
{
  int32_t vertex = neapi_flow_group(f, group), pool = neapi_flow_pool_of(f, f->group_expert[group]);
  int32_t count = f->group_first[group + 1] - f->group_first[group];
  int32_t to = step_to_slot(f, vertex, f->group_first[group], count);
  if (to != NONE || f->cursor[vertex] > count || !f->pooled || !f->leaving)
    return to;
  return f->length[pool] == f->length[vertex] - 1 - neapi_flow_price(f, f->group_expert[group])
             ? pool
             : NONE;
}

static int32_t step_from_pool(neapi_flow_network *f, int32_t expert)
{
  int32_t vertex = neapi_flow_pool_of(f, expert), first = f->layout->first[expert];
  int32_t count = f->layout->first[expert + 1] - first;
  int32_t to = step_to_slot(f, vertex, first, count);
  if (to != NONE || !f->leaving)
    return to;
  int32_t next = f->length[vertex] - 1 + neapi_flow_price(f, expert);
  for (int32_t k;
       (k = f->expert_group[expert] + f->cursor[vertex] - count) < f->expert_group[expert + 1];
       f->cursor[vertex]++) {
    to =
        neapi_flow_is_vertex(f, k) ? neapi_flow_group(f, k) : f->layout->rank_at[f->group_first[k]];
    if (f->left[k] && f->length[to] == next)
      return to;
  }
  return NONE;
}

static int32_t step(neapi_flow_network *f, int32_t vertex)
{
  const neap_topology *t = f->topology;
  if (vertex < t->ranks)
    return step_from_rank(f, vertex);
  if (vertex < t->ranks + t->slots)
    return step_from_group(f, vertex - t->ranks);
  return step_from_pool(f, vertex - t->ranks - t->slots);
}

/* Amount that an arc can still carry: a pointer to it, or NULL if unlimited; what it adds to:
 * *more. */
static int64_t *carry(neapi_flow_network *f, int32_t vertex, int64_t **more)
{
  const neap_topology *t = f->topology;
  int32_t arc = f->cursor[vertex];
  *more = NULL;
  if (vertex < t->ranks) {
    int32_t slot = t->first_slot[vertex] + arc / 2;
    if (!(arc & 1) && !neapi_flow_is_vertex(f, f->group_of[slot]))
      *more = &f->left[f->group_of[slot]];
    return &(arc & 1 ? f->far : f->near)[f->layout->index_of[slot]];
  }
  bool group = vertex < t->ranks + t->slots;
  int32_t index = vertex - t->ranks - (group ? 0 : t->slots);
  const int32_t *first = group ? f->group_first : f->layout->first;
  if (arc < first[index + 1] - first[index]) {
    *more = &(group ? f->near : f->far)[first[index] + arc];
    return NULL;
  }
  if (group) {
    *more = &f->left[index];
    return NULL;
  }
  int32_t returned = f->expert_group[index] + arc - (first[index + 1] - first[index]);
  if (!neapi_flow_is_vertex(f, returned))
    *more = &f->near[f->group_first[returned]];
  return &f->left[returned];
}

static inline int32_t min32(int32_t a, int32_t b)
{
  return a < b ? a : b;
}

static int32_t least_to_slots(const neapi_flow_network *f, int32_t first, int32_t last)
{
  int32_t least = NEAPI_FAR_AWAY;
  for (int32_t i = first; i < last; i++)
    least = min32(least, f->length[f->layout->rank_at[i]] + 1);
  return least;
}

static int32_t least_from_rank(const neapi_flow_network *f, int32_t rank)
{
  const neap_topology *t = f->topology;
  int32_t least = NEAPI_FAR_AWAY;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    int32_t index = f->layout->index_of[s], group = f->group_of[s], expert = f->group_expert[group];
    int32_t pool = neapi_flow_pool_of(f, expert);
    if (f->pooled && f->far[index])
      least = min32(least, f->length[pool] + 1);
    if (!f->near[index])
      continue;
    if (neapi_flow_is_vertex(f, group))
      least = min32(least, f->length[neapi_flow_group(f, group)] + 1);
    else if (f->leaving)
      least = min32(least, f->length[pool] + 1 + neapi_flow_price(f, expert));
  }
  return least;
}

static int32_t least_from_group(const neapi_flow_network *f, int32_t group)
{
  int32_t least = least_to_slots(f, f->group_first[group], f->group_first[group + 1]);
  int32_t expert = f->group_expert[group];
  if (f->pooled && f->leaving)
    least =
        min32(least, f->length[neapi_flow_pool_of(f, expert)] + 1 + neapi_flow_price(f, expert));
  return least;
}

static int32_t least_from_pool(const neapi_flow_network *f, int32_t expert)
{
  int32_t least = least_to_slots(f, f->layout->first[expert], f->layout->first[expert + 1]);
  int32_t nearer = 1 - neapi_flow_price(f, expert);
  for (int32_t k = f->expert_group[expert]; f->leaving && k < f->expert_group[expert + 1]; k++) {
    int32_t to =
        neapi_flow_is_vertex(f, k) ? neapi_flow_group(f, k) : f->layout->rank_at[f->group_first[k]];
    if (f->left[k])
      least = min32(least, f->length[to] + nearer);
  }
  return least;
}

/* A vertex from which no shortest path goes on gets a new length, if there is one with as many
 * leavings: the same search may then go on. Otherwise it is done with until the next measure. */
static void lengthen(neapi_flow_network *f, int32_t vertex)
{
  int32_t group = vertex - f->topology->ranks, expert = group - f->topology->slots;
  int32_t before = f->length[vertex], after;
  if (group < 0)
    after = least_from_rank(f, vertex);
  else if (expert < 0)
    after = least_from_group(f, group);
  else
    after = least_from_pool(f, expert);
  bool same =
      after / NEAPI_LEAVING == before / NEAPI_LEAVING && after % NEAPI_LEAVING < NEAPI_DETOUR;
  f->length[vertex] = same && after > before ? after : NEAPI_FAR_AWAY;
  f->cursor[vertex] = 0;
}

/* A shortest path from source to a rank with capacity, in f->path. Returns its last index, or
 * NONE. */
static int32_t find_path(neapi_flow_network *f, int32_t source)
{
  int32_t depth = 0;
  f->path[0] = source;
  while (f->length[source] < NEAPI_FAR_AWAY) {
    int32_t vertex = f->path[depth];
    if (vertex < f->topology->ranks && !f->length[vertex] && f->capacity[vertex])
      return depth;
    int32_t next = step(f, vertex);
    if (next != NONE) {
      f->path[++depth] = next;
    } else {
      lengthen(f, vertex);
      depth -= depth > 0;
    }
  }
  return NONE;
}

static int64_t push_path(neapi_flow_network *f, int32_t depth, int64_t work)
{
  int64_t *more, *capacity = &f->capacity[f->path[depth]];
  work = work < *capacity ? work : *capacity;
  for (int32_t i = 0; i < depth; i++) {
    const int64_t *limit = carry(f, f->path[i], &more);
    if (limit && *limit < work)
      work = *limit;
  }
  for (int32_t i = 0; i < depth; i++) {
    int64_t *limit = carry(f, f->path[i], &more);
    if (limit)
      *limit -= work;
    if (more)
      *more += work;
  }
  *capacity -= work;
  return work;
}

int64_t neapi_flow_push(neapi_flow_network *f, int32_t source, int64_t *work)
{
  int64_t before = *work;
  while (*work) {
    int32_t depth = find_path(f, source);
    if (depth == NONE)
      break;
    *work -= push_path(f, depth, *work);
  }
  return before - *work;
}
