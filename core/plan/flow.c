/* Work of nodes and experts flowing into slots at least cost.
 *
 * Successive shortest paths with blocking flows: Dinic (1970) within a length, Ford and Fulkerson
 * (1962) from length to length. A length counts leavings of a node first and arcs second; that
 * orders the arcs of shortest paths without cycles. */
#include "flow.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = -1 };
static const int64_t FAR_AWAY = INT64_MAX / 4; /* length where no path is known */
static const int64_t REACHED = INT64_MAX / 4 + 1;
static const int64_t LEAVING = 1ll << 40; /* more arcs than any path has */

static int32_t vertices(const neapi_flow *f)
{
  const neap_topology *t = f->topology;
  return t->ranks + t->slots + t->experts;
}

int neapi_flow_open(const neap_topology *t, neapi_flow *f)
{
  memset(f, 0, sizeof *f);
  f->topology = t;
  int64_t all = vertices(f);
  f->group_of = neapi_alloc(t->slots * 4ll, "split");
  f->group_first = neapi_alloc(t->slots * 4ll + 4, "split");
  f->group_expert = neapi_alloc(t->slots * 4ll, "split");
  f->expert_group = neapi_alloc(t->experts * 4ll + 4, "split");
  f->supply = neapi_alloc(t->slots * 8ll, "split");
  f->left = neapi_alloc(t->slots * 8ll, "split");
  f->outside = neapi_alloc(t->experts * 8ll, "split");
  f->excess = neapi_alloc(t->experts * 8ll, "split");
  f->room = neapi_alloc(t->ranks * 8ll, "split");
  f->length = neapi_alloc(all * 8, "split");
  f->cursor = neapi_alloc(all * 4, "split");
  f->queue = neapi_alloc(all * 4 + 4, "split");
  f->path = neapi_alloc(all * 4, "split");
  f->queued = neapi_alloc_zero(all, "split");
  bool whole = f->group_of && f->group_first && f->group_expert && f->expert_group && f->supply &&
               f->left && f->outside && f->excess && f->room && f->length && f->cursor &&
               f->queue && f->path && f->queued;
  return whole ? NEAP_OK : NEAP_MEMORY;
}

void neapi_flow_close(neapi_flow *f)
{
  free(f->group_of);
  free(f->group_first);
  free(f->group_expert);
  free(f->expert_group);
  free(f->supply);
  free(f->left);
  free(f->outside);
  free(f->excess);
  free(f->room);
  free(f->length);
  free(f->cursor);
  free(f->queue);
  free(f->path);
  free(f->queued);
}

void neapi_flow_build(neapi_flow *f, const neap_layout *layout)
{
  const neap_topology *t = f->topology;
  f->layout = layout;
  int32_t group = 0;
  for (int32_t e = 0; e < t->experts; e++) {
    f->expert_group[e] = group;
    int32_t node = NONE;
    for (int32_t i = layout->first[e]; i < layout->first[e + 1]; i++) {
      int32_t slot = layout->by_expert[i], own = t->node_of[t->rank_of[slot]];
      if (own != node) {
        f->group_first[group] = i;
        f->group_expert[group++] = e;
        node = own;
      }
      f->group_of[slot] = group - 1;
    }
  }
  f->expert_group[t->experts] = f->groups = group;
  f->group_first[group] = t->slots;
}

void neapi_flow_reset(neapi_flow *f)
{
  memset(f->near, 0, f->topology->slots * 8ul);
  memset(f->far, 0, f->topology->slots * 8ul);
  memcpy(f->left, f->supply, f->groups * 8ul);
}

/* ---- vertices ------------------------------------------------------------------------------ */

static int32_t group_vertex(const neapi_flow *f, int32_t group)
{
  return f->topology->ranks + group;
}

static int32_t pool_vertex(const neapi_flow *f, int32_t expert)
{
  return f->topology->ranks + f->topology->slots + expert;
}

static int32_t slots_of_rank(const neapi_flow *f, int32_t rank)
{
  return f->topology->first_slot[rank + 1] - f->topology->first_slot[rank];
}

