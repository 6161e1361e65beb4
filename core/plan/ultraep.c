/* SPDX-License-Identifier: Apache-2.0 */
/* UltraEP (arXiv 2606.04101), by the rules of its published placement.cu: a threshold
 * above the mean such that every rank above it can export the excess of its experts into free slots
 * of ranks below it, no expert twice on a rank. Ranks export in the order of their work, each from
 * its largest expert first, to the rank with the most slack.
 *
 * The thresholds just above the mean come first, with a floor that grows: no replica is made for
 * less than an even share of what is needed by the slots that could take it. If none of them works,
 * the least threshold that does is searched for, with the fixed floor. The home of an expert keeps
 * a token of it. Thresholds are in whole tokens. Slots left over keep what they hold. */
#include "plan/packer.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_TOKENS, MARGIN, NODES };
enum { TRIES = 3, PROBES = 4 };

typedef struct {
  void *packer;
  int32_t *sources;  /* [ranks] by their work at home, largest first */
  double *home_work; /* [ranks] */
} ultraep_scratch;

/* What is planned: the ranks of a domain, up to a threshold per unit of speed. */
typedef struct {
  int32_t first, last;
  double threshold, min_tokens;
  bool dynamic;
} attempt;

static void close_scratch(void *memory)
{
  ultraep_scratch *s = memory;
  if (!s)
    return;
  neapi_packer_close(s->packer);
  free(s->sources);
  free(s->home_work);
  free(s);
}

static int open_scratch(const neap_topology *t, void **out)
{
  ultraep_scratch *s = neapi_alloc_zero(sizeof *s, "planner ultraep");
  if (!s)
    return NEAP_MEMORY;
  s->sources = neapi_alloc(t->ranks * 4ll, "planner ultraep");
  s->home_work = neapi_alloc(t->ranks * 8ll, "planner ultraep");
  int status = s->sources && s->home_work ? neapi_packer_open(t, &s->packer) : NEAP_MEMORY;
  if (status) {
    close_scratch(s);
    return status;
  }
  *out = s;
  return NEAP_OK;
}

/* Puts the domain back: every expert at home. Slots that exports took are free again. */
static void take_back(ultraep_scratch *s, const attempt *a)
{
  neapi_packer *p = s->packer;
  const neap_topology *t = p->topology;
  for (int32_t r = a->first; r < a->last; r++) {
    int32_t first = t->first_slot[r], own = neapi_packer_home(t, r + 1) - neapi_packer_home(t, r);
    for (int32_t slot = first + own; slot < t->first_slot[r + 1]; slot++)
      p->expert_of[slot] = -1;
    memset(p->holds + (int64_t)r * p->words, 0, 8ul * p->words);
    for (int32_t slot = first; slot < first + own; slot++)
      p->holds[(int64_t)r * p->words + p->expert_of[slot] / 64] |= 1ull << p->expert_of[slot] % 64;
    p->free_slots[r] = t->first_slot[r + 1] - first - own;
    p->rank_work[r] = s->home_work[r];
  }
}

static void push_if_open(neapi_packer *p, int32_t rank, double threshold, int32_t *open)
{
  double slack = neapi_packer_slack(p, rank, threshold);
  if (slack > 1e-9 * threshold && p->free_slots[rank])
    neapi_heap_push(p->rank_heap, open, (neapi_heap_item){-slack, rank});
}

/* Exports up to need of an expert's work to the open ranks. Returns what is still needed. */
static double export_expert(neapi_packer *p, int32_t expert, int32_t home, double need,
                            const attempt *a, int32_t *open)
{
  double cost = p->topology->cost[expert], trifle = 1e-9 * a->threshold;
  double left = p->work[expert] - cost; /* its home keeps a token */
  int32_t aside = 0;
  while (need > trifle && left > trifle && *open) {
    double floor = a->min_tokens * cost, some = -p->rank_heap[0].key;
    if (a->dynamic)
      floor = fmax(1, ceil(need / cost / *open - 1e-9)) * cost;
    some = fmin(some, fmin(need, left));
    if (some < floor * (1 - 1e-9))
      break;
    int32_t to = neapi_heap_pop(p->rank_heap, open).id;
    neapi_packer_move(p, expert, home, to, some);
    p->aside[aside++] = to; /* has the expert now: open to others again when this one is done */
    need -= some;
    left -= some;
  }
  while (aside)
    push_if_open(p, p->aside[--aside], a->threshold, open);
  return need;
}

