/* SPDX-License-Identifier: Apache-2.0 */
/* Published balancers by their rules, restated here by plain scans over small vectors: laer, eplb,
 * llep, moonep, ultraep, lplb, fastermoe, maxtext, on random topologies, also with nodes, slots,
 * costs and speeds that differ. What the sources are is in core/plan. */
#include "problem.h"

#include <stdlib.h>

/* What a restatement places: replicas of an expert on a rank. */
typedef struct {
  const problem *c;
  double work[EXPERTS], rank_work[RANKS];
  int32_t on[RANKS][EXPERTS], used[RANKS];
} placing;

static int32_t slots_of(const problem *c, int32_t rank)
{
  return c->topology->first_slot[rank + 1] - c->topology->first_slot[rank];
}

static bool is_free(const placing *p, int32_t rank)
{
  return p->used[rank] < slots_of(p->c, rank);
}

static double per_speed(const placing *p, int32_t rank)
{
  return p->rank_work[rank] / p->c->topology->speed[rank];
}

static void put(placing *p, int32_t rank, int32_t expert, double work)
{
  p->on[rank][expert]++;
  p->used[rank]++;
  p->rank_work[rank] += work;
}

static void begin(placing *p, const problem *c)
{
  memset(p, 0, sizeof *p);
  p->c = c;
  for (int32_t i = 0; i < c->ranks * c->experts; i++)
    p->work[i % c->experts] += c->load[i];
  for (int32_t e = 0; e < c->experts; e++)
    p->work[e] *= c->topology->cost[e];
}

/* The same with the trifle that decides between experts without tokens: it may also decide between
 * ranks of other speeds. */
static void begin_all(placing *p, const problem *c)
{
  double total = 0;
  begin(p, c);
  for (int32_t e = 0; e < c->experts; e++)
    total += p->work[e];
  for (int32_t e = 0; e < c->experts; e++)
    p->work[e] += 1e-9 * total;
}

static void check_plan(const placing *p, const char *name, const char *parameter, double value)
{
  const problem *c = p->c;
  neap_layout *got = plan_once(c, name, parameter, value);
  int32_t on[RANKS][EXPERTS] = {{0}};
  for (int32_t s = 0; s < c->slots; s++)
    on[c->topology->rank_of[s]][neap_layout_experts(got)[s]]++;
  check(!memcmp(on, p->on, sizeof on),
        "%s with %s = %g differs: %d ranks, %d nodes, %d experts, %d slots", name,
        parameter ? parameter : "defaults", value, c->ranks, c->nodes, c->experts, c->slots);
  neap_layout_close(got);
}

/* ---- laer and eplb: replicas, then packing ---- */

/* Every free slot gets the expert with the most work per replica of those that its rank lacks. */
static void fill(placing *p)
{
  int32_t count[EXPERTS] = {0};
  for (int32_t r = 0; r < p->c->ranks; r++)
    for (int32_t e = 0; e < p->c->experts; e++)
      count[e] += p->on[r][e];
  for (int32_t r = 0; r < p->c->ranks; r++)
    while (is_free(p, r)) {
      int32_t best = -1;
      for (int32_t lacking = 1; lacking >= 0 && best < 0; lacking--)
        for (int32_t e = 0; e < p->c->experts; e++)
          if (!(lacking && p->on[r][e]) &&
              (best < 0 || p->work[e] / count[e] > p->work[best] / count[best]))
            best = e;
      count[best]++;
      put(p, r, best, 0);
    }
}

static int32_t heaviest(const double *work, const int32_t *count, const bool *out, int32_t n)
{
  int32_t best = -1;
  for (int32_t e = 0; e < n; e++)
    if (!out[e] && (best < 0 || work[e] / count[e] > work[best] / count[best]))
      best = e;
  return best;
}

/* LAER: start each; the heaviest gains one, or one per node once it has as many; one that cannot
 * get so many is out. */
static void replicate(const placing *p, int32_t *count)
{
  const problem *c = p->c;
  bool out[EXPERTS] = {false};
  int32_t left = c->slots, start = c->experts * c->nodes <= c->slots ? c->nodes : 1;
  for (int32_t e = 0; e < c->experts; e++)
    left -= count[e] = start;
  for (int32_t e; left && (e = heaviest(p->work, count, out, c->experts)) >= 0;) {
    int32_t gain = count[e] < c->nodes ? 1 : c->nodes;
    if (gain > left) {
      out[e] = true;
      continue;
    }
    count[e] += gain;
    left -= gain;
  }
}