/* ---- lengths, backwards from the ranks with room -------------------------------------------- */

typedef struct {
  int32_t head, tail, size;
} ring;

static void relax(neapi_flow *f, ring *q, int32_t vertex, int64_t length)
{
  if (length >= f->length[vertex])
    return;
  f->length[vertex] = length;
  if (f->queued[vertex])
    return;
  f->queued[vertex] = 1;
  f->queue[q->tail] = vertex;
  q->tail = q->tail + 1 == q->size ? 0 : q->tail + 1;
}

static void relax_to_rank(neapi_flow *f, ring *q, int32_t rank)
{
  const neap_topology *t = f->topology;
  int64_t next = f->length[rank] + 1;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    relax(f, q, group_vertex(f, f->group_of[s]), next);
    if (f->pooled)
      relax(f, q, pool_vertex(f, f->group_expert[f->group_of[s]]), next);
  }
}

static void relax_to_group(neapi_flow *f, ring *q, int32_t group)
{
  int64_t length = f->length[group_vertex(f, group)];
  for (int32_t i = f->group_first[group]; i < f->group_first[group + 1]; i++) {
    int32_t slot = f->layout->by_expert[i];
    if (f->near[slot])
      relax(f, q, f->topology->rank_of[slot], length + 1);
  }
  if (f->pooled && f->leaving && f->left[group])
    relax(f, q, pool_vertex(f, f->group_expert[group]), length + 1 - f->price);
}

static void relax_to_pool(neapi_flow *f, ring *q, int32_t expert)
{
  int64_t length = f->length[pool_vertex(f, expert)];
  for (int32_t i = f->layout->first[expert]; i < f->layout->first[expert + 1]; i++) {
    int32_t slot = f->layout->by_expert[i];
    if (f->far[slot])
      relax(f, q, f->topology->rank_of[slot], length + 1);
  }
  if (f->leaving)
    for (int32_t k = f->expert_group[expert]; k < f->expert_group[expert + 1]; k++)
      relax(f, q, group_vertex(f, k), length + 1 + f->price);
}

/* Lengths of all vertices from which a rank with room among [first, last) can be reached; those of
 * the part of the graph that is searched are FAR_AWAY before. */
static void measure(neapi_flow *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  ring q = {0, 0, vertices(f) + 1};
  for (int32_t r = first; r < last; r++)
    if (f->room[r])
      relax(f, &q, r, 0);
  while (q.head != q.tail) {
    int32_t vertex = f->queue[q.head];
    q.head = q.head + 1 == q.size ? 0 : q.head + 1;
    f->queued[vertex] = 0;
    if (vertex < t->ranks)
      relax_to_rank(f, &q, vertex);
    else if (vertex < t->ranks + t->slots)
      relax_to_group(f, &q, vertex - t->ranks);
    else
      relax_to_pool(f, &q, vertex - t->ranks - t->slots);
  }
}

/* ---- blocking flow ---------------------------------------------------------------------------
 *
 * A vertex's arcs are numbered: of a rank, 2i and 2i + 1 undo near and far work of its i-th slot;
 * of a group, one a slot and then its pool; of a pool, one a slot and then one a group. */

static int32_t step_from_rank(neapi_flow *f, int32_t rank)
{
  int32_t first = f->topology->first_slot[rank], arcs = 2 * slots_of_rank(f, rank);
  int64_t next = f->length[rank] - 1;
  for (int32_t a = f->cursor[rank]; a < arcs; a++) {
    int32_t slot = first + a / 2, group = f->group_of[slot];
    int32_t to = a & 1 ? pool_vertex(f, f->group_expert[group]) : group_vertex(f, group);
    if ((a & 1 ? f->far : f->near)[slot] && f->length[to] == next) {
      f->cursor[rank] = a;
      return to;
    }
  }
  f->cursor[rank] = arcs;
  return NONE;
}

