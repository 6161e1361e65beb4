/* SPDX-License-Identifier: Apache-2.0 */
/* Split: how many tokens of every source go to every slot. Checks, index, and the table form; the
 * other forms' work is in pooled.c and even.c. */
#include "split/split.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const neapi_split_rule *const rules[] = {
    &neapi_split_lite,
    &neapi_split_even,
    &neapi_split_local,
    &neapi_split_minimax,
};

enum { RULES = sizeof rules / sizeof *rules };

/* Tokens of one source and expert: sums over a cluster stay far from overflow. */
static const int64_t TOKENS_MAX = (1ll << 40) - 1;

int32_t neap_split_rule_count(void)
{
  return RULES;
}

const char *neap_split_rule_name(int32_t index)
{
  return index >= 0 && index < RULES ? rules[index]->name : NULL;
}

static int unknown_rule(const char *name)
{
  char known[256] = "";
  for (int32_t i = 0, used = 0; i < RULES && used < (int32_t)sizeof known; i++)
    used +=
        snprintf(known + used, sizeof known - (size_t)used, "%s%s", i ? ", " : "", rules[i]->name);
  return neapi_fail(NEAP_ARGUMENT, "split: no rule is called '%s'; known are %s", name, known);
}

static int allocate(neap_split *s)
{
  const neap_topology *t = s->topology;
  int64_t cells = 8ll * t->ranks * t->experts, nodes = 8ll * t->nodes * t->experts;
  int64_t slots = 8ll * t->slots;
  s->load = neapi_alloc(cells, "split");
  s->next_load = neapi_alloc(cells, "split");
  s->near = neapi_alloc(slots, "split");
  s->far = neapi_alloc(slots, "split");
  s->node_load = neapi_alloc(nodes, "split");
  s->next_node_load = neapi_alloc(nodes, "split");
  s->node_first = neapi_alloc(4ll * (t->nodes + 1) * t->experts, "split");
  s->own = neapi_alloc(slots, "split");
  s->far_before = neapi_alloc(slots + 8, "split");
  s->near_left = neapi_alloc(nodes, "split");
  s->pool_first = neapi_alloc(nodes, "split");
  s->before = neapi_alloc(8ll * t->experts, "split");
  s->sums = neapi_alloc(slots + 8, "split");
  s->stay_rank = neapi_alloc(8ll * t->ranks, "split");
  s->stay_node = neapi_alloc(8ll * t->nodes, "split");
  bool whole = s->load && s->next_load && s->next_node_load && s->near && s->far && s->node_load &&
               s->node_first && s->own && s->far_before && s->near_left && s->pool_first &&
               s->before && s->sums && s->stay_rank && s->stay_node;
  return whole ? neap_layout_open(s->topology, &s->layout) : NEAP_MEMORY;
}

int neap_split_open(neap_topology *topology, const char *name, neap_split **out)
{
  const neapi_split_rule *rule = NULL;
  for (int32_t i = 0; i < RULES; i++)
    if (!strcmp(rules[i]->name, name))
      rule = rules[i];
  if (!rule)
    return unknown_rule(name);
  neap_split *s = neapi_alloc_zero(sizeof *s, "split");
  if (!s)
    return NEAP_MEMORY;
  s->topology = neapi_topology_share(topology);
  s->rule = rule;
  int status = allocate(s);
  if (!status && rule->open)
    status = rule->open(topology, &s->scratch);
  if (status) {
    neap_split_close(s);
    return status;
  }
  *out = s;
  return NEAP_OK;
}

int neap_split_set_price(neap_split *s, double price)
{
  if (!(price >= 0))
    return neapi_fail(NEAP_ARGUMENT, "split: a price of %g; allowed are 0 and more", price);
  if (price > 0 && !s->rule->prices)
    return neapi_fail(NEAP_ARGUMENT, "split: the rule %s knows no price; minimax does",
                      s->rule->name);
  s->price = price;
  return NEAP_OK;
}

void neap_split_close(neap_split *s)
{
  if (!s)
    return;
  if (s->rule->close)
    s->rule->close(s->scratch);
  neap_layout_close(s->layout);
  neap_topology_close(s->topology);
  free(s->load);
  free(s->next_load);
  free(s->near);
  free(s->far);
  free(s->table);
  free(s->node_load);
  free(s->next_node_load);
  free(s->node_first);
  free(s->own);
  free(s->far_before);
  free(s->near_left);
  free(s->pool_first);
  free(s->before);
  free(s->sums);
  free(s->stay_rank);
  free(s->stay_node);
  free(s);
}