/* Exports a rank's excess, its largest expert first; false if not all of it finds a rank. */
static bool export_rank(neapi_packer *p, int32_t rank, const attempt *a, int32_t *open)
{
  const neap_topology *t = p->topology;
  double need = -neapi_packer_slack(p, rank, a->threshold), trifle = 1e-9 * a->threshold;
  int32_t first = neapi_packer_home(t, rank), last = neapi_packer_home(t, rank + 1), size = 0;
  if (need <= trifle)
    return true;
  for (int32_t e = first; e < last; e++)
    neapi_heap_push(p->expert_heap, &size, (neapi_heap_item){-p->work[e], e});
  while (size && need > trifle)
    need = export_expert(p, neapi_heap_pop(p->expert_heap, &size).id, rank, need, a, open);
  return need <= trifle;
}

static bool plan_below(ultraep_scratch *s, const attempt *a)
{
  neapi_packer *p = s->packer;
  int32_t open = 0;
  take_back(s, a);
  for (int32_t r = a->first; r < a->last; r++)
    push_if_open(p, r, a->threshold, &open);
  for (int32_t i = a->first; i < a->last; i++)
    if (!export_rank(p, s->sources[i], a, &open))
      return false;
  return true;
}

/* The least threshold from low on that works, by PROBES at a time; high is known to work. */
static double search(ultraep_scratch *s, attempt *a, double low, double high)
{
  while (low < high) {
    double range = high - low, probe[PROBES];
    int32_t n = 0, works = -1;
    for (int32_t i = 0; i < PROBES; i++)
      if (range > PROBES)
        probe[n++] = low + floor(range * (i + 1) / (PROBES + 1));
      else if (low + i < high)
        probe[n++] = low + i;
    for (int32_t i = 0; i < n && works < 0; i++) {
      a->threshold = probe[i];
      works = plan_below(s, a) ? i : -1;
    }
    if (works >= 0)
      high = probe[works];
    if (works != 0)
      low = probe[works < 0 ? n - 1 : works - 1] + 1;
  }
  return high;
}

static void plan_domain(ultraep_scratch *s, attempt *a, double margin)
{
  neapi_packer *p = s->packer;
  double mean = neapi_packer_ideal(p, a->first, a->last), low = ceil(mean - 1e-9 * mean),
         high = low;
  for (int32_t r = a->first; r < a->last; r++)
    high = fmax(high, ceil(p->rank_work[r] / p->topology->speed[r]));
  a->threshold = fmin(high, ceil(low * (1 + margin)));
  a->dynamic = true;
  for (int32_t i = 0; i < TRIES; i++) {
    if (plan_below(s, a))
      return;
    a->threshold = fmin(high, a->threshold + fmax(1, ceil(high / 100)));
  }
  a->dynamic = false;
  a->threshold = low;
  if (plan_below(s, a))
    return;
  a->threshold = search(s, a, fmin(low + 1, high), high);
  plan_below(s, a);
}

/* sources: within each domain by their work, largest first. */
static void sort_sources(ultraep_scratch *s, int32_t first, int32_t last)
{
  neapi_packer *p = s->packer;
  int32_t size = 0;
  for (int32_t r = first; r < last; r++)
    neapi_heap_push(p->area_heap, &size, (neapi_heap_item){-p->rank_work[r], r});
  for (int32_t i = first; size;)
    s->sources[i++] = neapi_heap_pop(p->area_heap, &size).id;
}

static int plan(const neapi_plan_input *in, int32_t *expert_of)
{
  const neap_topology *t = in->topology;
  ultraep_scratch *s = in->scratch;
  neapi_packer *p = s->packer;
  bool nodes = in->parameter[NODES] != 0;
  neapi_packer_weigh(p, in->load);
  neapi_packer_begin_home(p, expert_of);
  memcpy(s->home_work, p->rank_work, 8ul * t->ranks);
  for (int32_t n = 0; n < (nodes ? t->nodes : 1); n++) {
    attempt a = {.first = nodes ? t->first_rank[n] : 0,
                 .last = nodes ? t->first_rank[n + 1] : t->ranks,
                 .min_tokens = in->parameter[MIN_TOKENS]};
    sort_sources(s, a.first, a.last);
    plan_domain(s, &a, in->parameter[MARGIN]);
  }
  neapi_packer_fill_held(p, in->previous);
  return NEAP_OK;
}

const neapi_planner_kind neapi_plan_ultraep = {
    .name = "ultraep",
    .parameters =
        {
            {"min_tokens",
             "tokens that a replica must be worth where the growing floor finds nothing; the "
             "source's "
             "own configuration has 1024",
             1, 0, 1e12, 0},
            {"margin", "how far above the mean the first threshold is, as a share of it", 0.01, 0,
             100, 0},
            {"nodes", "whether each node evens out its own ranks, instead of all ranks together", 0,
             0, 1, 1},
        },
    .open = open_scratch,
    .close = close_scratch,
    .plan = plan,
    .at_home = true};