static int32_t step_to_slot(neapi_flow *f, int32_t vertex, int32_t first, int32_t count)
{
  for (; f->cursor[vertex] < count; f->cursor[vertex]++) {
    int32_t to = f->topology->rank_of[f->layout->by_expert[first + f->cursor[vertex]]];
    if (f->length[to] == f->length[vertex] - 1)
      return to;
  }
  return NONE;
}

static int32_t step_from_group(neapi_flow *f, int32_t group)
{
  int32_t vertex = group_vertex(f, group), pool = pool_vertex(f, f->group_expert[group]);
  int32_t count = f->group_first[group + 1] - f->group_first[group];
  int32_t to = step_to_slot(f, vertex, f->group_first[group], count);
  if (to != NONE || f->cursor[vertex] > count || !f->pooled || !f->leaving)
    return to;
  return f->length[pool] == f->length[vertex] - 1 - f->price ? pool : NONE;
}

static int32_t step_from_pool(neapi_flow *f, int32_t expert)
{
  int32_t vertex = pool_vertex(f, expert), first = f->layout->first[expert];
  int32_t count = f->layout->first[expert + 1] - first;
  int32_t to = step_to_slot(f, vertex, first, count);
  if (to != NONE || !f->leaving)
    return to;
  for (int32_t k;
       (k = f->expert_group[expert] + f->cursor[vertex] - count) < f->expert_group[expert + 1];
       f->cursor[vertex]++)
    if (f->left[k] && f->length[group_vertex(f, k)] == f->length[vertex] - 1 + f->price)
      return group_vertex(f, k);
  return NONE;
}

static int32_t step(neapi_flow *f, int32_t vertex)
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
static int64_t *carry(neapi_flow *f, int32_t vertex, int64_t **more)
{
  const neap_topology *t = f->topology;
  int32_t arc = f->cursor[vertex];
  *more = NULL;
  if (vertex < t->ranks)
    return &(arc & 1 ? f->far : f->near)[t->first_slot[vertex] + arc / 2];
  bool group = vertex < t->ranks + t->slots;
  int32_t index = vertex - t->ranks - (group ? 0 : t->slots);
  const int32_t *first = group ? f->group_first : f->layout->first;
  if (arc < first[index + 1] - first[index]) {
    *more = &(group ? f->near : f->far)[f->layout->by_expert[first[index] + arc]];
    return NULL;
  }
  if (group) {
    *more = &f->left[index];
    return NULL;
  }
  return &f->left[f->expert_group[index] + arc - (first[index + 1] - first[index])];
}

/* A shortest path from source to a rank with room, in f->path. Returns its last index, or NONE. */
static int32_t find_path(neapi_flow *f, int32_t source)
{
  int32_t depth = 0;
  f->path[0] = source;
  for (;;) {
    int32_t vertex = f->path[depth];
    if (vertex < f->topology->ranks && !f->length[vertex] && f->room[vertex])
      return depth;
    int32_t next = step(f, vertex);
    if (next != NONE)
      f->path[++depth] = next;
    else if (!depth)
      return NONE;
    else
      f->cursor[f->path[--depth]]++;
  }
}

static int64_t push_path(neapi_flow *f, int32_t depth, int64_t amount)
{
  int64_t *more, *room = &f->room[f->path[depth]];
  amount = amount < *room ? amount : *room;
  for (int32_t i = 0; i < depth; i++) {
    const int64_t *limit = carry(f, f->path[i], &more);
    if (limit && *limit < amount)
      amount = *limit;
  }
  for (int32_t i = 0; i < depth; i++) {
    int64_t *limit = carry(f, f->path[i], &more);
    if (limit)
      *limit -= amount;
    if (more)
      *more += amount;
  }
  *room -= amount;
  return amount;
}

/* Pushes as much of *amount as shortest paths carry. Returns what was pushed. */
static int64_t push(neapi_flow *f, int32_t source, int64_t *amount)
{
  int64_t before = *amount;
  while (*amount) {
    int32_t depth = find_path(f, source);
    if (depth == NONE)
      break;
    *amount -= push_path(f, depth, *amount);
  }
  return before - *amount;
}

