/* SPDX-License-Identifier: Apache-2.0 */
/* Work of nodes and experts flowing into slots at least cost; paths: flow_path.c. */
#include "split/flow_path.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NONE = -1, REACHED = NEAPI_FAR_AWAY + 1 };

int neapi_flow_open(const neap_topology *t, neapi_flow_network *f)
{
  memset(f, 0, sizeof *f);
  f->topology = t;
  int64_t all = neapi_flow_vertices(f);
  f->group_of = neapi_alloc(t->slots * 4ll, "split");
  f->group_first = neapi_alloc(t->slots * 4ll + 4, "split");
  f->group_expert = neapi_alloc(t->slots * 4ll, "split");
  f->group_node = neapi_alloc(t->slots * 4ll, "split");
  f->expert_group = neapi_alloc(t->experts * 4ll + 4, "split");
  f->supply = neapi_alloc(t->slots * 8ll, "split");
  f->left = neapi_alloc(t->slots * 8ll, "split");
  f->outside = neapi_alloc(t->experts * 8ll, "split");
  f->excess = neapi_alloc(t->experts * 8ll, "split");
  f->capacity = neapi_alloc(t->ranks * 8ll, "split");
  f->length = neapi_alloc(all * 4, "split");
  f->cursor = neapi_alloc(all * 4, "split");
  f->queue = neapi_alloc(all * 4 + 4, "split");
  f->later = neapi_alloc(all * 4, "split");
  f->path = neapi_alloc(all * 4, "split");
  f->queued = neapi_alloc_zero(all, "split");
  bool whole = f->group_of && f->group_first && f->group_expert && f->group_node &&
               f->expert_group && f->supply && f->left && f->outside && f->excess && f->capacity &&
               f->length && f->cursor && f->queue && f->later && f->path && f->queued;
  return whole ? NEAP_OK : NEAP_MEMORY;
}

void neapi_flow_close(neapi_flow_network *f)
{
  free(f->group_of);
  free(f->group_first);
  free(f->group_expert);
  free(f->group_node);
  free(f->expert_group);
  free(f->supply);
  free(f->left);
  free(f->outside);
  free(f->excess);
  free(f->capacity);
  free(f->length);
  free(f->cursor);
  free(f->queue);
  free(f->later);
  free(f->path);
  free(f->queued);
}

void neapi_flow_build(neapi_flow_network *f, const neap_layout *layout)
{
  const neap_topology *t = f->topology;
  f->layout = layout;
  int32_t group = 0;
  for (int32_t e = 0; e < t->experts; e++) {
    f->expert_group[e] = group;
    int32_t node = NONE;
    for (int32_t i = layout->first[e]; i < layout->first[e + 1]; i++) {
      int32_t slot = layout->by_expert[i], own = t->node_of[layout->rank_at[i]];
      if (own != node) {
        f->group_first[group] = i;
        f->group_node[group] = node = own;
        f->group_expert[group++] = e;
      }
      f->group_of[slot] = group - 1;
    }
  }
  f->expert_group[t->experts] = f->groups = group;
  f->group_first[group] = t->slots;
}

void neapi_flow_reset(neapi_flow_network *f)
{
  memset(f->near, 0, f->topology->slots * 8ul);
  memset(f->far, 0, f->topology->slots * 8ul);
  memcpy(f->left, f->supply, f->groups * 8ul);
}

/* ---- within a node --------------------------------------------------------------------------- */

static void clear_node(neapi_flow_network *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  for (int32_t r = first; r < last; r++) {
    f->length[r] = NEAPI_FAR_AWAY;
    f->cursor[r] = 0;
  }
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
    f->length[neapi_flow_group(f, f->group_of[s])] = NEAPI_FAR_AWAY;
    f->cursor[neapi_flow_group(f, f->group_of[s])] = 0;
  }
}

