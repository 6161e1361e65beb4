/* SPDX-License-Identifier: Apache-2.0 */
/* Reduce: the gradients of an expert's replicas are summed at the owners of its shards. */
#include "device/timeline.h"
#include "layout/layout.h"
#include "moe/transfer.h"
#include "tensor/tensor.h"

#include <string.h>

/* Every owner's range of each slot of this rank that had tokens. */
static void list_gradients(neap_transfer *t, const int32_t *expert_of, const int64_t *slot_tokens,
                           char *rows, int64_t element)
{
  const neap_shards *s = t->shards;
  int32_t first = s->topology->first_slot[s->rank];
  for (int32_t i = 0; i < s->slots; i++) {
    char *row = rows + i * s->slot_size * element;
    for (int32_t peer = 0; slot_tokens[first + i] && peer < s->ranks; peer++) {
      neapi_shard_range range = neapi_shards_master(s, expert_of[first + i], peer);
      if (peer != s->rank)
        neapi_messages_add(&t->send, row + range.begin * element,
                           (range.end - range.begin) * element, peer);
    }
  }
}

/* For every slot with tokens, by expert and slot: where this rank's range of its gradient is or
 * will be. Experts are gone through slot by slot, as the senders do. */
static void list_terms(neap_transfer *t, const neap_layout *layout, const int64_t *slot_tokens,
                       char *rows, int64_t element)
{
  const neap_shards *s = t->shards;
  const neap_topology *topology = s->topology;
  const void **terms = t->terms.data;
  char *stage = t->staging.data;
  int32_t *used = t->term_first + 1; /* ends of the lists so far; later the starts of the next */
  memset(t->term_first, 0, (size_t)s->experts * 4 + 4);
  for (int32_t slot = 0; slot < topology->slots; slot++)
    if (slot_tokens[slot])
      used[layout->expert_of[slot]]++;
  for (int32_t e = 0, at = 0; e < s->experts; e++) {
    int32_t count = used[e];
    used[e] = at;
    at += count;
  }
  for (int32_t slot = 0; slot < topology->slots; slot++) {
    int32_t e = layout->expert_of[slot], peer = topology->rank_of[slot];
    neapi_shard_range range = neapi_shards_master(s, e, s->rank);
    int64_t bytes = (range.end - range.begin) * element;
    if (!slot_tokens[slot])
      continue;
    int64_t row = (slot - topology->first_slot[s->rank]) * s->slot_size;
    terms[used[e]++] = peer == s->rank ? rows + (row + range.begin) * element : stage;
    if (peer == s->rank)
      continue;
    neapi_messages_add(&t->recv, stage, bytes, peer);
    stage += bytes;
  }
}

/* Whether a gradient of any rank has to travel: all ranks find the same. Of what is resident none
 * does, where each expert has one home. */
static bool any_travels(const neap_shards *s, const int32_t *expert_of, const int64_t *slot_tokens)
{
  const neap_topology *t = s->topology;
  if (!s->resident || t->homes < t->ranks)
    return true;
  for (int32_t slot = 0; slot < t->slots; slot++)
    if (slot_tokens[slot] && !neapi_shards_resident(s, expert_of[slot], t->rank_of[slot]))
      return true;
  return false;
}

/* Bytes that other ranks send to this one. */
static int64_t staging_bytes(const neap_shards *s, const int32_t *expert_of,
                             const int64_t *slot_tokens, int64_t element)
{
  int64_t bytes = 0;
  for (int32_t slot = 0; slot < s->topology->slots; slot++)
    if (slot_tokens[slot] && s->topology->rank_of[slot] != s->rank)
      bytes += (s->master_at[expert_of[slot] + 1] - s->master_at[expert_of[slot]]) * element;
  return bytes;
}

/* target[n] = the sum of the terms, in double and rounded once if exact. sum: [n] double. */
static int sum_terms(const neap_shards *s, int64_t n, int64_t count, const void *const *terms,
                     double *sum, void *target)
{
  const neapi_kernels *k = s->acc_kernels;
  if (!count)
    return k->fill(n, 0.0, target, neapi_stream());
  if (!s->exact)
    return k->sum(n, count, terms, target, neapi_stream());
  int status = k->sum_double(n, count, (const double *const *)terms, sum, neapi_stream());
  return status ? status : k->from_double(n, sum, target, neapi_stream());
}

static int sum_gradients(neap_transfer *t)
{
  neap_shards *s = t->shards;
  int64_t sums = s->exact ? s->largest_range * 8 : 0; /* then a range that is added */
  int status = neapi_buffer_reserve(&s->scratch, sums + (t->accumulates ? s->largest_range * 8 : 0),
                                    "reduce");
  if (status)
    return status;
  double *sum = s->scratch.data;
  int32_t from = 0;
  for (int32_t e = 0; !status && e < s->experts; e++) {
    int64_t n = s->master_at[e + 1] - s->master_at[e];
    const void *const *terms = (const void *const *)t->terms.data + from;
    char *gradient = s->part[NEAP_SHARD_GRADIENT] + s->master_at[e] * s->acc_kernels->size;
    void *target = t->accumulates ? (char *)s->scratch.data + sums : gradient;
    status = sum_terms(s, n, t->term_first[e + 1] - from, terms, sum, target);
    if (!status && t->accumulates)
      status = s->acc_kernels->add(n, gradient, target, gradient, neapi_stream());
    from = t->term_first[e + 1];
  }
  return neapi_kernel_status_of("reduce", status);
}

static int finish_reduce(neap_transfer *t)
{
  double begin = neap_timeline_begin(NEAP_SPAN_REDUCE);
  int status = sum_gradients(t);
  if (t->staging.memory == NEAPI_GPU) /* where allocating costs little, and memory is scarce */
    neapi_buffer_free(&t->staging);
  neap_timeline_end(NEAP_SPAN_REDUCE, begin);
  return status;
}

int neap_shards_reduce_start(neap_shards *s, const neap_layout *layout,
                             const neap_tensor *gradients, const int64_t *slot_tokens,
                             int accumulate, neap_transfer **out)
{
  int dtype = s->exact ? NEAP_F64 : s->acc;
  int64_t element = neap_dtype_size(dtype);
  int status = neapi_layout_require(layout, s->topology, "reduce");
  if (!status)
    status = neapi_tensor_matrix("reduce", "gradients", gradients, dtype, s->slots, s->slot_size);
  if (!status)
    status = neapi_layout_same("reduce", "it is", layout->hash, gradients->layout);
  if (status)
    return status;
  neap_transfer *t = neapi_transfer_acquire(s, 1);
  if (!t)
    return NEAP_MEMORY;
  status = neapi_messages_reserve(&t->send, (int64_t)s->slots * s->ranks);
  if (!status)
    status = neapi_messages_reserve(&t->recv, s->topology->slots);
  if (!status)
    status = neapi_buffer_reserve(
        &t->staging, staging_bytes(s, layout->expert_of, slot_tokens, element), "reduce");
  t->finish = finish_reduce;
  if (status)
    return neapi_transfer_started(t, status, out);
  char *rows = neap_tensor_data(gradients);
  t->stream = NEAP_REDUCE;
  t->accumulates = accumulate;
  list_gradients(t, layout->expert_of, slot_tokens, rows, element);
  list_terms(t, layout, slot_tokens, rows, element);
  if (any_travels(s, layout->expert_of, slot_tokens))
    status = neapi_transfer_exchange(t, NEAP_SPAN_REDUCE, -1, &s->traffic.reduce,
                                     &s->traffic.reduce_inter);
  return neapi_transfer_started(t, status, out);
}