/* LAER: the least loaded rank with a free slot on the nodes that have the fewest of the expert,
 * full ones counted; of any node if there is none. */
static int32_t laer_rank(const placing *p, int32_t expert)
{
  const neap_topology *t = p->c->topology;
  int32_t on_node[RANKS] = {0}, fewest = 1 << 30, best = -1;
  for (int32_t r = 0; r < t->ranks; r++)
    on_node[t->node_of[r]] += p->on[r][expert];
  for (int32_t n = 0; n < t->nodes; n++)
    fewest = on_node[n] < fewest ? on_node[n] : fewest;
  for (int32_t any = 0; any < 2 && best < 0; any++)
    for (int32_t r = 0; r < t->ranks; r++)
      if (is_free(p, r) && (any || on_node[t->node_of[r]] == fewest) &&
          (best < 0 || per_speed(p, r) < per_speed(p, best)))
        best = r;
  return best;
}

static void relocate(placing *p, const int32_t *count)
{
  bool done[EXPERTS] = {false};
  for (int32_t i = 0; i < p->c->experts; i++) {
    int32_t e = heaviest(p->work, count, done, p->c->experts);
    done[e] = true;
    for (int32_t k = 0; k < count[e]; k++)
      put(p, laer_rank(p, e), e, p->work[e] / count[e]);
  }
  fill(p);
}

static void test_laer(const problem *c)
{
  placing p;
  int32_t count[EXPERTS];
  begin_all(&p, c);
  replicate(&p, count);
  relocate(&p, count);
  check_plan(&p, "laer", "no_even", 1);
  if (c->slots % c->experts)
    return;
  begin_all(&p, c);
  for (int32_t e = 0; e < c->experts; e++)
    count[e] = c->slots / c->experts;
  relocate(&p, count);
  check_plan(&p, "laer", "no_pq", 1);
}

/* EPLB on some experts and the ranks of one area: replicas one by one, then heaviest first to the
 * lightest rank with a free slot. */
static void pack(placing *p, const bool *absent, int32_t first_rank, int32_t last_rank)
{
  const problem *c = p->c;
  int32_t count[EXPERTS], left = 0;
  bool done[EXPERTS];
  for (int32_t r = first_rank; r < last_rank; r++)
    left += slots_of(c, r);
  for (int32_t e = 0; e < c->experts; e++) {
    left -= count[e] = 1 - absent[e];
    done[e] = absent[e];
  }
  for (; left > 0; left--)
    count[heaviest(p->work, count, absent, c->experts)]++;
  for (int32_t e; (e = heaviest(p->work, count, done, c->experts)) >= 0; done[e] = true)
    for (int32_t k = 0; k < count[e]; k++) {
      int32_t best = -1;
      for (int32_t r = first_rank; r < last_rank; r++)
        if (is_free(p, r) && (best < 0 || per_speed(p, r) < per_speed(p, best)))
          best = r;
      put(p, best, e, p->work[e] / count[e]);
    }
}

/* Groups of equal size to nodes of equal size, heaviest first to the lightest with free slots. */
static void pack_groups(placing *p, int32_t groups)
{
  const problem *c = p->c;
  int32_t size = c->experts / groups, node_of[EXPERTS], held[RANKS] = {0};
  double group_work[EXPERTS] = {0}, node_work[RANKS] = {0};
  bool done[EXPERTS] = {false};
  for (int32_t e = 0; e < c->experts; e++)
    group_work[e / size] += p->work[e];
  for (int32_t i = 0; i < groups; i++) {
    int32_t g = -1, node = -1;
    for (int32_t k = 0; k < groups; k++)
      if (!done[k] && (g < 0 || group_work[k] > group_work[g]))
        g = k;
    for (int32_t n = 0; n < c->nodes; n++)
      if (held[n] < groups / c->nodes && (node < 0 || node_work[n] < node_work[node]))
        node = n;
    done[g] = true;
    held[node]++;
    node_work[node] += group_work[g];
    for (int32_t e = g * size; e < (g + 1) * size; e++)
      node_of[e] = node;
  }
  for (int32_t n = 0; n < c->nodes; n++) {
    bool absent[EXPERTS];
    for (int32_t e = 0; e < c->experts; e++)
      absent[e] = node_of[e] != n;
    pack(p, absent, c->topology->first_rank[n], c->topology->first_rank[n + 1]);
  }
}