/* The first count that is out of range. */
static int bad_load(const neap_topology *t, const int64_t *load)
{
  int64_t i = 0;
  while (!(load[i] & ~TOKENS_MAX))
    i++;
  return neapi_fail(
      NEAP_ARGUMENT, "split: rank %d has %lld tokens for expert %d; allowed are 0 to %lld",
      (int)(i / t->experts), (long long)load[i], (int)(i % t->experts), (long long)TOKENS_MAX);
}

/* node_first, which changes with the layout only. */
static void index_nodes(neap_split *s)
{
  const neap_topology *t = s->topology;
  const neap_layout *l = s->layout;
  int32_t *first = s->node_first;
  memset(first, 0, 4ul * (t->nodes + 1) * t->experts);
  for (int32_t slot = 0; slot < t->slots; slot++)
    first[(int64_t)(t->node_of[t->rank_of[slot]] + 1) * t->experts + l->expert_of[slot]]++;
  memcpy(first, l->first, 4ul * t->experts);
  for (int64_t i = t->experts; i < (int64_t)(t->nodes + 1) * t->experts; i++)
    first[i] += first[i - t->experts];
}

static void swap(int64_t **a, int64_t **b)
{
  int64_t *was = *a;
  *a = *b;
  *b = was;
}

/* Copies, sums and checks in one pass: this is most of what a large cluster's split reads. */
static int take_load(neap_split *s, const int64_t *load)
{
  const neap_topology *t = s->topology;
  int64_t seen = 0;
  memset(s->next_node_load, 0, 8ul * t->nodes * t->experts);
  for (int32_t r = 0; r < t->ranks; r++) {
    const int64_t *restrict from = load + (int64_t)r * t->experts;
    int64_t *restrict to = s->next_load + (int64_t)r * t->experts;
    int64_t *restrict sum = s->next_node_load + (int64_t)t->node_of[r] * t->experts;
    for (int32_t e = 0; e < t->experts; e++) {
      seen |= to[e] = from[e];
      sum[e] += from[e];
    }
  }
  if (seen & ~TOKENS_MAX)
    return bad_load(t, load);
  swap(&s->load, &s->next_load);
  swap(&s->node_load, &s->next_node_load);
  return NEAP_OK;
}

/* Copies layout and load; what the split held before is gone, unless they are refused. */
static int take(neap_split *s, const neap_layout *layout, const int64_t *load)
{
  const neap_topology *t = s->topology;
  int status = neapi_layout_require(layout, t, "split");
  if (!status)
    status = take_load(s, load);
  if (status)
    return status;
  s->form = NEAPI_SPLIT_NONE;
  if (!s->layout->valid || memcmp(s->layout->expert_of, layout->expert_of, 4ul * t->slots)) {
    status = neap_layout_copy(s->layout, layout);
    if (status)
      return status;
    index_nodes(s);
  }
  return NEAP_OK;
}

int neap_split_compute(neap_split *s, const neap_layout *layout, const int64_t *load)
{
  int status = take(s, layout, load);
  if (!status && s->rule->compute)
    status = s->rule->compute(s);
  if (status)
    return status;
  if (s->rule->compute)
    neapi_pooled_prepare(s);
  s->form = s->rule->compute ? NEAPI_SPLIT_POOLED : NEAPI_SPLIT_RULE;
  return NEAP_OK;
}

/* One expert of one row of a given table. */
static int check_row(const neap_layout *l, const int64_t *load, const int64_t *row, int32_t rank,
                     int32_t expert)
{
  const neap_topology *t = l->topology;
  int64_t sum = 0;
  for (int32_t i = l->first[expert]; i < l->first[expert + 1]; i++) {
    int32_t slot = l->by_expert[i], to = t->rank_of[slot];
    if (row[slot] < 0 || row[slot] > TOKENS_MAX)
      return neapi_fail(NEAP_SPLIT,
                        "split: rank %d sends %lld tokens of expert %d to slot %d of rank %d; "
                        "allowed are 0 to %lld",
                        rank, (long long)row[slot], expert, slot - t->first_slot[to], to,
                        (long long)load[expert]);
    sum += row[slot];
  }
  if (sum == load[expert])
    return NEAP_OK;
  int32_t slot = l->by_expert[l->first[expert]], to = t->rank_of[slot];
  return neapi_fail(NEAP_SPLIT,
                    "split: rank %d sends %lld tokens of expert %d to its %d slots (the first is "
                    "slot %d of rank %d); the load is %lld",
                    rank, (long long)sum, expert, l->first[expert + 1] - l->first[expert],
                    slot - t->first_slot[to], to, (long long)load[expert]);
}

