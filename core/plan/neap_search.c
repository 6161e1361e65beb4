/* Planner neap's search: hill climbing in one cell after the other, over changes of one slot and
 * swaps of two ranks' slots, on the work that leaves its node and the cell's risk. */
#include "neap_state.h"

#include <math.h>
#include <string.h>

static const double LEAST_GAIN = 1e-6;

/* ---- the layout, indexed ----------------------------------------------------------------------
 */

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

/* ---- one cell ---------------------------------------------------------------------------------
 */

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
 * without the expert. */
static void weigh(search *s)
{
  neapi_neap *n = s->n;
  for (int32_t e = 0; e < s->experts; e++) {
    int32_t joins = !s->mask[e];
    double away = n->away[e] - (s->node_cells[e] ? 0 : s->load[e]);
    double work = s->load[e] / (s->node_cells[e] + joins) + fmax(0, away) / (n->holders[e] + joins);
    double deviation = work * fmax(n->spread, 0.5 * n->drift[e]);
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
  s.risk = neapi_cell_risk(&n->cell, NULL);
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

typedef struct {
  double gain;
  int32_t slot, expert; /* the slot gets that expert */
  int32_t other;        /* from this slot, which gets the slot's; -1: no swap */
} change;

static void look(search *s, change c, int32_t slot_mask, int32_t expert_mask, change *best)
{
  neapi_neap *n = s->n;
  int32_t old = n->expert_of[c.slot];
  neapi_move move[2] = {move_to(s, old, slot_mask), move_to(s, c.expert, expert_mask)};
  c.gain = n->caution * (s->risk - neapi_cell_risk(&n->cell, move)) - leaving(s, old, slot_mask) -
           leaving(s, c.expert, expert_mask);
  s->budget--;
  if (c.gain > best->gain)
    *best = c;
}

static void look_at_replacements(search *s, int32_t slot, change *best)
{
  int32_t old = s->n->expert_of[slot], p = bit(s, slot);
  if (s->n->count[old] == 1)
    return;
  for (int32_t e = 0; e < s->experts; e++)
    if (!(s->mask[e] & p))
      look(s, (change){0, slot, e, -1}, s->mask[old] & ~p, s->mask[e] | p, best);
}

static void look_at_swaps(search *s, int32_t slot, change *best)
{
  const neapi_neap *n = s->n;
  const int32_t *first_slot = n->topology->first_slot;
  int32_t a = n->expert_of[slot], p = bit(s, slot);
  for (int32_t other = first_slot[s->first]; other < first_slot[s->last]; other++) {
    int32_t b = n->expert_of[other], q = bit(s, other);
    if (p != q && !(s->mask[a] & q) && !(s->mask[b] & p))
      look(s, (change){0, slot, b, other}, (s->mask[a] & ~p) | q, (s->mask[b] & ~q) | p, best);
  }
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

static void make(search *s, const change *c)
{
  neapi_neap *n = s->n;
  int32_t old = n->expert_of[c->slot], p = bit(s, c->slot);
  int32_t q = c->other < 0 ? 0 : bit(s, c->other);
  move_expert(s, old, (s->mask[old] & ~p) | q);
  move_expert(s, c->expert, (s->mask[c->expert] & ~q) | p);
  n->expert_of[c->slot] = c->expert;
  if (c->other >= 0) {
    n->expert_of[c->other] = old;
  } else {
    n->count[old]--;
    n->count[c->expert]++;
  }
  s->risk = neapi_cell_risk(&n->cell, NULL);
}

/* Slot after slot gets its best change, until none has a better one or the budget is used up. */
static void climb(search *s)
{
  const int32_t *first_slot = s->n->topology->first_slot;
  int32_t begin = first_slot[s->first], end = first_slot[s->last], idle = 0;
  for (int32_t i = begin; s->budget > 0 && idle < end - begin; i = i + 1 == end ? begin : i + 1) {
    change best = {LEAST_GAIN, -1, -1, -1};
    look_at_replacements(s, i, &best);
    look_at_swaps(s, i, &best);
    idle++;
    if (best.slot >= 0) {
      make(s, &best);
      idle = 0;
    }
  }
}

/* ---- all cells --------------------------------------------------------------------------------
 */

double neapi_neap_cost(neapi_neap *n)
{
  double cost = 0;
  index_layout(n);
  for (int32_t c = 0; c < n->cells; c++)
    cost += n->caution * enter(n, c).risk;
  for (int32_t e = 0; e < n->topology->experts; e++)
    cost += n->away[e];
  return cost;
}

void neapi_neap_search(neapi_neap *n, double effort)
{
  index_layout(n);
  for (int32_t c = 0; c < n->cells; c++) {
    search s = enter(n, c);
    s.budget = effort;
    climb(&s);
  }
}
