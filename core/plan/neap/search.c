/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap's search: hill climbing in one cell after the other, over changes of one slot and
 * swaps of two ranks' slots, on the work that leaves its node and the cell's risk. */
#include "plan/neap/shortlist.h"
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

static const double LEAST_GAIN = 1e-6;
static const double DIVERSITY = 0.14; /* width of the range of factors */
enum { PROMISING = 10 };              /* changes of a slot whose gain is worked out exactly */

/* ---- the layout, indexed --------------------------------------------------------------------- */

static void index_cell(neapi_neap *n, int32_t cell)
{
  const neap_topology *t = n->topology;
  uint8_t *mask = n->mask + (int64_t)cell * t->experts;
  int32_t first = n->cell_first[cell], last = n->cell_first[cell + 1];
  int32_t *cells = n->node_cells + (int64_t)t->node_of[first] * t->experts;
  for (int32_t r = first; r < last; r++)
    for (int32_t s = t->first_slot[r]; s < t->first_slot[r + 1]; s++) {
      int32_t e = n->expert_of[s];
      cells[e] += !mask[e];
      n->holders[e] += !mask[e];
      n->count[e]++;
      mask[e] |= 1 << (r - first);
    }
}

/* mask, node_cells, holders, count and away of the layout in expert_of. */
static void index_layout(neapi_neap *n)
{
  const neap_topology *t = n->topology;
  memset(n->mask, 0, (int64_t)n->cells * t->experts);
  memset(n->node_cells, 0, sizeof *n->node_cells * t->nodes * t->experts);
  memset(n->holders, 0, sizeof *n->holders * t->experts);
  memset(n->count, 0, sizeof *n->count * t->experts);
  for (int32_t c = 0; c < n->cells; c++)
    index_cell(n, c);
  memcpy(n->away, n->total, sizeof *n->away * t->experts);
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++)
      if (n->node_cells[(int64_t)g * t->experts + e])
        n->away[e] -= n->load[(int64_t)g * t->experts + e];
}

/* ---- one cell -------------------------------------------------------------------------------- */

typedef struct {
  neapi_neap *n;
  int32_t first, last; /* ranks */
  int32_t experts;
  uint8_t *mask;       /* [experts] of the cell */
  int32_t *node_cells; /* [experts] of its node */
  const double *load;  /* [experts] of its node */
  double risk;
  int64_t budget; /* changes that may still be looked at */
} search;

/* Work of each expert if the cell holds it: its part of the node's and of what comes from nodes
 * without the expert. Every cell sees it a little differently, so that cells with equal loads get
 * different layouts: what all nodes have too much of can then still be evened out across nodes. */
static void weigh(search *s)
{
  neapi_neap *n = s->n;
  for (int32_t e = 0; e < s->experts; e++) {
    int32_t joins = !s->mask[e];
    double away = n->away[e] - (s->node_cells[e] ? 0 : s->load[e]);
    double work = s->load[e] / (s->node_cells[e] + joins) + fmax(0, away) / (n->holders[e] + joins);
    work *= 1 + DIVERSITY * (neap_random_uniform(0, s->first, e) - 0.5);
    double deviation = work * fmax(fmax(n->spread, 0.02), n->deviation[e]);
    n->work[e] = work;
    n->variance[e] = deviation * deviation;
  }
}

static search enter(neapi_neap *n, int32_t cell)
{
  const neap_topology *t = n->topology;
  int64_t first = n->cell_first[cell], node = t->node_of[first];
  search s = {n,
              first,
              n->cell_first[cell + 1],
              t->experts,
              n->mask + (int64_t)cell * t->experts,
              n->node_cells + node * t->experts,
              n->load + node * t->experts,
              0,
              0};
  weigh(&s);
  neapi_cell_clear(&n->cell, s.last - s.first, n->speed + first);
  for (int32_t e = 0; e < s.experts; e++)
    if (s.mask[e]) {
      neapi_move move = {n->work[e], n->variance[e], NEAPI_ABSENT, s.mask[e]};
      neapi_cell_apply(&n->cell, &move);
    }
  s.risk = neapi_cell_settle(&n->cell);
  return s;
}

static int32_t bit(const search *s, int32_t slot)
{
  return 1 << (s->n->topology->rank_of[slot] - s->first);
}

static neapi_move move_to(const search *s, int32_t expert, int32_t mask)
{
  int32_t from = s->mask[expert];
  return (neapi_move){s->n->work[expert], s->n->variance[expert], from ? from : NEAPI_ABSENT,
                      mask ? mask : NEAPI_ABSENT};
}

/* What leaves the node when an expert moves to other ranks of the cell. */
static double leaving(const search *s, int32_t expert, int32_t mask)
{
  int32_t before = s->mask[expert] != 0, other = s->node_cells[expert] - before;
  return other ? 0 : s->load[expert] * (before - (mask != 0));
}

/* Estimated gain from moving an expert to other ranks of the cell. */
static inline double estimate(const search *s, int32_t expert, int32_t mask)
{
  const neapi_neap *n = s->n;
  const float *price = n->cell.price;
  int32_t from = s->mask[expert];
  float eased =
      n->work[expert] * (price[from ? from : NEAPI_ABSENT] - price[mask ? mask : NEAPI_ABSENT]);
  return n->caution * eased - (from && mask ? 0 : leaving(s, expert, mask));
}