/* By groups if the nodes divide them (and, here, all are equal), else globally. */
static void test_eplb(const problem *c, int32_t groups)
{
  placing p;
  bool none[EXPERTS] = {false}, equal = c->ranks % c->nodes == 0;
  for (int32_t r = 0; r < c->ranks; r++)
    equal &= slots_of(c, r) == slots_of(c, 0) && c->topology->node_of[r] == r * c->nodes / c->ranks;
  begin_all(&p, c);
  if (groups && groups % c->nodes == 0) {
    if (!equal || groups > c->experts || c->experts % groups)
      return;
    pack_groups(&p, groups);
  } else {
    pack(&p, none, 0, c->ranks);
  }
  check_plan(&p, "eplb", "groups", groups);
}

/* ---- llep, moonep, ultraep: experts have a home, and move from there ---- */

static int32_t first_home(const problem *c, int32_t rank)
{
  return (int32_t)((int64_t)c->topology->first_slot[rank] * c->experts / c->slots);
}

static int32_t home_of(const problem *c, int32_t expert)
{
  int32_t home = 0;
  for (int32_t r = 0; r < c->ranks; r++)
    if (first_home(c, r) <= expert && expert < first_home(c, r + 1))
      home = r;
  return home;
}

static void begin_home(placing *p, const problem *c)
{
  begin(p, c);
  for (int32_t e = 0; e < c->experts; e++)
    put(p, home_of(c, e), e, p->work[e]);
}

/* Slots without a use hold the experts that follow the rank's own. */
static void fill_next(placing *p)
{
  const problem *c = p->c;
  for (int32_t r = 0; r < c->ranks; r++)
    for (int32_t e = first_home(c, r + 1); is_free(p, r); e++)
      if (!p->on[r][e % c->experts] || p->used[r] >= c->experts)
        put(p, r, e % c->experts, 0);
}

/* They hold the rank's own again, those with the fewest replicas first. own[rank]: as many as are
 * at home. */
static void fill_own(placing *p, const int32_t own[][EXPERTS])
{
  const problem *c = p->c;
  int32_t count[EXPERTS] = {0};
  for (int32_t r = 0; r < c->ranks; r++)
    for (int32_t e = 0; e < c->experts; e++)
      count[e] += p->on[r][e];
  for (int32_t r = 0; r < c->ranks; r++)
    while (is_free(p, r) && first_home(c, r) < first_home(c, r + 1)) {
      int32_t best = own[r][0];
      for (int32_t i = 0; i < first_home(c, r + 1) - first_home(c, r); i++)
        best = count[own[r][i]] < count[best] ? own[r][i] : best;
      count[best]++;
      put(p, r, best, 0);
    }
  fill_next(p);
}

static void move(placing *p, int32_t expert, int32_t from, int32_t to, double work)
{
  p->rank_work[from] -= work;
  p->rank_work[to] += work;
  if (!p->on[to][expert])
    put(p, to, expert, 0);
}

static double mean(const placing *p, int32_t first, int32_t last)
{
  double work = 0, speed = 0;
  for (int32_t r = first; r < last; r++) {
    work += p->rank_work[r];
    speed += p->c->topology->speed[r];
  }
  return work / speed;
}

/* The least loaded rank that can take the expert, and is not closed; -1 if there is none. */
static int32_t helper(const placing *p, int32_t expert, const bool *closed)
{
  int32_t best = -1;
  for (int32_t r = 0; r < p->c->ranks; r++)
    if (r != home_of(p->c, expert) && !closed[r] && (is_free(p, r) || p->on[r][expert]) &&
        (best < 0 || per_speed(p, r) < per_speed(p, best)))
      best = r;
  return best;
}

