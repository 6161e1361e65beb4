/* SPDX-License-Identifier: Apache-2.0 */
/* Pooled splits: from near and far tokens of slots to the rows and columns of ranks, as split.h
 * defines them. */
#include "split/split.h"

#include <string.h>

static int64_t min64(int64_t a, int64_t b)
{
  return a < b ? a : b;
}

/* Tokens in both of two ranges [a, a + an) and [b, b + bn). */
static int64_t overlap(int64_t a, int64_t an, int64_t b, int64_t bn)
{
  int64_t low = a > b ? a : b, high = min64(a + an, b + bn);
  return high > low ? high - low : 0;
}

/* own: what slots take of their own rank's source. */
static void take_own(neap_split *s)
{
  const neap_topology *t = s->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    const int64_t *load = s->load + (int64_t)r * t->experts;
    for (int32_t i = t->first_slot[r]; i < t->first_slot[r + 1]; i++) {
      int32_t e = s->layout->expert_of[i];
      int32_t index = s->layout->index_of[i];
      int64_t left = load[e];
      /* A rank may hold an expert twice: slots before this one come first. */
      for (int32_t p = index - 1; p >= s->layout->first[e] && s->layout->rank_at[p] == r; p--)
        left -= s->own[p];
      s->own[index] = min64(left, s->near[index]);
    }
  }
}

void neapi_pooled_prepare(neap_split *s)
{
  const neap_topology *t = s->topology;
  take_own(s);
  s->far_before[0] = 0;
  for (int32_t index = 0; index < t->slots; index++)
    s->far_before[index + 1] = s->far_before[index] + s->far[index];
  memset(s->before, 0, 8ul * t->experts);
  for (int32_t n = 0; n < t->nodes; n++)
    for (int32_t e = 0; e < t->experts; e++) {
      int64_t cell = (int64_t)n * t->experts + e, near = 0, left = 0;
      for (int32_t index = s->node_first[cell]; index < s->node_first[cell + t->experts]; index++) {
        near += s->near[index];
        left += s->near[index] - s->own[index];
      }
      s->near_left[cell] = left;
      s->pool_first[cell] = s->before[e];
      s->before[e] += s->node_load[cell] - near;
    }
}

/* One source's tokens of one expert after step 1: they follow [at] others of the node in the order
 * of step 2; those past near_left enter the pool. */
typedef struct {
  int64_t at, tokens;           /* in the node's order */
  int64_t pool_at, pool_tokens; /* in the expert's pool */
} stretch;

static stretch stretch_of(const neap_split *s, int32_t node, int32_t expert, int64_t at,
                          int64_t tokens)
{
  int64_t cell = (int64_t)node * s->topology->experts + expert, near = s->near_left[cell];
  int64_t past = at > near ? at - near : 0; /* of the others, those that entered the pool */
  int64_t end = at + tokens > near ? at + tokens - near : 0;
  return (stretch){at, tokens, s->pool_first[cell] + past, end - past};
}

/* Step 2 of a row: the node's slots in order. */
static void fill_near(const neap_split *s, int32_t node, int32_t expert, stretch h, int64_t *row)
{
  const neap_topology *t = s->topology;
  const int32_t *first = s->node_first + (int64_t)node * t->experts + expert;
  int64_t near_at = 0;
  for (int32_t index = first[0]; index < first[t->experts] && near_at < h.at + h.tokens; index++) {
    int64_t near = s->near[index] - s->own[index];
    row[s->layout->by_expert[index]] += overlap(h.at, h.tokens, near_at, near);
    near_at += near;
  }
}

/* Step 3 of a row: the expert's slots in order, from the one that takes the pool's token at on. */
static void fill_far(const neap_split *s, int32_t expert, int64_t at, int64_t tokens, int64_t *row)
{
  const neap_layout *l = s->layout;
  int32_t low = l->first[expert], high = l->first[expert + 1] - 1;
  at += s->far_before[low];
  while (low < high) { /* the last index whose far starts at or before at */
    int32_t middle = (low + high + 1) / 2;
    if (s->far_before[middle] <= at)
      low = middle;
    else
      high = middle - 1;
  }
  for (int32_t index = low; tokens > 0; index++) {
    int64_t some = overlap(at, tokens, s->far_before[index], s->far[index]);
    row[l->by_expert[index]] += some;
    at += some;
    tokens -= some;
  }
}

/* before[e]: tokens that the node's sources before rank still have after step 1. */
static void count_before(const neap_split *s, int32_t rank)
{
  const neap_topology *t = s->topology;
  int32_t first = t->first_rank[t->node_of[rank]];
  memset(s->before, 0, 8ul * t->experts);
  for (int32_t r = first; r < rank; r++)
    for (int32_t e = 0; e < t->experts; e++)
      s->before[e] += s->load[(int64_t)r * t->experts + e];
  for (int32_t i = t->first_slot[first]; i < t->first_slot[rank]; i++)
    s->before[s->layout->expert_of[i]] -= s->own[s->layout->index_of[i]];
}