/* ---- within a node -------------------------------------------------------------------------- */

static void clear_node(neapi_flow *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  for (int32_t r = first; r < last; r++) {
    f->length[r] = FAR_AWAY;
    f->cursor[r] = 0;
  }
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
    f->length[group_vertex(f, f->group_of[s])] = FAR_AWAY;
    f->cursor[group_vertex(f, f->group_of[s])] = 0;
  }
}

static int64_t node_left(const neapi_flow *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  int64_t sum = 0;
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++)
    if (s == f->layout->by_expert[f->group_first[f->group_of[s]]])
      sum += f->left[f->group_of[s]];
  return sum;
}

/* The level to which the room of the roomiest ranks sinks when the slots by_expert[first..last)
 * take amount; 0 if all get full. */
static int64_t water_level(const neapi_flow *f, int32_t first, int32_t last, int64_t amount)
{
  int64_t level = 0;
  for (int32_t active = 0;;) {
    int64_t sum = -amount;
    int32_t count = 0;
    for (int32_t i = first; i < last; i++) {
      int64_t room = f->room[f->topology->rank_of[f->layout->by_expert[i]]];
      if (room > level) {
        sum += room;
        count++;
      }
    }
    if (sum <= 0 || count == active)
      return level;
    active = count;
    level = sum / count;
  }
}

/* Moves *amount into slots by_expert[first..last), into near or far, so that their ranks end
 * equally full, as far as that goes. */
static void pour(neapi_flow *f, int32_t first, int32_t last, int64_t *amount, int64_t *into)
{
  int64_t level = water_level(f, first, last, *amount);
  for (int32_t i = first; i < last && *amount; i++) {
    int32_t slot = f->layout->by_expert[i];
    int64_t *room = &f->room[f->topology->rank_of[slot]];
    int64_t give = *room - level;
    give = give < *amount ? give : *amount;
    if (give > 0) {
      *room -= give;
      into[slot] += give;
      *amount -= give;
    }
  }
}

/* Experts with one place to go first. */
static void pour_node(neapi_flow *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  for (int32_t single = 1; single >= 0; single--)
    for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
      int32_t k = f->group_of[s], count = f->group_first[k + 1] - f->group_first[k];
      if (f->left[k] && (count == 1) == single)
        pour(f, f->group_first[k], f->group_first[k + 1], &f->left[k], f->near);
    }
}

int64_t neapi_flow_fill_node(neapi_flow *f, int32_t node)
{
  const neap_topology *t = f->topology;
  int32_t first = t->first_rank[node], last = t->first_rank[node + 1];
  pour_node(f, first, last);
  int64_t left = node_left(f, first, last), moved = left;
  f->pooled = false;
  f->price = 0;
  while (left && moved) {
    clear_node(f, first, last);
    measure(f, first, last);
    moved = 0;
    for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
      int32_t group = f->group_of[s], vertex = group_vertex(f, group);
      if (f->left[group] && f->length[vertex] < FAR_AWAY)
        moved += push(f, vertex, &f->left[group]);
    }
    left -= moved;
  }
  return left;
}

/* ---- across nodes --------------------------------------------------------------------------- */

void neapi_flow_pool(neapi_flow *f)
{
  for (int32_t e = 0; e < f->topology->experts; e++) {
    f->excess[e] = f->outside[e];
    for (int32_t k = f->expert_group[e]; k < f->expert_group[e + 1]; k++)
      f->excess[e] += f->left[k];
  }
}