/* LLEP: one expert's work above what its home may have. */
static void spill(placing *p, int32_t e, double even, double chunk)
{
  const double *speed = p->c->topology->speed;
  bool none[RANKS] = {false}, closed[RANKS] = {false};
  int32_t home = home_of(p->c, e), first = helper(p, e, none);
  double trifle = 1e-9 * even, excess = p->rank_work[home] - even * speed[home];
  bool all = excess >= p->work[e];
  excess = all ? p->work[e] : excess;
  for (int32_t r; excess > trifle && (r = helper(p, e, closed)) >= 0; closed[r] = true) {
    double some = fmin(excess, even * speed[r] - p->rank_work[r]);
    if (some <= trifle)
      break;
    if (some >= chunk || some >= excess - trifle) {
      move(p, e, home, r, some);
      excess -= some;
    }
  }
  if (excess > trifle && first >= 0)
    move(p, e, home, all && (p->on[first][e] || is_free(p, first)) ? first : helper(p, e, none),
         excess);
}

static void test_llep(const problem *c, double chunk)
{
  placing p;
  begin_home(&p, c);
  double even = mean(&p, 0, c->ranks), most = 0;
  for (int32_t r = 0; r < c->ranks; r++)
    most = fmax(most, per_speed(&p, r));
  bool done[EXPERTS] = {false};
  for (int32_t i = 0; i < c->experts && most >= 1.3 * even; i++) {
    int32_t e = -1;
    for (int32_t k = 0; k < c->experts; k++)
      if (!done[k] && (e < 0 || p.work[k] > p.work[e]))
        e = k;
    done[e] = true;
    spill(&p, e, even, chunk * c->topology->cost[e]);
  }
  fill_next(&p);
  check_plan(&p, "llep", "chunk", chunk);
}

/* MoonEP: who fills whom, then with what. */
static void fill_whole(placing *p, int32_t first, int32_t last)
{
  const problem *c = p->c;
  double even = mean(p, first, last), trifle = 1e-9 * even, over[RANKS],
         quota[RANKS][RANKS] = {{0}};
  for (int32_t r = first; r < last; r++)
    over[r] = p->rank_work[r] - even * c->topology->speed[r];
  for (;;) {
    int32_t most = first, least = -1;
    for (int32_t r = first; r < last; r++) {
      most = over[r] > over[most] ? r : most;
      if (is_free(p, r) && (least < 0 || over[r] < over[least]))
        least = r;
    }
    if (over[most] <= trifle || least < 0 || over[least] >= -trifle)
      break;
    double some = fmin(-over[least], over[most] + even * c->topology->speed[most]);
    quota[most][least] += some;
    over[most] -= some;
    over[least] += some;
  }
  for (int32_t h = first; h < last; h++) {
    double left[EXPERTS];
    memcpy(left, p->work, sizeof left);
    for (;;) {
      int32_t to = first, e = first_home(c, h);
      for (int32_t r = first; r < last; r++)
        to = quota[h][r] > quota[h][to] ? r : to;
      if (quota[h][to] <= trifle)
        break;
      for (int32_t k = e; k < first_home(c, h + 1); k++)
        e = left[k] > left[e] ? k : e;
      double some = fmin(left[e], quota[h][to]);
      if (some <= trifle || !(is_free(p, to) || p->on[to][e])) {
        quota[h][to] = 0;
        continue;
      }
      move(p, e, h, to, some);
      left[e] -= some;
      quota[h][to] -= some;
    }
  }
}

static void test_moonep(const problem *c, int32_t nodes)
{
  placing p;
  const int32_t *first = c->topology->first_rank;
  begin_home(&p, c);
  for (int32_t n = 0; n < (nodes ? c->nodes : 1); n++)
    fill_whole(&p, nodes ? first[n] : 0, nodes ? first[n + 1] : c->ranks);
  fill_next(&p);
  check_plan(&p, "moonep", "nodes", nodes);
}

/* UltraEP: exports one rank's excess above a threshold; what it could not. */
static double export_rank(placing *p, int32_t home, int32_t first, int32_t last, double threshold,
                          bool dynamic)
{
  const problem *c = p->c;
  double trifle = 1e-9 * threshold,
         need = p->rank_work[home] - threshold * c->topology->speed[home];
  bool done[EXPERTS] = {false};
  for (;;) {
    int32_t e = -1;
    for (int32_t k = first_home(c, home); k < first_home(c, home + 1); k++)
      if (!done[k] && (e < 0 || p->work[k] > p->work[e]))
        e = k;
    if (need <= trifle || e < 0)
      return need;
    done[e] = true;
    double left = p->work[e] - c->topology->cost[e]; /* the home keeps a token */
    while (need > trifle && left > trifle) {
      double most = trifle, floor = 1;
      int32_t to = -1, open = 0;
      for (int32_t r = first; r < last; r++) {
        double slack = threshold * c->topology->speed[r] - p->rank_work[r];
        if (!is_free(p, r) || p->on[r][e] || slack <= trifle)
          continue;
        open++;
        to = slack > most ? r : to;
        most = fmax(most, slack);
      }
      if (dynamic && open)
        floor = fmax(1, ceil(need / c->topology->cost[e] / open - 1e-9));
      double some = fmin(fmin(most, need), left);
      if (to < 0 || some < floor * c->topology->cost[e] * (1 - 1e-9))
        break;
      move(p, e, home, to, some);
      need -= some;
      left -= some;
    }
  }
}

