/* SPDX-License-Identifier: Apache-2.0 */
/* Splits: rows, columns, slot tokens and balance of every rule agree with each other and with the
 * loads, on random topologies; lite and even against their definitions; given tables and errors. */
#include "split/split.h"
#include "check.h"

#include <stdlib.h>

typedef struct {
  neap_topology *topology;
  neap_layout *layout;
  int64_t *load;
  int32_t ranks, slots, experts;
  double cost[64], speed[64];
} cluster;

static uint64_t drawn;

static int32_t draw(int32_t below)
{
  return (int32_t)(neap_random_bits(7, 1, drawn++) % (uint64_t)below);
}

static void draw_layout(cluster *c)
{
  int32_t *expert_of = malloc(4ul * c->slots);
  for (int32_t s = 0; s < c->slots; s++)
    expert_of[s] = s < c->experts ? s : draw(c->experts);
  for (int32_t s = c->slots - 1; s > 0; s--) {
    int32_t other = draw(s + 1), swap = expert_of[s];
    expert_of[s] = expert_of[other];
    expert_of[other] = swap;
  }
  check(!neap_layout_set(c->layout, expert_of), "layout: %s", neap_error_message());
  free(expert_of);
}

static void draw_load(cluster *c)
{
  int32_t kind = draw(4);
  for (int64_t i = 0; i < (int64_t)c->ranks * c->experts; i++) {
    int64_t tokens = draw(kind == 1 ? 3 : 200);
    c->load[i] = kind == 2 && draw(4) ? 0 : tokens;
    if (kind == 3 && i % c->experts == 0)
      c->load[i] += 5000;
  }
}

static cluster open_cluster(void)
{
  cluster c = {.ranks = 1 + draw(13)};
  int32_t node_of[64] = {0}, slots_of[64], uneven = draw(2);
  int32_t slots = 1 + draw(4), node = 1 + draw(6);
  for (int32_t r = 0; r < c.ranks; r++) {
    node_of[r] = r ? node_of[r - 1] + (uneven ? !draw(4) : r % node == 0) : 0;
    slots_of[r] = uneven ? 1 + draw(5) : slots;
    c.slots += slots_of[r];
    c.speed[r] = uneven ? 0.5 + draw(8) : 1;
  }
  c.experts = 1 + draw(c.slots < 40 ? c.slots : 40);
  for (int32_t e = 0; e < c.experts; e++)
    c.cost[e] = uneven ? 0.25 * (1 + draw(8)) : 1;
  check(!neap_topology_open(c.ranks, c.experts, node_of, slots_of, c.cost, c.speed, &c.topology),
        "topology: %s", neap_error_message());
  check(!neap_layout_open(c.topology, &c.layout), "layout");
  c.load = malloc(8ul * c.ranks * c.experts);
  draw_layout(&c);
  draw_load(&c);
  return c;
}

static void close_cluster(cluster *c)
{
  neap_layout_close(c->layout);
  neap_topology_close(c->topology);
  free(c->load);
}

/* Any pooled split: random near and far amounts that keep compute's promises. */
static int random_compute(neap_split *s)
{
  const neap_topology *t = s->topology;
  memset(s->near, 0, 8ul * t->slots);
  memset(s->far, 0, 8ul * t->slots);
  for (int32_t e = 0; e < t->experts; e++) {
    int64_t left = 0;
    int32_t first = s->layout->first[e], count = s->layout->first[e + 1] - first;
    for (int32_t n = 0; n < t->nodes; n++) {
      const int32_t *range = s->node_first + n * t->experts + e;
      int64_t tokens = s->node_load[n * t->experts + e];
      for (int32_t p = range[0]; p < range[t->experts]; p++) {
        int64_t some = draw((int32_t)tokens + 1);
        s->near[p] = some;
        tokens -= some;
      }
      left += tokens;
    }
    for (; left; left--)
      s->far[first + draw(count)]++;
  }
  return NEAP_OK;
}

static const neapi_split_rule random_rule = {.name = "random", .compute = random_compute};

