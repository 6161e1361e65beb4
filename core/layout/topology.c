/* SPDX-License-Identifier: Apache-2.0 */
/* Topology: ranks, nodes, slots, and what experts cost. Immutable once open. */
#include "layout/topology.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Of speeds and costs. The ratio is that of the fastest and the slowest rank, or of the dearest and
 * the cheapest expert: sums of doubles do not lose the smaller one. */
static const double MOST_RATIO = 1e12, LEAST = 1e-100, MOST = 1e100;

static int check_nodes(int32_t ranks, const int32_t *node_of)
{
  for (int32_t r = 0; node_of && r < ranks; r++) {
    int32_t before = r ? node_of[r - 1] : 0;
    if (node_of[r] < before || node_of[r] > before + (r > 0))
      return neapi_fail(NEAP_ARGUMENT,
                        "topology: node %d of rank %d follows node %d; node numbers start at 0 and "
                        "rise by at most 1 from rank to rank",
                        node_of[r], r, before);
  }
  return NEAP_OK;
}

static int check_slots(int32_t ranks, int32_t experts, const int32_t *slots_of)
{
  int64_t total = 0;
  for (int32_t r = 0; r < ranks; r++) {
    if (slots_of[r] < 1 || slots_of[r] > 1 << 20)
      return neapi_fail(NEAP_ARGUMENT, "topology: rank %d has %d slots; allowed are 1 to %d", r,
                        slots_of[r], 1 << 20);
    total += slots_of[r];
  }
  if (total > INT32_MAX / 2)
    return neapi_fail(NEAP_ARGUMENT, "topology: %lld slots in all; at most %d are allowed",
                      (long long)total, INT32_MAX / 2);
  if (total < experts)
    return neapi_fail(NEAP_ARGUMENT,
                      "topology: %d experts do not fit into %lld slots; give each rank more slots",
                      experts, (long long)total);
  return NEAP_OK;
}

static int check_positive(const char *what, int32_t count, const double *values)
{
  for (int32_t i = 0; values && i < count; i++)
    if (!(values[i] >= LEAST && values[i] <= MOST))
      return neapi_fail(NEAP_ARGUMENT, "topology: %s %d is %g; it must be from %g to %g", what, i,
                        values[i], LEAST, MOST);
  int32_t least = 0, most = 0;
  for (int32_t i = 1; values && i < count; i++) {
    least = values[i] < values[least] ? i : least;
    most = values[i] > values[most] ? i : most;
  }
  if (values && values[most] / values[least] > MOST_RATIO)
    return neapi_fail(NEAP_ARGUMENT,
                      "topology: %s %d is %g, that of %d is %g; they may differ by a factor of at "
                      "most %g",
                      what, most, values[most], least, values[least], MOST_RATIO);
  return NEAP_OK;
}

static int check(int32_t ranks, int32_t experts, const int32_t *node_of, const int32_t *slots_of,
                 const double *cost, const double *speed)
{
  if (ranks < 1 || ranks > 1 << 20)
    return neapi_fail(NEAP_ARGUMENT, "topology: %d ranks; allowed are 1 to %d", ranks, 1 << 20);
  if (experts < 1 || experts > 1 << 20)
    return neapi_fail(NEAP_ARGUMENT, "topology: %d experts; allowed are 1 to %d", experts, 1 << 20);
  int status = check_nodes(ranks, node_of);
  if (!status)
    status = check_slots(ranks, experts, slots_of);
  if (!status)
    status = check_positive("cost of expert", experts, cost);
  if (!status)
    status = check_positive("speed of rank", ranks, speed);
  return status;
}

static int allocate(neap_topology *t)
{
  t->node_of = neapi_alloc(t->ranks * 4ll, "topology");
  t->first_rank = neapi_alloc(t->nodes * 4ll + 4, "topology");
  t->first_slot = neapi_alloc(t->ranks * 4ll + 4, "topology");
  t->rank_of = neapi_alloc(t->slots * 4ll, "topology");
  t->cost = neapi_alloc(t->experts * 8ll, "topology");
  t->speed = neapi_alloc(t->ranks * 8ll, "topology");
  bool whole = t->node_of && t->first_rank && t->first_slot && t->rank_of && t->cost && t->speed;
  return whole ? NEAP_OK : NEAP_MEMORY;
}

static void fill(neap_topology *t, const int32_t *node_of, const int32_t *slots_of,
                 const double *cost, const double *speed)
{
  int32_t slot = 0;
  for (int32_t r = 0; r < t->ranks; r++) {
    t->node_of[r] = node_of ? node_of[r] : 0;
    t->speed[r] = speed ? speed[r] : 1.0;
    if (!r || t->node_of[r] != t->node_of[r - 1])
      t->first_rank[t->node_of[r]] = r;
    t->first_slot[r] = slot;
    for (int32_t i = 0; i < slots_of[r]; i++)
      t->rank_of[slot++] = r;
  }
  t->first_rank[t->nodes] = t->ranks;
  t->first_slot[t->ranks] = slot;
  for (int32_t e = 0; e < t->experts; e++)
    t->cost[e] = cost ? cost[e] : 1.0;
}