/* All ranks of a domain, those with the most work first; false if one keeps too much. */
static bool export_all(placing *p, const placing *before, int32_t first, int32_t last,
                       double threshold, bool dynamic)
{
  bool done[RANKS] = {false};
  *p = *before;
  for (int32_t i = first; i < last; i++) {
    int32_t home = -1;
    for (int32_t r = first; r < last; r++)
      if (!done[r] && (home < 0 || before->rank_work[r] > before->rank_work[home]))
        home = r;
    done[home] = true;
    if (export_rank(p, home, first, last, threshold, dynamic) > 1e-9 * threshold)
      return false;
  }
  return true;
}

/* Its probes of thresholds from low up to high, which works. */
static double probe(placing *p, const placing *before, int32_t first, int32_t last, double low,
                    double high)
{
  while (low < high) {
    double range = high - low, next_low = high, next_high = high;
    for (int32_t i = 0; i < 4; i++) {
      double at = range > 4 ? low + floor(range * (i + 1) / 5) : low + i;
      if (at >= high)
        break;
      if (export_all(p, before, first, last, at, false)) {
        next_high = at;
        next_low = i ? next_low : low;
        break;
      }
      next_low = at + 1;
    }
    low = next_low;
    high = next_high;
  }
  return high;
}

static void balance_domain(placing *p, int32_t first, int32_t last)
{
  placing before = *p;
  double even = mean(p, first, last), low = ceil(even - 1e-9 * even), high = low;
  for (int32_t r = first; r < last; r++)
    high = fmax(high, ceil(per_speed(p, r)));
  double threshold = fmin(high, ceil(1.01 * low));
  for (int32_t i = 0; i < 3; i++) {
    if (export_all(p, &before, first, last, threshold, true))
      return;
    threshold = fmin(high, threshold + fmax(1, ceil(high / 100)));
  }
  if (export_all(p, &before, first, last, low, false))
    return;
  export_all(p, &before, first, last, probe(p, &before, first, last, fmin(low + 1, high), high),
             false);
}

static void test_ultraep(const problem *c, int32_t nodes)
{
  placing p;
  const int32_t *first = c->topology->first_rank;
  begin_home(&p, c);
  for (int32_t n = 0; n < (nodes ? c->nodes : 1); n++)
    balance_domain(&p, nodes ? first[n] : 0, nodes ? first[n + 1] : c->ranks);
  fill_next(&p);
  check_plan(&p, "ultraep", "nodes", nodes);
}

/* ---- lplb and maxtext ---- */

/* LPLB's tables: row i is whose expert each rank's free slot i holds. */
static const int32_t cube[2][8] = {{3, 0, 1, 2, 7, 4, 5, 6}, {6, 7, 4, 5, 0, 1, 2, 3}};
static const int32_t hypercube[2][16] = {{3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14},
                                         {12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}};

/* EPLB's order without replicas on some ranks; own[rank]: its experts, heaviest first. */
static void order(placing *p, int32_t first, int32_t last, int32_t own[][EXPERTS])
{
  const problem *c = p->c;
  int32_t held[RANKS] = {0};
  bool done[EXPERTS] = {false};
  for (int32_t i = first_home(c, first); i < first_home(c, last); i++) {
    int32_t e = -1, best = -1;
    for (int32_t k = first_home(c, first); k < first_home(c, last); k++)
      if (!done[k] && (e < 0 || p->work[k] > p->work[e]))
        e = k;
    for (int32_t r = first; r < last; r++)
      if (held[r] < first_home(c, r + 1) - first_home(c, r) &&
          (best < 0 || per_speed(p, r) < per_speed(p, best)))
        best = r;
    done[e] = true;
    own[best][held[best]++] = e;
    put(p, best, e, p->work[e]);
  }
}