/* The whole table by rows; every row conserves its source's tokens. */
static int64_t *rows_of(const cluster *c, const neap_split *s, const char *rule)
{
  int64_t *table = malloc(8ul * c->ranks * c->slots), sum[64];
  const int32_t *expert_of = neap_layout_experts(c->layout);
  for (int32_t r = 0; r < c->ranks; r++) {
    int64_t *row = table + r * c->slots;
    check(!neap_split_row(s, r, row), "%s: row: %s", rule, neap_error_message());
    memset(sum, 0, sizeof sum);
    for (int32_t i = 0; i < c->slots; i++) {
      check(row[i] >= 0, "%s: rank %d sends %ld to slot %d", rule, r, (long)row[i], i);
      sum[expert_of[i]] += row[i];
    }
    check_same(sum, c->load + r * c->experts, 8 * c->experts, "%s: rank %d of %d loses tokens",
               rule, r, c->ranks);
  }
  return table;
}

static void check_columns(const cluster *c, const neap_split *s, const int64_t *table,
                          const char *rule)
{
  int64_t *column = malloc(8ul * c->ranks * c->slots);
  const int32_t *first = neap_topology_first_slot(c->topology);
  for (int32_t d = 0; d < c->ranks; d++) {
    int32_t slots = first[d + 1] - first[d];
    check(!neap_split_column(s, d, column), "%s: column: %s", rule, neap_error_message());
    for (int32_t r = 0; r < c->ranks; r++)
      check_same(column + r * slots, table + r * c->slots + first[d], 8 * slots,
                 "%s: column of rank %d differs from row %d", rule, d, r);
  }
  free(column);
}

/* The balance that the rows give, by the definitions in neap.h; slot[slots]: tokens of slots. */
static neap_balance expected_balance(const cluster *c, const int64_t *table, int64_t *slot)
{
  const int32_t *node_of = neap_topology_node_of(c->topology);
  const int32_t *first = neap_topology_first_slot(c->topology);
  neap_balance b = {0};
  double total = 0, speed = 0;
  memset(slot, 0, 8ul * c->slots);
  for (int32_t d = 0; d < c->ranks; d++) {
    double work = 0;
    for (int32_t i = first[d]; i < first[d + 1]; i++)
      for (int32_t r = 0; r < c->ranks; r++) {
        int64_t some = table[r * c->slots + i];
        slot[i] += some;
        b.tokens += some;
        b.remote += d != r ? some : 0;
        b.inter_node += node_of[d] != node_of[r] ? some : 0;
        work += (double)some * c->cost[neap_layout_experts(c->layout)[i]];
      }
    total += work;
    speed += c->speed[d];
    b.max_work = fmax(b.max_work, work / c->speed[d]);
  }
  b.imbalance = total > 0 ? b.max_work / (total / speed) : 1;
  return b;
}

static void check_balance(const cluster *c, const neap_split *s, const int64_t *table,
                          const char *rule)
{
  int64_t *slot = malloc(8ul * c->slots), *got = malloc(8ul * c->slots);
  neap_balance b, expected = expected_balance(c, table, slot);
  check(!neap_split_balance(s, &b), "%s: balance: %s", rule, neap_error_message());
  check(b.tokens == expected.tokens && b.inter_node == expected.inter_node &&
            b.remote == expected.remote,
        "%s: %ld %ld %ld; rows give %ld %ld %ld", rule, (long)b.tokens, (long)b.inter_node,
        (long)b.remote, (long)expected.tokens, (long)expected.inter_node, (long)expected.remote);
  check_close(b.max_work, expected.max_work, 1e-12, "max_work");
  check_close(b.imbalance, expected.imbalance, 1e-12, "imbalance");
  check(!neap_split_slot_tokens(s, got), "slot_tokens");
  check_same(got, slot, 8 * c->slots, "%s: slot tokens differ from the rows", rule);
  free(got);
  free(slot);
}

