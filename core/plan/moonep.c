/* SPDX-License-Identifier: Apache-2.0 */
/* MoonEP, by the rules of its published planning_reference.py: again and again the rank with
 * the most slack is filled whole, to exactly its share, by the home with the most work too much,
 * also if that home thereby gets slack itself. So a rank receives from one home only, and as many
 * free slots as a home has experts suffice. What a home sends comes from its expert with the most
 * work left, to the rank that still gets most. Slots left over keep what they hold.
 *
 * The source has ranks of equal speed, so that a home always has enough to fill a rank; here a fast
 * rank may need a second one. A rank whose free slots are used up gets no more. */
#include "plan/packer.h"

#include "base/memory.h"

#include <stdlib.h>

enum { NODES };

/* A home fills a rank with so much work. */
typedef struct {
  int32_t from, to;
  double work;
} filling;

typedef struct {
  void *packer;
  filling *fillings;    /* [2 x ranks] in the order of their choice */
  int32_t *first, *own; /* [ranks + 1], [2 x ranks] fillings by home */
  double *left;         /* [experts] work still at home */
  double trifle;        /* work that is rounding, in the domain at hand */
} moonep_scratch;

static void close_scratch(void *memory)
{
  moonep_scratch *s = memory;
  if (!s)
    return;
  neapi_packer_close(s->packer);
  free(s->fillings);
  free(s->first);
  free(s->own);
  free(s->left);
  free(s);
}

static int open_scratch(const neap_topology *t, void **out)
{
  moonep_scratch *s = neapi_alloc_zero(sizeof *s, "planner moonep");
  if (!s)
    return NEAP_MEMORY;
  s->fillings = neapi_alloc(2 * t->ranks * (int64_t)sizeof(filling), "planner moonep");
  s->first = neapi_alloc((t->ranks + 1) * 4ll, "planner moonep");
  s->own = neapi_alloc(2 * t->ranks * 4ll, "planner moonep");
  s->left = neapi_alloc(t->experts * 8ll, "planner moonep");
  bool whole = s->fillings && s->first && s->own && s->left;
  int status = whole ? neapi_packer_open(t, &s->packer) : NEAP_MEMORY;
  if (status) {
    close_scratch(s);
    return status;
  }
  *out = s;
  return NEAP_OK;
}

/* Chooses who fills whom among the ranks from first up to last. Homes with too much work are in
 * area_heap, ranks with slack and a free slot in rank_heap. Returns the number of fillings: each
 * fills a rank or uses a home up. */
static int32_t choose(moonep_scratch *s, int32_t first, int32_t last)
{
  neapi_packer *p = s->packer;
  double ideal = neapi_packer_ideal(p, first, last), trifle = s->trifle = 1e-9 * ideal;
  int32_t homes = 0, ranks = 0, n = 0;
  for (int32_t r = first; r < last; r++) {
    double slack = neapi_packer_slack(p, r, ideal);
    if (slack < -trifle)
      neapi_heap_push(p->area_heap, &homes, (neapi_heap_item){slack, r});
    else if (slack > trifle && p->free_slots[r])
      neapi_heap_push(p->rank_heap, &ranks, (neapi_heap_item){-slack, r});
  }
  while (homes && ranks) {
    neapi_heap_item from = neapi_heap_pop(p->area_heap, &homes);
    neapi_heap_item to = neapi_heap_pop(p->rank_heap, &ranks);
    double has = p->topology->speed[from.id] * ideal - from.key;
    double work = -to.key < has ? -to.key : has;
    s->fillings[n++] = (filling){from.id, to.id, work};
    from.key += work;
    to.key += work;
    if (from.key < -trifle)
      neapi_heap_push(p->area_heap, &homes, from);
    else if (from.key > trifle && p->free_slots[from.id])
      neapi_heap_push(p->rank_heap, &ranks, (neapi_heap_item){-from.key, from.id});
    if (-to.key > trifle)
      neapi_heap_push(p->rank_heap, &ranks, to);
  }
  return n;
}

static void sort_by_home(moonep_scratch *s, int32_t n)
{
  int32_t ranks = ((neapi_packer *)s->packer)->topology->ranks;
  for (int32_t r = 0; r <= ranks; r++)
    s->first[r] = 0;
  for (int32_t i = 0; i < n; i++)
    s->first[s->fillings[i].from + 1]++;
  for (int32_t r = 0; r < ranks; r++)
    s->first[r + 1] += s->first[r];
  for (int32_t i = n - 1; i >= 0; i--) /* first[r + 1] counts down to the start of r + 1 */
    s->own[--s->first[s->fillings[i].from + 1]] = i;
  for (int32_t r = 0; r < ranks; r++)
    s->first[r] = s->first[r + 1];
  s->first[ranks] = n;
}

/* Of a home's experts, that with the most work left. */
static int32_t largest_own(const neap_topology *t, const double *left, int32_t home)
{
  int32_t best = neapi_packer_home(t, home);
  for (int32_t e = best + 1; e < neapi_packer_home(t, home + 1); e++)
    if (left[e] > left[best])
      best = e;
  return best;
}

/* Sends what a home has been chosen to send, the largest filling first. */
static void send(moonep_scratch *s, int32_t home)
{
  neapi_packer *p = s->packer;
  int32_t size = 0;
  for (int32_t i = s->first[home]; i < s->first[home + 1]; i++) {
    filling f = s->fillings[s->own[i]];
    neapi_heap_push(p->rank_heap, &size, (neapi_heap_item){-f.work, f.to});
  }
  while (size) {
    neapi_heap_item to = p->rank_heap[0];
    int32_t e = largest_own(p->topology, s->left, home);
    double some = -to.key < s->left[e] ? -to.key : s->left[e];
    bool fits = p->free_slots[to.id] || neapi_packer_holds(p, to.id, e);
    neapi_heap_pop(p->rank_heap, &size);
    if (some <= s->trifle || !fits)
      continue;
    neapi_packer_move(p, e, home, to.id, some);
    s->left[e] -= some;
    if (some + s->trifle < -to.key)
      neapi_heap_push(p->rank_heap, &size, (neapi_heap_item){to.key + some, to.id});
  }
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  moonep_scratch *s = in->scratch;
  neapi_packer *p = s->packer;
  bool nodes = in->parameter[NODES] != 0;
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin_home(p, expert_of);
  for (int32_t e = 0; e < t->experts; e++)
    s->left[e] = p->work[e];
  for (int32_t n = 0; n < (nodes ? t->nodes : 1); n++) {
    int32_t first = nodes ? t->first_rank[n] : 0, last = nodes ? t->first_rank[n + 1] : t->ranks;
    sort_by_home(s, choose(s, first, last));
    for (int32_t r = first; r < last; r++)
      send(s, r);
  }
  neapi_packer_fill_held(p, in->previous);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_moonep = {
    .name = "moonep",
    .parameters = {{"nodes",
                    "whether each node evens out its own ranks, instead of all ranks together", 0,
                    0, 1, 1}},
    .open = open_scratch,
    .close = close_scratch,
    .plan = plan,
    .at_home = true};