/* Where every rank has experts of its own, an expert is on two ranks at most: an edge. */
static void check_edges(const placing *p)
{
  const problem *c = p->c;
  bool all = true;
  for (int32_t r = 0; r < c->ranks; r++)
    all &= first_home(c, r) < first_home(c, r + 1);
  for (int32_t e = 0; all && e < c->experts; e++) {
    int32_t on = 0;
    for (int32_t r = 0; r < c->ranks; r++)
      on += p->on[r][e] > 0;
    check(on == 1 || on == 2, "lplb: expert %d is on %d ranks", e, on);
  }
}

/* graph: 0 cube, 1 hypercube, 2 torus of equal nodes. */
static void test_lplb(const problem *c, int32_t graph)
{
  const neap_topology *t = c->topology;
  placing p;
  int32_t own[RANKS][EXPERTS], size = c->ranks / c->nodes, wide = graph == 0 ? 8 : 16;
  for (int32_t n = 0; n <= c->nodes; n++)
    if (t->first_rank[n] != n * size || (graph < 2 && c->ranks % wide))
      return;
  begin(&p, c);
  bool nodes = graph < 2 && size % wide == 0;
  for (int32_t n = 0; n < (nodes ? c->nodes : 1); n++)
    order(&p, nodes ? n * size : 0, nodes ? (n + 1) * size : c->ranks, own);
  placing before = p;
  for (int32_t r = 0; r < c->ranks; r++)
    for (int32_t i = 0; i < slots_of(c, r) - before.used[r]; i++) {
      int32_t partner = graph == 0   ? r / 8 * 8 + cube[i % 2][r % 8]
                        : graph == 1 ? hypercube[i % 2][r]
                        : i % 2      ? r / size * size + (r % size + 1) % size
                                     : (r + size) % c->ranks;
      if (i < before.used[partner] && !p.on[r][own[partner][i]])
        put(&p, r, own[partner][i], 0);
    }
  fill_own(&p, own);
  check_plan(&p, "lplb", "graph", graph);
  check_edges(&p);
}

static void test_maxtext(const problem *c, double threshold)
{
  const double *speed = c->topology->speed;
  placing p;
  bool replicated[EXPERTS] = {false};
  begin_home(&p, c);
  for (double even = mean(&p, 0, c->ranks);;) {
    int32_t from = 0, to = -1, e = -1;
    for (int32_t r = 0; r < c->ranks; r++)
      from = per_speed(&p, r) > per_speed(&p, from) ? r : from;
    for (int32_t r = 0; r < c->ranks; r++)
      if (r != from && is_free(&p, r) && (to < 0 || per_speed(&p, r) < per_speed(&p, to)))
        to = r;
    for (int32_t k = first_home(c, from); k < first_home(c, from + 1); k++)
      if (!replicated[k] && (e < 0 || p.work[k] > p.work[e]))
        e = k;
    if (per_speed(&p, from) <= threshold * even || to < 0 || e < 0)
      break;
    /* Two ranks that are even afterwards tie: the same rounding decides as in the planner. */
    double even_out =
        (p.rank_work[from] * speed[to] - p.rank_work[to] * speed[from]) / (speed[from] + speed[to]);
    replicated[e] = true;
    move(&p, e, from, to, fmin(even_out, 0.5 * p.work[e]));
  }
  fill_next(&p);
  check_plan(&p, "maxtext", "threshold", threshold);
}

/* FasterMoE: the heaviest experts that ranks compute their own tokens of, while that saves more on
 * the slowest rank than the price. */