/* Tokens on the links in 1 to 3 parts, from the rows. */
static void check_traffic(const cluster *c, neap_split *s, const int64_t *table, const char *rule)
{
  const neap_topology *t = c->topology;
  int64_t in[64], out[64], node_in[64], node_out[64], ports[3 * 64], uplinks[3 * 64];
  for (int32_t parts = 1; parts <= 3; parts++) {
    check(!neap_split_traffic(s, parts, ports, uplinks), "traffic: %s", neap_error_message());
    for (int32_t part = 0; part < parts; part++) {
      memset(in, 0, sizeof in), memset(out, 0, sizeof out);
      memset(node_in, 0, sizeof in), memset(node_out, 0, sizeof out);
      for (int32_t r = 0; r < c->ranks; r++)
        for (int32_t i = 0; i < c->slots; i++) {
          int32_t to = t->rank_of[i], place = i - t->first_slot[to];
          int64_t some = table[r * c->slots + i];
          if (place * parts / (t->first_slot[to + 1] - t->first_slot[to]) != part || to == r)
            continue;
          in[to] += some, out[r] += some;
          if (t->node_of[to] != t->node_of[r])
            node_in[t->node_of[to]] += some, node_out[t->node_of[r]] += some;
        }
      for (int32_t r = 0; r < c->ranks; r++)
        check(ports[part * c->ranks + r] == (in[r] > out[r] ? in[r] : out[r]), "%s: port %d", rule,
              r);
      for (int32_t n = 0; n < t->nodes; n++)
        check(uplinks[part * t->nodes + n] == (node_in[n] > node_out[n] ? node_in[n] : node_out[n]),
              "%s: uplink %d", rule, n);
    }
  }
}

/* Tokens of one choice are sent once anyway; with more choices there are fewer to send, and no
 * fewer than all tokens' choices together need, or than a limit to one node leaves. */
static void check_node_traffic(const cluster *c, neap_split *s)
{
  const neap_topology *t = c->topology;
  int64_t ports[3 * 64], uplinks[3 * 64];
  double once[3 * 64], limited[3 * 64];
  int32_t top_k = c->experts < 4 ? c->experts : 4;
  for (int32_t parts = 1; parts <= 3; parts++) {
    check(!neap_split_traffic(s, parts, ports, uplinks), "traffic");
    check(!neap_split_node_traffic(s, parts, 1, 0, once), "once: %s", neap_error_message());
    for (int32_t i = 0; i < parts * t->nodes; i++)
      check_close(once[i], (double)uplinks[i], 1e-9 * (1 + (double)uplinks[i]), "one choice");
    check(!neap_split_node_traffic(s, parts, top_k, 0, once), "once");
    check(!neap_split_node_traffic(s, parts, top_k, 1, limited), "limited");
    for (int32_t i = 0; i < parts * t->nodes; i++) {
      double all = (double)uplinks[i], slack = 1e-9 * (1 + all);
      check(once[i] <= all + slack && once[i] >= all / top_k - slack, "%g of %g", once[i], all);
      check(limited[i] <= once[i] + slack, "%g within a node, of %g", limited[i], once[i]);
    }
  }
  check(neap_split_node_traffic(s, 1, c->experts + 1, 0, once) == NEAP_ARGUMENT,
        "too many choices");
}

/* lite and even by their definition: floor or ceiling of an equal share of the group. */
static void check_rule(const cluster *c, const int64_t *table, bool node_first, const char *rule)
{
  const neap_topology *t = c->topology;
  const int32_t *expert_of = neap_layout_experts(c->layout);
  for (int32_t r = 0; r < c->ranks; r++)
    for (int32_t i = 0; i < c->slots; i++) {
      int32_t near = 0, all = 0, e = expert_of[i], here = t->node_of[t->rank_of[i]];
      for (int32_t k = 0; k < c->slots; k++) {
        all += expert_of[k] == e;
        near += expert_of[k] == e && t->node_of[t->rank_of[k]] == t->node_of[r];
      }
      int64_t tokens = c->load[r * c->experts + e], some = table[r * c->slots + i];
      bool local = node_first && near;
      int32_t group = local ? near : all;
      check(local && here != t->node_of[r]
                ? !some
                : some == tokens / group || some == (tokens + group - 1) / group,
            "%s: rank %d sends %ld of %ld to slot %d, one of %d", rule, r, (long)some, (long)tokens,
            i, group);
    }
}