/* What the groups of a node have left, and how many have something. */
static int64_t node_left(const neapi_flow_network *f, int32_t first, int32_t last, int32_t *sources)
{
  const neap_topology *t = f->topology;
  int64_t sum = 0;
  *sources = 0;
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++)
    if (s == f->layout->by_expert[f->group_first[f->group_of[s]]] &&
        neapi_flow_source(f, f->group_of[s])) {
      sum += f->left[f->group_of[s]];
      ++*sources;
    }
  return sum;
}

/* The level to which the capacity of the ranks with most of it sinks when the indices [first, last)
 * take work; 0 if all get full. */
static int64_t water_level(const neapi_flow_network *f, int32_t first, int32_t last, int64_t work)
{
  int64_t level = 0;
  for (int32_t active = 0;;) {
    int64_t sum = -work;
    int32_t count = 0;
    for (int32_t i = first; i < last; i++) {
      int64_t capacity = f->capacity[f->layout->rank_at[i]];
      if (capacity > level) {
        sum += capacity;
        count++;
      }
    }
    if (sum <= 0 || count == active)
      return level;
    active = count;
    level = sum / count;
  }
}

/* Moves *work into the indices [first, last), into near or far, so that their ranks end equally
 * full, as far as that goes. */
static void pour(neapi_flow_network *f, int32_t first, int32_t last, int64_t *work, int64_t *into)
{
  int64_t level = water_level(f, first, last, *work);
  for (int32_t i = first; i < last && *work; i++) {
    int64_t *capacity = &f->capacity[f->layout->rank_at[i]];
    int64_t give = *capacity - level;
    give = give < *work ? give : *work;
    if (give > 0) {
      *capacity -= give;
      into[i] += give;
      *work -= give;
    }
  }
}

/* Experts with one slot on the node go first. */
static void pour_node(neapi_flow_network *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  for (int32_t single = 1; single >= 0; single--)
    for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
      int32_t k = f->group_of[s], count = f->group_first[k + 1] - f->group_first[k];
      if ((count == 1) == single && neapi_flow_source(f, k))
        pour(f, f->group_first[k], f->group_first[k + 1], &f->left[k], f->near);
    }
}

/* Near work of the sources, over shortest paths. Returns what is left of them. */
static int64_t fill_degree(neapi_flow_network *f, int32_t first, int32_t last)
{
  const neap_topology *t = f->topology;
  int32_t sources;
  pour_node(f, first, last);
  int64_t left = node_left(f, first, last, &sources), moved = left;
  while (left && moved) {
    clear_node(f, first, last);
    neapi_flow_measure(f, first, last, sources);
    moved = 0;
    for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
      int32_t group = f->group_of[s], vertex = neapi_flow_group(f, group);
      if (neapi_flow_source(f, group) && f->length[vertex] < NEAPI_FAR_AWAY)
        moved += neapi_flow_push(f, vertex, &f->left[group]);
    }
    left = node_left(f, first, last, &sources);
  }
  return left;
}

/* The largest weight goes first: what can be near are the independent sets of a matroid, whose
 * dearest one a greedy choice finds (Edmonds 1971); those chosen before move, but stay near. */
int64_t neapi_flow_fill_node(neapi_flow_network *f, int32_t node)
{
  const neap_topology *t = f->topology;
  int32_t first = t->first_rank[node], last = t->first_rank[node + 1];
  int64_t left = 0;
  f->pooled = f->cheap = false;
  if (!f->weighted) {
    f->degree = 0;
    return fill_degree(f, first, last);
  }
  for (f->degree = NEAPI_FLOW_WEIGHTS; f->degree > 0; f->degree--)
    left += fill_degree(f, first, last);
  f->degree = 0;
  return left;
}

/* ---- across nodes ---------------------------------------------------------------------------- */

void neapi_flow_pool(neapi_flow_network *f)
{
  f->grouped = false;
  for (int32_t k = 0; k < f->groups; k++)
    f->grouped |= f->supply[k] > 0;
  for (int32_t e = 0; e < f->topology->experts; e++) {
    f->excess[e] = f->outside[e];
    for (int32_t k = f->expert_group[e]; k < f->expert_group[e + 1]; k++)
      f->excess[e] += f->left[k];
  }
}