int64_t neapi_flow_spread(neapi_flow *f, bool cheap)
{
  const neap_topology *t = f->topology;
  int64_t stuck = 0, moved = 1;
  for (int32_t e = 0; e < t->experts; e++) {
    if (f->excess[e]) /* straight into slots: no path is shorter */
      pour(f, f->layout->first[e], f->layout->first[e + 1], &f->excess[e], f->far);
    stuck += f->excess[e];
  }
  f->pooled = true;
  f->price = cheap ? LEAVING : 0;
  while (stuck && moved) {
    for (int32_t v = 0; v < vertices(f); v++)
      f->length[v] = FAR_AWAY;
    memset(f->cursor, 0, vertices(f) * 4ul);
    measure(f, 0, t->ranks);
    moved = 0;
    for (int32_t e = 0; e < t->experts; e++)
      if (f->excess[e] && f->length[pool_vertex(f, e)] < FAR_AWAY)
        moved += push(f, pool_vertex(f, e), &f->excess[e]);
    stuck -= moved;
  }
  return stuck;
}

/* ---- where stuck work is confined to --------------------------------------------------------- */

static void reach(neapi_flow *f, int32_t *tail, int32_t vertex)
{
  if (f->length[vertex] == REACHED)
    return;
  f->length[vertex] = REACHED;
  f->queue[(*tail)++] = vertex;
}

static void reach_slots(neapi_flow *f, int32_t *tail, int32_t first, int32_t last)
{
  for (int32_t i = first; i < last; i++)
    reach(f, tail, f->topology->rank_of[f->layout->by_expert[i]]);
}

static void reach_from_rank(neapi_flow *f, int32_t *tail, int32_t rank)
{
  const neap_topology *t = f->topology;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    if (f->near[s])
      reach(f, tail, group_vertex(f, f->group_of[s]));
    if (f->far[s] && f->pooled)
      reach(f, tail, pool_vertex(f, f->group_expert[f->group_of[s]]));
  }
}

/* Follows every arc with capacity from queue[0..tail). */
static void reach_all(neapi_flow *f, int32_t tail)
{
  const neap_topology *t = f->topology;
  for (int32_t head = 0; head < tail; head++) {
    int32_t vertex = f->queue[head], group = vertex - t->ranks, expert = group - t->slots;
    if (vertex < t->ranks) {
      reach_from_rank(f, &tail, vertex);
    } else if (group < t->slots) {
      reach_slots(f, &tail, f->group_first[group], f->group_first[group + 1]);
      if (f->pooled && f->leaving)
        reach(f, &tail, pool_vertex(f, f->group_expert[group]));
    } else {
      reach_slots(f, &tail, f->layout->first[expert], f->layout->first[expert + 1]);
    }
  }
}

/* Work in the slots of the ranks reached; marks them. */
static int64_t confined(const neapi_flow *f, int32_t first, int32_t last, uint8_t *member)
{
  const neap_topology *t = f->topology;
  int64_t work = 0;
  for (int32_t r = first; r < last; r++) {
    member[r] = f->length[r] == REACHED;
    for (int32_t s = t->first_slot[r]; member[r] && s < t->first_slot[r + 1]; s++)
      work += f->near[s] + f->far[s];
  }
  return work;
}

int64_t neapi_flow_cut_node(neapi_flow *f, int32_t node, uint8_t *member)
{
  const neap_topology *t = f->topology;
  int32_t first = t->first_rank[node], last = t->first_rank[node + 1], tail = 0;
  int64_t stuck = 0;
  memset(member, 0, t->ranks);
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
    int32_t group = f->group_of[s], vertex = group_vertex(f, group);
    if (f->left[group] && f->length[vertex] == FAR_AWAY) {
      stuck += f->left[group];
      reach(f, &tail, vertex);
    }
  }
  reach_all(f, tail);
  return stuck + confined(f, first, last, member);
}

int64_t neapi_flow_cut(neapi_flow *f, uint8_t *member)
{
  const neap_topology *t = f->topology;
  int32_t tail = 0;
  int64_t stuck = 0;
  for (int32_t e = 0; e < t->experts; e++)
    if (f->excess[e]) {
      stuck += f->excess[e];
      reach(f, &tail, pool_vertex(f, e));
    }
  reach_all(f, tail);
  return stuck + confined(f, 0, t->ranks, member);
}

bool neapi_flow_confines(const neapi_flow *f, int32_t expert)
{
  return f->length[pool_vertex(f, expert)] == REACHED;
}