static void check_one(const cluster *c, const char *name, const neapi_split_rule *rule)
{
  neap_split *s;
  check(!neap_split_open(c->topology, name, &s), "open: %s", neap_error_message());
  if (rule)
    s->rule = rule;
  for (int32_t twice = 0; twice < 2; twice++)
    check(!neap_split_compute(s, c->layout, c->load), "compute: %s", neap_error_message());
  name = rule ? rule->name : name;
  int64_t *table = rows_of(c, s, name);
  check_columns(c, s, table, name);
  check_balance(c, s, table, name);
  check_traffic(c, s, table, name);
  check_node_traffic(c, s);
  if (!strcmp(name, "lite") || !strcmp(name, "even"))
    check_rule(c, table, !strcmp(name, "lite"), name);
  check(!neap_split_set(s, c->layout, c->load, table), "set: %s", neap_error_message());
  check_columns(c, s, table, "table");
  check_balance(c, s, table, "table");
  free(table);
  neap_split_close(s);
}

static void test_random(int32_t trials)
{
  for (int32_t i = 0; i < trials; i++) {
    cluster c = open_cluster();
    for (int32_t rule = 0; rule < neap_split_rule_count(); rule++)
      check_one(&c, neap_split_rule_name(rule), NULL);
    check_one(&c, "lite", &random_rule);
    close_cluster(&c);
  }
}

/* As many tokens from every source: no slot gets more than another. */
static void test_no_bias(void)
{
  int32_t slots_of[8] = {1, 1, 1, 1, 1, 1, 1, 1}, expert_of[8] = {0};
  int64_t load[8], tokens[8];
  neap_topology *t;
  neap_layout *l;
  neap_split *s;
  check(!neap_topology_open(8, 1, NULL, slots_of, NULL, NULL, &t), "topology");
  check(!neap_layout_open(t, &l) && !neap_layout_set(l, expert_of), "layout");
  check(!neap_split_open(t, "lite", &s), "split");
  for (int64_t each = 1; each < 20; each++) {
    for (int32_t r = 0; r < 8; r++)
      load[r] = each;
    check(!neap_split_compute(s, l, load) && !neap_split_slot_tokens(s, tokens), "compute");
    for (int32_t i = 0; i < 8; i++)
      check(tokens[i] == each, "slot %d gets %ld of %ld", i, (long)tokens[i], (long)each);
  }
  neap_split_close(s);
  neap_layout_close(l);
  neap_topology_close(t);
}

static void check_message(int status, int expected, const char *a, const char *b, const char *c)
{
  const char *message = neap_error_message();
  check(status == expected, "status %d; expected %d", status, expected);
  check(strstr(message, a) && strstr(message, b) && strstr(message, c), "message: %s", message);
}

static void test_errors(void)
{
  int32_t slots_of[2] = {2, 1}, expert_of[3] = {0, 1, 1};
  int64_t load[4] = {5, 6, 7, 8}, amount[6] = {5, 2, 4, 7, 8, 0}, row[3];
  neap_topology *t;
  neap_layout *l;
  neap_split *s;
  check(!neap_topology_open(2, 2, NULL, slots_of, NULL, NULL, &t), "topology");
  check(!neap_layout_open(t, &l), "layout");
  check_message(neap_split_open(t, "best", &s), NEAP_ARGUMENT, "best", "lite", "even");
  check(!neap_split_open(t, "lite", &s), "split");
  check_message(neap_split_row(s, 0, row), NEAP_ARGUMENT, "nothing", "computed", "");
  check_message(neap_split_compute(s, l, load), NEAP_ARGUMENT, "layout", "never", "set");
  check(!neap_layout_set(l, expert_of), "set");
  check(!neap_split_set(s, l, load, amount), "set: %s", neap_error_message());
  check_message(neap_split_row(s, 2, row), NEAP_ARGUMENT, "rank 2", "0 to 1", "");
  amount[5] = 1;
  check_message(neap_split_set(s, l, load, amount), NEAP_SPLIT, "rank 1", "expert 1", "9 tokens");
  amount[5] = -1;
  check_message(neap_split_set(s, l, load, amount), NEAP_SPLIT, "rank 1 sends -1", "expert 1",
                "slot 0 of rank 1");
  load[2] = -3;
  check_message(neap_split_compute(s, l, load), NEAP_ARGUMENT, "rank 1", "expert 0", "-3");
  check(!neap_split_row(s, 0, row) && row[1] == 2 && row[2] == 4, "the old split is kept");
  neap_split_close(s);
  neap_split_close(NULL);
  neap_layout_close(l);
  neap_topology_close(t);
}

int main(void)
{
  test_random(400);
  test_no_bias();
  test_errors();
  return check_done();
}