int neap_split_set(neap_split *s, const neap_layout *layout, const int64_t *load,
                   const int64_t *table)
{
  const neap_topology *t = s->topology;
  int status = neapi_layout_require(layout, t, "split");
  for (int32_t r = 0; !status && r < t->ranks; r++)
    for (int32_t e = 0; !status && e < t->experts; e++)
      status =
          check_row(layout, load + (int64_t)r * t->experts, table + (int64_t)r * t->slots, r, e);
  int64_t bytes = 8ll * t->ranks * t->slots;
  if (!status && !s->table)
    status = (s->table = neapi_alloc(bytes, "split table")) ? NEAP_OK : NEAP_MEMORY;
  if (!status)
    status = take(s, layout, load);
  if (status)
    return status;
  memcpy(s->table, table, (size_t)bytes);
  s->form = NEAPI_SPLIT_TABLE;
  return NEAP_OK;
}

static int require(const neap_split *s, int32_t rank)
{
  if (s->form == NEAPI_SPLIT_NONE)
    return neapi_fail(NEAP_ARGUMENT, "split: nothing has been computed yet");
  if (rank < 0 || rank >= s->topology->ranks)
    return neapi_fail(NEAP_ARGUMENT, "split: no rank %d; allowed are 0 to %d", rank,
                      s->topology->ranks - 1);
  return NEAP_OK;
}

int neap_split_row(const neap_split *s, int32_t source, int64_t *row)
{
  int status = require(s, source);
  if (status)
    return status;
  if (s->form == NEAPI_SPLIT_POOLED)
    neapi_pooled_row(s, source, row);
  else if (s->form == NEAPI_SPLIT_RULE)
    neapi_even_row(s, source, row);
  else
    memcpy(row, s->table + (int64_t)source * s->topology->slots, 8ul * s->topology->slots);
  return NEAP_OK;
}

static void table_column(const neap_split *s, int32_t rank, int64_t *column)
{
  const neap_topology *t = s->topology;
  int32_t first = t->first_slot[rank], slots = t->first_slot[rank + 1] - first;
  for (int32_t r = 0; r < t->ranks; r++)
    memcpy(column + (int64_t)r * slots, s->table + (int64_t)r * t->slots + first, 8ul * slots);
}

int neap_split_column(const neap_split *s, int32_t rank, int64_t *column)
{
  int status = require(s, rank);
  if (status)
    return status;
  if (s->form == NEAPI_SPLIT_POOLED)
    neapi_pooled_column(s, rank, column);
  else if (s->form == NEAPI_SPLIT_RULE)
    neapi_even_column(s, rank, column);
  else
    table_column(s, rank, column);
  return NEAP_OK;
}

static void table_slots(const neap_split *s, int64_t *tokens)
{
  const neap_topology *t = s->topology;
  memset(tokens, 0, 8ul * t->slots);
  for (int32_t r = 0; r < t->ranks; r++)
    for (int32_t i = 0; i < t->slots; i++)
      tokens[i] += s->table[(int64_t)r * t->slots + i];
}

int neap_split_slot_tokens(const neap_split *s, int64_t *tokens)
{
  int status = require(s, 0);
  if (status)
    return status;
  if (s->form == NEAPI_SPLIT_POOLED)
    for (int32_t i = 0; i < s->topology->slots; i++)
      tokens[i] = s->near[s->layout->index_of[i]] + s->far[s->layout->index_of[i]];
  else if (s->form == NEAPI_SPLIT_RULE)
    neapi_even_slots(s, tokens);
  else
    table_slots(s, tokens);
  return NEAP_OK;
}

static void table_paths(const neap_split *s, int64_t *own, int64_t *near)
{
  const neap_topology *t = s->topology;
  memset(near, 0, 8ul * t->nodes);
  for (int32_t r = 0; r < t->ranks; r++) {
    const int64_t *row = s->table + (int64_t)r * t->slots;
    int32_t node = t->node_of[r];
    own[r] = 0;
    for (int32_t i = t->first_slot[r]; i < t->first_slot[r + 1]; i++)
      own[r] += row[i];
    for (int32_t i = t->first_slot[t->first_rank[node]]; i < t->first_slot[t->first_rank[node + 1]];
         i++)
      near[node] += row[i];
  }
}

/* Fills stay_rank and stay_node: tokens that stay on their source's rank, and on its node. */
static void find_paths(const neap_split *s)
{
  if (s->form == NEAPI_SPLIT_POOLED)
    neapi_pooled_paths(s, s->stay_rank, s->stay_node);
  else if (s->form == NEAPI_SPLIT_RULE)
    neapi_even_paths(s, s->stay_rank, s->stay_node);
  else
    table_paths(s, s->stay_rank, s->stay_node);
}