/* Excess of all pools, and how many have some. */
static int64_t pool_left(const neapi_flow_network *f, int32_t *sources)
{
  int64_t sum = 0;
  *sources = 0;
  for (int32_t e = 0; e < f->topology->experts; e++) {
    sum += f->excess[e];
    *sources += f->excess[e] > 0;
  }
  return sum;
}

/* Straight from pools into slots, as far as their ranks have capacity: no path is shorter. */
static void pour_pools(neapi_flow_network *f)
{
  const int32_t *first = f->layout->first;
  for (int32_t e = 0; e < f->topology->experts; e++)
    if (f->excess[e])
      pour(f, first[e], first[e + 1], &f->excess[e], f->far);
}

/* Frees capacity of a rank for work of a pool: near work of the rank moves to ranks of its node
 * that have some. Returns what was freed, at most work. */
static int64_t free_capacity(neapi_flow_network *f, int32_t rank, int64_t work)
{
  const neap_topology *t = f->topology;
  int64_t made = 0;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    int32_t group = f->group_of[s], own = f->layout->index_of[s];
    for (int32_t i = f->group_first[group]; f->near[own] && i < f->group_first[group + 1]; i++) {
      int64_t *capacity = &f->capacity[f->layout->rank_at[i]], give = work - made;
      give = give < *capacity ? give : *capacity;
      give = give < f->near[own] ? give : f->near[own];
      f->near[own] -= give;
      f->near[i] += give;
      *capacity -= give;
      made += give;
    }
    if (made == work)
      break;
  }
  return made;
}

/* From pools to slots of full ranks whose near work can go elsewhere on its node: no leavings more,
 * so that no path is cheaper. Saves most of the search. */
static void squeeze_pools(neapi_flow_network *f)
{
  for (int32_t e = 0; e < f->topology->experts; e++)
    for (int32_t i = f->layout->first[e]; f->excess[e] && i < f->layout->first[e + 1]; i++) {
      int64_t work = free_capacity(f, f->layout->rank_at[i], f->excess[e]);
      f->far[i] += work;
      f->excess[e] -= work;
    }
}

static void clear_all(neapi_flow_network *f)
{
  for (int32_t v = 0; v < neapi_flow_vertices(f); v++)
    f->length[v] = NEAPI_FAR_AWAY;
  memset(f->cursor, 0, neapi_flow_vertices(f) * 4ul);
}

int64_t neapi_flow_spread(neapi_flow_network *f, bool cheap)
{
  int64_t moved = 1;
  int32_t sources;
  pour_pools(f);
  if (f->grouped)
    squeeze_pools(f);
  f->pooled = true;
  f->cheap = cheap;
  int64_t stuck = pool_left(f, &sources);
  while (stuck && moved) {
    clear_all(f);
    neapi_flow_measure(f, 0, f->topology->ranks, sources);
    moved = 0;
    for (int32_t e = 0; e < f->topology->experts; e++)
      if (f->excess[e] && f->length[neapi_flow_pool_of(f, e)] < NEAPI_FAR_AWAY)
        moved += neapi_flow_push(f, neapi_flow_pool_of(f, e), &f->excess[e]);
    stuck = pool_left(f, &sources);
  }
  return stuck;
}

int64_t neapi_flow_left(const neapi_flow_network *f)
{
  int64_t sum = 0;
  for (int32_t k = 0; k < f->groups; k++)
    sum += f->left[k];
  return sum;
}

/* A rank's length is what the next unit of its work would cost, and so what room for one more
 * saves. */
double neapi_flow_relief(neapi_flow_network *f, const double *speed)
{
  double sum = 0;
  f->pooled = f->cheap = true;
  clear_all(f);
  neapi_flow_measure(f, 0, f->topology->ranks, INT32_MAX);
  for (int32_t r = 0; r < f->topology->ranks; r++) {
    if (f->length[r] >= NEAPI_FAR_AWAY)
      return INFINITY;
    sum += speed[r] * (f->length[r] / NEAPI_LEAVING);
  }
  return sum;
}