int neap_topology_open(int32_t ranks, int32_t experts, const int32_t *node_of,
                       const int32_t *slots_of, const double *cost, const double *speed,
                       neap_topology **out)
{
  int status = check(ranks, experts, node_of, slots_of, cost, speed);
  if (status)
    return status;
  neap_topology *t = neapi_alloc_zero(sizeof *t, "topology");
  if (!t)
    return NEAP_MEMORY;
  t->references = 1;
  t->ranks = ranks;
  t->experts = experts;
  t->nodes = node_of ? node_of[ranks - 1] + 1 : 1;
  for (int32_t r = 0; r < ranks; r++)
    t->slots += slots_of[r];
  status = allocate(t);
  if (status) {
    neap_topology_close(t);
    return status;
  }
  fill(t, node_of, slots_of, cost, speed);
  *out = t;
  return NEAP_OK;
}

/* ---- homes ----------------------------------------------------------------------------------- */

int neap_topology_set_homes(neap_topology *t, int32_t group)
{
  if (group < 1 || group > t->ranks || t->ranks % group)
    return neapi_fail(NEAP_ARGUMENT,
                      "topology: homes in runs of %d ranks; allowed are the divisors of %d, the "
                      "number of ranks",
                      group, t->ranks);
  for (int32_t first = 0; first < t->ranks; first += group) {
    int32_t slots = t->first_slot[first + group] - t->first_slot[first];
    if (slots < t->experts)
      return neapi_fail(NEAP_ARGUMENT,
                        "topology: homes of %d experts in runs of %d ranks; ranks %d to %d have %d "
                        "slots: give each rank more, or take longer runs",
                        t->experts, group, first, first + group - 1, slots);
  }
  t->homes = group;
  return NEAP_OK;
}

int32_t neap_topology_homes(const neap_topology *t)
{
  return t->homes;
}

/* The first expert at home on the ranks of a run from rank on. */
static int32_t first_home(const neap_topology *t, int32_t first, int32_t run, int32_t rank)
{
  int64_t before = t->first_slot[rank] - t->first_slot[first];
  return (int32_t)(before * t->experts / (t->first_slot[first + run] - t->first_slot[first]));
}

void neap_topology_home(const neap_topology *t, int32_t rank, int32_t *first, int32_t *end)
{
  int32_t run = t->homes ? t->homes : t->ranks, begin = rank / run * run;
  *first = first_home(t, begin, run, rank);
  *end = first_home(t, begin, run, rank + 1);
}

bool neapi_topology_at_home(const neap_topology *t, int32_t expert, int32_t rank)
{
  int32_t first, end;
  neap_topology_home(t, rank, &first, &end);
  return expert >= first && expert < end;
}

int32_t neapi_topology_home_of(const neap_topology *t, int32_t expert, int32_t rank)
{
  int32_t run = t->homes ? t->homes : t->ranks, begin = rank / run * run;
  int32_t low = begin, high = begin + run - 1;
  while (low < high) { /* the last rank whose experts start at or before this one */
    int32_t middle = (low + high + 1) / 2;
    if (first_home(t, begin, run, middle) <= expert)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

neap_topology *neapi_topology_share(const neap_topology *topology)
{
  neap_topology *t = (neap_topology *)topology;
  __atomic_add_fetch(&t->references, 1, __ATOMIC_RELAXED);
  return t;
}

void neap_topology_close(neap_topology *t)
{
  if (!t || __atomic_sub_fetch(&t->references, 1, __ATOMIC_ACQ_REL))
    return;
  free(t->node_of);
  free(t->first_rank);
  free(t->first_slot);
  free(t->rank_of);
  free(t->cost);
  free(t->speed);
  free(t);
}

int32_t neap_topology_ranks(const neap_topology *t)
{
  return t->ranks;
}

int32_t neap_topology_nodes(const neap_topology *t)
{
  return t->nodes;
}

int32_t neap_topology_experts(const neap_topology *t)
{
  return t->experts;
}

int32_t neap_topology_slots(const neap_topology *t)
{
  return t->slots;
}

const int32_t *neap_topology_node_of(const neap_topology *t)
{
  return t->node_of;
}

const int32_t *neap_topology_first_slot(const neap_topology *t)
{
  return t->first_slot;
}

const int32_t *neap_topology_first_rank(const neap_topology *t)
{
  return t->first_rank;
}

const double *neap_topology_cost(const neap_topology *t)
{
  return t->cost;
}

const double *neap_topology_speed(const neap_topology *t)
{
  return t->speed;
}

int32_t neapi_topology_chunk(const neap_topology *t, int32_t slot, int32_t parts)
{
  int32_t rank = t->rank_of[slot], first = t->first_slot[rank];
  return (int32_t)((int64_t)(slot - first) * parts / (t->first_slot[rank + 1] - first));
}

int32_t neapi_slots_before(int32_t count, int32_t parts, int32_t part)
{
  return (int32_t)(((int64_t)part * count + parts - 1) / parts);
}