/* max_work to std_percent, from every slot's tokens. */
static void weigh(const neap_split *s, const int64_t *tokens, neap_balance *b)
{
  const neap_topology *t = s->topology;
  double total = 0, speed = 0, sum = 0, squares = 0;
  for (int32_t r = 0; r < t->ranks; r++) {
    double work = 0;
    for (int32_t i = t->first_slot[r]; i < t->first_slot[r + 1]; i++) {
      work += (double)tokens[i] * t->cost[s->layout->expert_of[i]];
      b->tokens += tokens[i];
    }
    total += work;
    speed += t->speed[r];
    work /= t->speed[r];
    sum += work;
    squares += work * work;
    b->max_work = work > b->max_work ? work : b->max_work;
  }
  b->mean_work = total / speed;
  b->imbalance = b->mean_work > 0 ? b->max_work / b->mean_work : 1;
  double mean = sum / t->ranks, variance = squares / t->ranks - mean * mean;
  b->std_percent = mean > 0 && variance > 0 ? 100 * sqrt(variance) / mean : 0;
}

int neap_split_balance(const neap_split *s, neap_balance *out)
{
  neap_balance b = {0};
  int status = neap_split_slot_tokens(s, s->sums);
  if (status)
    return status;
  weigh(s, s->sums, &b);
  find_paths(s);
  b.remote = b.inter_node = b.tokens;
  for (int32_t r = 0; r < s->topology->ranks; r++)
    b.remote -= s->stay_rank[r];
  for (int32_t n = 0; n < s->topology->nodes; n++)
    b.inter_node -= s->stay_node[n];
  *out = b;
  return NEAP_OK;
}

static int64_t max64(int64_t a, int64_t b)
{
  return a > b ? a : b;
}

static void whole_traffic(neap_split *s, int64_t *ports, int64_t *uplinks)
{
  const neap_topology *t = s->topology;
  find_paths(s);
  for (int32_t n = 0; n < t->nodes; n++) {
    int64_t node_in = 0, node_out = 0;
    for (int32_t r = t->first_rank[n]; r < t->first_rank[n + 1]; r++) {
      int64_t in = 0, out = 0;
      for (int32_t i = t->first_slot[r]; i < t->first_slot[r + 1]; i++)
        in += s->sums[i];
      for (int32_t e = 0; e < t->experts; e++)
        out += s->load[(int64_t)r * t->experts + e];
      ports[r] = max64(in, out) - s->stay_rank[r];
      node_in += in;
      node_out += out;
    }
    uplinks[n] = max64(node_in, node_out) - s->stay_node[n];
  }
}

static void larger_way(int64_t *in, const int64_t *out, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    in[i] = max64(in[i], out[i]);
}

static int traffic_of_chunks(neap_split *s, int32_t chunks, int64_t *ports, int64_t *uplinks)
{
  const neap_topology *t = s->topology;
  int64_t at_ranks = (int64_t)chunks * t->ranks, at_nodes = (int64_t)chunks * t->nodes;
  int64_t *out = neapi_alloc_zero(8 * (at_ranks + at_nodes + t->slots), "split traffic");
  if (!out)
    return NEAP_MEMORY;
  int64_t *node_out = out + at_ranks, *row = node_out + at_nodes;
  memset(ports, 0, 8ul * (size_t)at_ranks);
  memset(uplinks, 0, 8ul * (size_t)at_nodes);
  for (int32_t r = 0; r < t->ranks; r++) {
    neap_split_row(s, r, row);
    for (int32_t i = 0; i < t->slots; i++) {
      int32_t to = t->rank_of[i];
      if (to == r || !row[i])
        continue;
      int64_t chunk = neapi_topology_chunk(t, i, chunks);
      ports[chunk * t->ranks + to] += row[i];
      out[chunk * t->ranks + r] += row[i];
      if (t->node_of[to] == t->node_of[r])
        continue;
      uplinks[chunk * t->nodes + t->node_of[to]] += row[i];
      node_out[chunk * t->nodes + t->node_of[r]] += row[i];
    }
  }
  larger_way(ports, out, at_ranks);
  larger_way(uplinks, node_out, at_nodes);
  free(out);
  return NEAP_OK;
}

int neap_split_traffic(neap_split *s, int32_t chunks, int64_t *ports, int64_t *uplinks)
{
  int status = neap_split_slot_tokens(s, s->sums);
  if (status)
    return status;
  if (chunks < 1)
    return neapi_fail(NEAP_ARGUMENT, "split traffic: %d chunks; it must be 1 or more", chunks);
  if (chunks > 1)
    return traffic_of_chunks(s, chunks, ports, uplinks);
  whole_traffic(s, ports, uplinks);
  return NEAP_OK;
}