/* ---- where stuck work is confined to --------------------------------------------------------- */

static void reach(neapi_flow_network *f, int32_t *tail, int32_t vertex)
{
  if (f->length[vertex] == REACHED)
    return;
  f->length[vertex] = REACHED;
  f->queue[(*tail)++] = vertex;
}

static void reach_slots(neapi_flow_network *f, int32_t *tail, int32_t first, int32_t last)
{
  for (int32_t i = first; i < last; i++)
    reach(f, tail, f->layout->rank_at[i]);
}

static void reach_from_rank(neapi_flow_network *f, int32_t *tail, int32_t rank)
{
  const neap_topology *t = f->topology;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    if (f->near[f->layout->index_of[s]])
      reach(f, tail, neapi_flow_group(f, f->group_of[s]));
    if (f->far[f->layout->index_of[s]] && f->pooled)
      reach(f, tail, neapi_flow_pool_of(f, f->group_expert[f->group_of[s]]));
  }
}

/* Follows every arc with capacity from queue[0..tail). */
static void reach_all(neapi_flow_network *f, int32_t tail)
{
  const neap_topology *t = f->topology;
  for (int32_t head = 0; head < tail; head++) {
    int32_t vertex = f->queue[head], group = vertex - t->ranks, expert = group - t->slots;
    if (vertex < t->ranks) {
      reach_from_rank(f, &tail, vertex);
    } else if (group < t->slots) {
      reach_slots(f, &tail, f->group_first[group], f->group_first[group + 1]);
      if (f->pooled && f->leaving)
        reach(f, &tail, neapi_flow_pool_of(f, f->group_expert[group]));
    } else {
      reach_slots(f, &tail, f->layout->first[expert], f->layout->first[expert + 1]);
    }
  }
}

/* Work in the slots of the ranks reached; marks them. */
static int64_t confined(const neapi_flow_network *f, int32_t first, int32_t last, uint8_t *member)
{
  const neap_topology *t = f->topology;
  int64_t work = 0;
  for (int32_t r = first; r < last; r++) {
    member[r] = f->length[r] == REACHED;
    for (int32_t s = t->first_slot[r]; member[r] && s < t->first_slot[r + 1]; s++)
      work += f->near[f->layout->index_of[s]] + f->far[f->layout->index_of[s]];
  }
  return work;
}

int64_t neapi_flow_cut_node(neapi_flow_network *f, int32_t node, uint8_t *member)
{
  const neap_topology *t = f->topology;
  int32_t first = t->first_rank[node], last = t->first_rank[node + 1], tail = 0;
  int64_t stuck = 0;
  memset(member, 0, t->ranks);
  for (int32_t s = t->first_slot[first]; s < t->first_slot[last]; s++) {
    int32_t group = f->group_of[s], vertex = neapi_flow_group(f, group);
    if (f->left[group] && f->length[vertex] == NEAPI_FAR_AWAY) {
      stuck += f->left[group];
      reach(f, &tail, vertex);
    }
  }
  reach_all(f, tail);
  return stuck + confined(f, first, last, member);
}

int64_t neapi_flow_cut(neapi_flow_network *f, uint8_t *member)
{
  const neap_topology *t = f->topology;
  int32_t tail = 0;
  int64_t stuck = 0;
  for (int32_t e = 0; e < t->experts; e++)
    if (f->excess[e]) {
      stuck += f->excess[e];
      reach(f, &tail, neapi_flow_pool_of(f, e));
    }
  reach_all(f, tail);
  return stuck + confined(f, 0, t->ranks, member);
}

bool neapi_flow_confines(const neapi_flow_network *f, int32_t expert)
{
  return f->length[neapi_flow_pool_of(f, expert)] == REACHED;
}
