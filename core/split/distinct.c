/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that travel to a node once for all their experts there. */
#include "base/memory.h"
#include "layout/topology.h"
#include "split/split.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  neap_split *split;
  int32_t chunks, top_k, limit;
  int64_t *row;     /* [slots] tokens of a source */
  int64_t *all;     /* [experts] of them for an expert on a node, in a chunk */
  double *share;    /* [nodes] of a source's tokens that go to a node, in a chunk */
  double *out, *in; /* [chunks][nodes] */
} distinct;

/* Share of tokens with none of top_k choices, drawn without return from so many equal experts,
 * among those that have a share of them. */
static double missed(double share, double experts, int32_t top_k)
{
  double none = 1;
  for (int32_t i = 0; i < top_k && none > 0; i++)
    none *= fmax(0, 1 - share * experts / (experts - i));
  return none;
}

/* As many equal experts as are as uneven as a source's: 1 / sum of squared shares, at least top_k,
 * since none has more tokens than there are. */
static double equal_experts(const neap_split *s, int32_t rank, double copies)
{
  const int64_t *load = s->load + (int64_t)rank * s->topology->experts;
  double sum = 0;
  for (int32_t e = 0; e < s->topology->experts; e++)
    sum += load[e] / copies * (load[e] / copies);
  return 1 / sum;
}

/* Share of a source's tokens with any choice among the slots of a node, in a chunk. */
static double share_of(const distinct *d, int32_t node, int32_t chunk, double tokens, double equal)
{
  const neap_topology *t = d->split->topology;
  const int32_t *expert_of = d->split->layout->expert_of;
  int32_t first = t->first_slot[t->first_rank[node]], last = t->first_slot[t->first_rank[node + 1]];
  double choices = 0, none = 1;
  for (int32_t i = first; i < last; i++)
    if (d->row[i] && neapi_topology_chunk(t, i, d->chunks) == chunk)
      d->all[expert_of[i]] += d->row[i];
  for (int32_t i = first; i < last; i++) {
    int64_t *count = &d->all[expert_of[i]];
    choices += (double)*count;
    none *= fmax(0, 1 - (double)*count / tokens);
    *count = 0;
  }
  double drawn = missed(choices / tokens / d->top_k, fmax(equal, d->top_k), d->top_k);
  return fmin(choices / tokens, 1 - fmin(none, drawn));
}

static void add_source(distinct *d, int32_t rank, double copies)
{
  double tokens = copies / d->top_k, equal = equal_experts(d->split, rank, copies);
  const neap_topology *t = d->split->topology;
  int32_t home = t->node_of[rank];
  for (int32_t chunk = 0; chunk < d->chunks; chunk++) {
    double sum = 0;
    for (int32_t n = 0; n < t->nodes; n++)
      sum += d->share[n] = share_of(d, n, chunk, tokens, equal);
    double kept = d->limit && sum > d->limit ? d->limit / sum : 1;
    for (int32_t n = 0; n < t->nodes; n++) {
      if (n == home)
        continue;
      d->in[chunk * t->nodes + n] += d->share[n] * kept * tokens;
      d->out[chunk * t->nodes + home] += d->share[n] * kept * tokens;
    }
  }
}

static void add_sources(distinct *d)
{
  const neap_topology *t = d->split->topology;
  for (int32_t r = 0; r < t->ranks; r++) {
    int64_t copies = 0;
    for (int32_t e = 0; e < t->experts; e++)
      copies += d->split->load[(int64_t)r * t->experts + e];
    neap_split_row(d->split, r, d->row);
    if (copies)
      add_source(d, r, (double)copies);
  }
}

int neap_split_node_traffic(neap_split *s, int32_t chunks, int32_t top_k, int32_t limit,
                            double *uplinks)
{
  const neap_topology *t = s->topology;
  int status = neap_split_slot_tokens(s, s->sums);
  if (status)
    return status;
  if (chunks < 1 || top_k < 1 || top_k > t->experts || limit < 0)
    return neapi_fail(
        NEAP_ARGUMENT,
        "split traffic: %d chunks, top %d, at most %d nodes; allowed: 1 or more, 1 to "
        "%d, 0 or more",
        chunks, top_k, limit, t->experts);
  int64_t cells = (int64_t)chunks * t->nodes;
  char *memory = neapi_alloc_zero(8 * (cells + t->nodes + t->slots + t->experts), "split traffic");
  if (!memory)
    return NEAP_MEMORY;
  distinct d = {s, chunks, top_k, limit, NULL, NULL, NULL, (double *)(void *)memory, uplinks};
  d.share = d.out + cells;
  d.row = (int64_t *)(void *)(d.share + t->nodes);
  d.all = d.row + t->slots;
  memset(uplinks, 0, 8ul * (size_t)cells);
  add_sources(&d);
  for (int64_t i = 0; i < cells; i++)
    uplinks[i] = fmax(uplinks[i], d.out[i]);
  free(memory);
  return NEAP_OK;
}