/* O(slots + ranks of the node x experts). */
void neapi_pooled_row(const neap_split *s, int32_t source, int64_t *row)
{
  const neap_topology *t = s->topology;
  int32_t node = t->node_of[source];
  memset(row, 0, 8ul * t->slots);
  count_before(s, source);
  for (int32_t i = t->first_slot[source]; i < t->first_slot[source + 1]; i++)
    row[i] = s->own[s->layout->index_of[i]];
  for (int32_t e = 0; e < t->experts; e++) {
    int64_t tokens = s->load[(int64_t)source * t->experts + e];
    if (!tokens)
      continue;
    for (int32_t index = s->node_first[(int64_t)node * t->experts + e];
         index < s->node_first[(int64_t)(node + 1) * t->experts + e]; index++)
      if (s->layout->rank_at[index] == source)
        tokens -= s->own[index];
    stretch h = stretch_of(s, node, e, s->before[e], tokens);
    fill_near(s, node, e, h, row);
    fill_far(s, e, h.pool_at, h.pool_tokens, row);
  }
}

/* Where the near tokens of the slot at index start in its node's order. */
static int64_t near_before(const neap_split *s, int32_t node, int32_t expert, int32_t index)
{
  int64_t sum = 0;
  for (int32_t i = s->node_first[(int64_t)node * s->topology->experts + expert]; i < index; i++)
    sum += s->near[i] - s->own[i];
  return sum;
}

/* One slot of a column: column[source x stride]. */
static void fill_slot(const neap_split *s, int32_t slot, int64_t *column, int64_t stride)
{
  const neap_topology *t = s->topology;
  const neap_layout *l = s->layout;
  int32_t e = l->expert_of[slot], index = s->layout->index_of[slot], rank = t->rank_of[slot];
  int64_t near_at = near_before(s, t->node_of[rank], e, index);
  int64_t pool_at = s->far_before[index] - s->far_before[l->first[e]], before = 0;
  int32_t next = l->first[e]; /* the expert's slots, alongside the sources */
  for (int32_t r = 0; r < t->ranks; r++) {
    int32_t node = t->node_of[r];
    int64_t tokens = s->load[(int64_t)r * t->experts + e], sum = r == rank ? s->own[index] : 0;
    before = r == t->first_rank[node] ? 0 : before;
    for (; next < l->first[e + 1] && s->layout->rank_at[next] == r; next++)
      tokens -= s->own[next];
    stretch h = stretch_of(s, node, e, before, tokens);
    if (node == t->node_of[rank])
      sum += overlap(h.at, h.tokens, near_at, s->near[index] - s->own[index]);
    sum += overlap(h.pool_at, h.pool_tokens, pool_at, s->far[index]);
    column[r * stride] = sum;
    before += tokens;
  }
}

/* O(ranks x slots of the rank). */
void neapi_pooled_column(const neap_split *s, int32_t rank, int64_t *column)
{
  const neap_topology *t = s->topology;
  int32_t first = t->first_slot[rank], slots = t->first_slot[rank + 1] - first;
  for (int32_t i = 0; i < slots; i++)
    fill_slot(s, first + i, column + i, slots);
}

/* Tokens that go to the source's own rank; the node's sources before it have before[e] left. */
static int64_t own_rank(const neap_split *s, int32_t rank)
{
  const neap_topology *t = s->topology;
  int64_t sum = 0;
  for (int32_t i = t->first_slot[rank]; i < t->first_slot[rank + 1]; i++) {
    int32_t e = s->layout->expert_of[i], index = s->layout->index_of[i], node = t->node_of[rank];
    int64_t tokens = s->load[(int64_t)rank * t->experts + e];
    for (int32_t p = s->node_first[(int64_t)node * t->experts + e];
         p < s->node_first[(int64_t)(node + 1) * t->experts + e]; p++)
      if (s->layout->rank_at[p] == rank)
        tokens -= s->own[p];
    stretch h = stretch_of(s, node, e, s->before[e], tokens);
    sum += s->own[index] +
           overlap(h.at, h.tokens, near_before(s, node, e, index), s->near[index] - s->own[index]);
    sum += overlap(h.pool_at, h.pool_tokens,
                   s->far_before[index] - s->far_before[s->layout->first[e]], s->far[index]);
  }
  return sum;
}

/* Tokens of a node's sources that its slots compute: near, and what they take back of the pool. */
static int64_t stay_in_node(const neap_split *s, int32_t node)
{
  const neap_topology *t = s->topology;
  int64_t sum = 0;
  for (int32_t e = 0; e < t->experts; e++) {
    int64_t cell = (int64_t)node * t->experts + e, zero = s->far_before[s->layout->first[e]];
    int64_t low = s->far_before[s->node_first[cell]];
    int64_t high = s->far_before[s->node_first[cell + t->experts]], put = s->node_load[cell];
    for (int32_t p = s->node_first[cell]; p < s->node_first[cell + t->experts]; p++)
      put -= s->near[p];
    sum += s->node_load[cell] - put;
    sum += overlap(s->pool_first[cell], put, low - zero, high - low);
  }
  return sum;
}

void neapi_pooled_paths(const neap_split *s, int64_t *own, int64_t *near)
{
  const neap_topology *t = s->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    if (r == t->first_rank[t->node_of[r]])
      memset(s->before, 0, 8ul * t->experts);
    own[r] = own_rank(s, r);
    for (int32_t e = 0; e < t->experts; e++)
      s->before[e] += s->load[(int64_t)r * t->experts + e];
    for (int32_t i = t->first_slot[r]; i < t->first_slot[r + 1]; i++)
      s->before[s->layout->expert_of[i]] -= s->own[s->layout->index_of[i]];
  }
  for (int32_t n = 0; n < t->nodes; n++)
    near[n] = stay_in_node(s, n);
}
