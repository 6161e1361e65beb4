/* SPDX-License-Identifier: Apache-2.0 */
/* Splits by rule: a source's tokens for an expert go evenly to a group of its replicas.
 *   lite   the replicas on the source's node if there are any, else all (LAER-MoE's lite routing);
 *   even   all replicas (EPLB has no rule of its own). */
#include "split/split.h"

#include <string.h>

static void group_all(const neap_split *s, int32_t node, int32_t expert, int32_t *first,
                      int32_t *count)
{
  (void)node;
  *first = s->layout->first[expert];
  *count = s->layout->first[expert + 1] - *first;
}

static void group_node(const neap_split *s, int32_t node, int32_t expert, int32_t *first,
                       int32_t *count)
{
  int64_t cell = (int64_t)node * s->topology->experts + expert;
  *first = s->node_first[cell];
  *count = s->node_first[cell + s->topology->experts] - *first;
  if (!*count)
    group_all(s, node, expert, first, count);
}

const neapi_split_rule neapi_split_lite = {.name = "lite", .group = group_node};
const neapi_split_rule neapi_split_even = {.name = "even", .group = group_all};

/* One source's tokens of one expert over indices [first, first + count): base each, and one more on
 * the extra indices from turn on, cyclically. */
typedef struct {
  int32_t first, count, turn, extra;
  int64_t base;
} share;

static share share_of(const neap_split *s, int32_t source, int32_t expert)
{
  const neap_topology *t = s->topology;
  share h = {0};
  int64_t tokens = s->load[(int64_t)source * t->experts + expert];
  s->rule->group(s, t->node_of[source], expert, &h.first, &h.count);
  if (h.count == 1 || !tokens) {
    h.base = tokens;
    return h;
  }
  h.base = tokens / h.count;
  h.extra = (int32_t)(tokens - h.base * h.count);
  h.turn = source % h.count;
  return h;
}

static int64_t tokens_at(share h, int32_t index)
{
  int32_t i = index - h.first;
  if (i < 0 || i >= h.count)
    return 0;
  i -= h.turn;
  return h.base + ((i < 0 ? i + h.count : i) < h.extra);
}

void neapi_even_row(const neap_split *s, int32_t source, int64_t *row)
{
  const neap_topology *t = s->topology;
  memset(row, 0, 8ul * t->slots);
  for (int32_t e = 0; e < t->experts; e++) {
    if (!s->load[(int64_t)source * t->experts + e])
      continue;
    share h = share_of(s, source, e);
    for (int32_t index = h.first; index < h.first + h.count; index++)
      row[s->layout->by_expert[index]] = tokens_at(h, index);
  }
}

void neapi_even_column(const neap_split *s, int32_t rank, int64_t *column)
{
  const neap_topology *t = s->topology;
  int32_t first = t->first_slot[rank], slots = t->first_slot[rank + 1] - first;
  for (int32_t source = 0; source < t->ranks; source++, column += slots)
    for (int32_t i = 0; i < slots; i++)
      column[i] = tokens_at(share_of(s, source, s->layout->expert_of[first + i]),
                            s->layout->index_of[first + i]);
}

/* Adds value to indices [first, last) of sums, kept as differences. */
static void add_range(int64_t *sums, int32_t first, int32_t last, int64_t value)
{
  sums[first] += value;
  sums[last] -= value;
}

void neapi_even_slots(const neap_split *s, int64_t *tokens)
{
  const neap_topology *t = s->topology;
  int64_t *sums = s->far_before; /* only the pooled form uses it otherwise */
  memset(sums, 0, 8ul * t->slots + 8);
  for (int32_t source = 0; source < t->ranks; source++)
    for (int32_t e = 0; e < t->experts; e++) {
      share h = share_of(s, source, e);
      int32_t end = h.first + h.count, from = h.first + h.turn;
      add_range(sums, h.first, end, h.base);
      add_range(sums, from, from + h.extra < end ? from + h.extra : end, 1);
      if (from + h.extra > end)
        add_range(sums, h.first, from + h.extra - h.count, 1);
    }
  int64_t sum = 0;
  for (int32_t index = 0; index < t->slots; index++)
    tokens[s->layout->by_expert[index]] = sum += sums[index];
}

/* Tokens to indices [first, last), which lie within the group or wholly outside it. */
static int64_t range_tokens(share h, int32_t first, int32_t last)
{
  int64_t sum = 0;
  for (int32_t index = first; index < last; index++)
    sum += tokens_at(h, index);
  return sum;
}

void neapi_even_paths(const neap_split *s, int64_t *own, int64_t *near)
{
  const neap_topology *t = s->topology;
  memset(near, 0, 8ul * t->nodes);
  for (int32_t source = 0; source < t->ranks; source++) {
    int32_t node = t->node_of[source];
    const int32_t *first = s->node_first + (int64_t)node * t->experts;
    for (int32_t e = 0; e < t->experts; e++)
      near[node] += range_tokens(share_of(s, source, e), first[e], first[e + t->experts]);
    own[source] = 0;
    for (int32_t i = t->first_slot[source]; i < t->first_slot[source + 1]; i++)
      own[source] +=
          tokens_at(share_of(s, source, s->layout->expert_of[i]), s->layout->index_of[i]);
  }
}