/* Adds what may gain enough: risk is convex in the work of sets (deviations aside), so that no
 * change gains more than its estimate by prices. */
static void consider_replacements(const search *s, int32_t slot, neapi_shortlist *list)
{
  int32_t old = s->n->expert_of[slot], p = bit(s, slot), rest = s->mask[old] & ~p;
  if (s->n->count[old] == 1)
    return;
  double base = estimate(s, old, rest);
  for (int32_t e = 0; e < s->experts; e++) {
    double gain = base + estimate(s, e, s->mask[e] | p);
    if (gain >= LEAST_GAIN && !(s->mask[e] & p))
      neapi_shortlist_add(list, (neapi_change){gain, slot, e, -1, rest, s->mask[e] | p});
  }
}

static void consider_swaps(const search *s, int32_t slot, neapi_shortlist *list)
{
  const neapi_neap *n = s->n;
  const neap_topology *t = n->topology;
  int32_t a = n->expert_of[slot], p = bit(s, slot);
  for (int32_t r = s->first; r < s->last; r++) {
    int32_t q = 1 << (r - s->first);
    if (s->mask[a] & q)
      continue;
    double base = estimate(s, a, (s->mask[a] & ~p) | q);
    for (int32_t other = t->first_slot[r]; other < t->first_slot[r + 1]; other++) {
      int32_t b = n->expert_of[other], mask = (s->mask[b] & ~q) | p;
      double gain = base + estimate(s, b, mask);
      if (gain >= LEAST_GAIN && !(s->mask[b] & p))
        neapi_shortlist_add(list,
                            (neapi_change){gain, slot, b, other, (s->mask[a] & ~p) | q, mask});
    }
  }
}

/* The change's gain, deviations staying as they are. */
static double gain(search *s, const neapi_change *c)
{
  neapi_neap *n = s->n;
  int32_t old = n->expert_of[c->slot];
  neapi_move move[2] = {move_to(s, old, c->slot_mask), move_to(s, c->expert, c->expert_mask)};
  s->budget--;
  return n->caution * (s->risk - neapi_cell_risk(&n->cell, move)) - leaving(s, old, c->slot_mask) -
         leaving(s, c->expert, c->expert_mask);
}

/* The best of a slot's promising changes; slot -1 if none gains. */
static neapi_change best_change(search *s, int32_t slot)
{
  neapi_change best = {LEAST_GAIN, -1, -1, -1, 0, 0};
  neapi_change promising[PROMISING];
  neapi_shortlist list = {.most = PROMISING, .best = promising};
  consider_replacements(s, slot, &list);
  consider_swaps(s, slot, &list);
  s->budget--;
  for (int32_t i = 0; i < list.count && list.best[i].score > best.score; i++) {
    neapi_change c = list.best[i];
    c.score = gain(s, &c);
    if (c.score > best.score)
      best = c;
  }
  return best;
}

static void move_expert(search *s, int32_t expert, int32_t mask)
{
  neapi_neap *n = s->n;
  neapi_move move = move_to(s, expert, mask);
  int32_t joins = (mask != 0) - (s->mask[expert] != 0), before = s->node_cells[expert];
  neapi_cell_apply(&n->cell, &move);
  s->node_cells[expert] += joins;
  n->holders[expert] += joins;
  if (!before != !s->node_cells[expert])
    n->away[expert] -= joins * s->load[expert];
  s->mask[expert] = mask;
}

static void put(search *s, int32_t slot, int32_t expert)
{
  neapi_neap *n = s->n;
  n->count[n->expert_of[slot]]--;
  n->count[expert]++;
  n->expert_of[slot] = expert;
}

static void swap_in(search *s, const neapi_change *c)
{
  int32_t old = s->n->expert_of[c->slot];
  move_expert(s, old, c->slot_mask);
  move_expert(s, c->expert, c->expert_mask);
  put(s, c->slot, c->expert);
  if (c->other >= 0)
    put(s, c->other, old);
}

/* Makes a change, and takes it back if it turns out not to gain. */
static bool make(search *s, const neapi_change *c)
{
  neapi_neap *n = s->n;
  int32_t old = n->expert_of[c->slot];
  neapi_change back = {0, c->slot, old, c->other, s->mask[c->expert], s->mask[old]};
  double left = leaving(s, old, c->slot_mask) + leaving(s, c->expert, c->expert_mask);
  double before = s->risk;
  swap_in(s, c);
  s->risk = neapi_cell_settle(&n->cell);
  if (n->caution * (before - s->risk) - left >= LEAST_GAIN)
    return true;
  swap_in(s, &back);
  s->risk = neapi_cell_settle(&n->cell);
  return false;
}

/* Slot after slot gets its best change, until none has a better one or the budget is used up. */
static void climb(search *s)
{
  const int32_t *first_slot = s->n->topology->first_slot;
  int32_t begin = first_slot[s->first], end = first_slot[s->last], idle = 0;
  for (int32_t i = begin; s->budget > 0 && idle < end - begin; i = i + 1 == end ? begin : i + 1) {
    neapi_change best = best_change(s, i);
    idle++;
    if (best.slot >= 0 && make(s, &best))
      idle = 0;
  }
}

/* ---- all cells ------------------------------------------------------------------------------- */

void neapi_neap_search(neapi_neap *n, double effort)
{
  index_layout(n);
  for (int32_t c = 0; c < n->cells; c++) {
    search s = enter(n, c);
    s.budget = effort;
    climb(&s);
  }
}