static void test_fastermoe(const problem *c, double price)
{
  placing p;
  int32_t own[RANKS][EXPERTS];
  bool done[EXPERTS] = {false};
  begin_home(&p, c);
  for (;;) {
    placing then = p;
    double before = 0, after = 0;
    int32_t e = -1;
    for (int32_t k = 0; k < c->experts; k++)
      if (!done[k] && (e < 0 || p.work[k] > p.work[e]))
        e = k;
    if (e < 0)
      break;
    done[e] = true;
    for (int32_t r = 0; r < c->ranks; r++) {
      double own = c->load[r * c->experts + e] * c->topology->cost[e];
      if (!is_free(&p, r))
        continue;
      then.rank_work[home_of(c, e)] -= own;
      then.rank_work[r] += own;
      if (!p.on[r][e])
        put(&then, r, e, 0);
    }
    for (int32_t r = 0; r < c->ranks; r++) {
      before = fmax(before, per_speed(&p, r));
      after = fmax(after, per_speed(&then, r));
    }
    if (before - after <= price * c->topology->cost[e])
      break;
    p = then;
  }
  for (int32_t e = 0; e < c->experts; e++)
    own[home_of(c, e)][e - first_home(c, home_of(c, e))] = e;
  fill_own(&p, own);
  check_plan(&p, "fastermoe", "price", price);
}

/* ---- examples ---- */

static void open_even(problem *c, int32_t ranks, int32_t slots, int32_t experts)
{
  int32_t slots_of[RANKS];
  for (int32_t r = 0; r < ranks; r++)
    slots_of[r] = slots;
  *c = (problem){.ranks = ranks, .experts = experts, .slots = ranks * slots, .nodes = 1};
  check(!neap_topology_open(ranks, experts, NULL, slots_of, NULL, NULL, &c->topology), "open: %s",
        neap_error_message());
}

/* With all loads alike, and fewer experts than ranks, each is spilled to as many ranks. */
static void test_llep_even(void)
{
  for (int32_t tokens = 3; tokens < 5000; tokens = tokens * 2 + 1) {
    problem c;
    open_even(&c, 16, 1, 4);
    for (int32_t i = 0; i < c.ranks * c.experts; i++)
      c.load[i] = tokens;
    neap_layout *layout = plan_once(&c, "llep", "chunk", 1);
    int32_t count[EXPERTS] = {0};
    for (int32_t s = 0; s < c.slots; s++)
      count[neap_layout_experts(layout)[s]]++;
    for (int32_t e = 0; e < c.experts; e++)
      check(count[e] == 4, "llep: %d tokens, expert %d has %d replicas", tokens, e, count[e]);
    neap_layout_close(layout);
    neap_topology_close(c.topology);
  }
}

/* One home per receiver: with as many free slots as a home has experts, no rank gets from two. */
static void test_moonep_homes(generator *g)
{
  problem c;
  int32_t each = 1 + draw(g, 3);
  open_even(&c, 2 + draw(g, RANKS - 1), 2 * each, 1);
  neap_topology_close(c.topology);
  open_even(&c, c.ranks, 2 * each, c.ranks * each);
  for (int32_t i = 0; i < c.ranks * c.experts; i++)
    c.load[i] = 1 + draw(g, 1 << 20);
  placing p;
  begin_home(&p, &c);
  fill_whole(&p, 0, c.ranks);
  double even = mean(&p, 0, c.ranks);
  for (int32_t r = 0; r < c.ranks; r++) {
    int32_t from = -1;
    for (int32_t e = 0; e < c.experts; e++) {
      if (!p.on[r][e] || home_of(&c, e) == r)
        continue;
      check(from < 0 || from == home_of(&c, e), "moonep: rank %d receives from two homes", r);
      from = home_of(&c, e);
    }
    check_close(p.rank_work[r], even, 1e-9, "moonep: work of a rank");
  }
  neap_topology_close(c.topology);
}

int main(void)
{
  generator g = {99, 0};
  problem *c = malloc(sizeof *c);
  test_llep_even();
  for (int64_t i = 0, n = check_cases(4000, 100000); i < n; i++) {
    open_problem(&g, c, i % 2);
    int32_t bits = 4 + draw(&g, 20);
    for (int32_t k = 0; k < c->ranks * c->experts; k++)
      c->load[k] = 1 + draw(&g, 1 << bits) + draw(&g, 1 << 20) * 0x1p-20;
    test_laer(c);
    test_eplb(c, draw(&g, 13));
    test_llep(c, draw(&g, 1 << bits));
    test_moonep(c, i % 3 == 0);
    test_ultraep(c, i % 3 == 1);
    test_lplb(c, i % 4 % 3);
    test_fastermoe(c, draw(&g, 1 << bits));
    test_maxtext(c, 1 + draw(&g, 100) * 0.01);
    test_moonep_homes(&g);
    neap_topology_close(c->topology);
  }
  free(c);
  return check_done();
}
