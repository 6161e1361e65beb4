/* SPDX-License-Identifier: Apache-2.0 */
/* Unshard: the slots of a rank get their experts from the shards, whole or only what has
 * changed. */
#include "device/timeline.h"
#include "layout/layout.h"
#include "moe/transfer.h"
#include "tensor/tensor.h"

/* Whether a slot has its expert already. base: what the slots have, or NULL: nothing but what is
 * resident. */
static bool is_kept(const neap_shards *s, const int32_t *expert_of, const int32_t *base,
                    int32_t slot)
{
  return (base && base[slot] == expert_of[slot]) ||
         neapi_shards_resident(s, expert_of[slot], s->topology->rank_of[slot]);
}

/* Whether any slot of any rank lacks its expert: all ranks find the same. */
static bool any_lacks(const neap_shards *s, const int32_t *expert_of, const int32_t *base)
{
  for (int32_t slot = 0; slot < s->topology->slots; slot++)
    if (!is_kept(s, expert_of, base, slot))
      return true;
  return false;
}

/* Where a slot that is not kept gets its expert from: a kept slot of the same rank with the same
 * expert, else the first of those that are not; if that is the slot itself, from other ranks. */
static int32_t source_of(const neap_shards *shards, const int32_t *expert_of, const int32_t *base,
                         int32_t slot)
{
  const neap_topology *t = shards->topology;
  int32_t rank = t->rank_of[slot], first = -1;
  for (int32_t s = t->first_slot[rank]; s < t->first_slot[rank + 1]; s++) {
    if (expert_of[s] != expert_of[slot])
      continue;
    if (is_kept(shards, expert_of, base, s))
      return s;
    first = first < 0 ? s : first;
  }
  return first;
}

/* This rank's working range of each expert that the other ranks of its group need in a chunk. */
static void list_outgoing(neap_transfer *t, const int32_t *expert_of, const int32_t *base,
                          int32_t chunk, int32_t chunks)
{
  const neap_shards *s = t->shards;
  const neap_topology *topology = s->topology;
  int32_t first = s->group_first[s->rank], end = first + s->group_size[s->rank];
  for (int32_t slot = topology->first_slot[first]; slot < topology->first_slot[end]; slot++) {
    int32_t e = expert_of[slot], peer = topology->rank_of[slot];
    int64_t bytes = s->now.working_at[e + 1] - s->now.working_at[e];
    if (peer != s->rank && neapi_topology_chunk(topology, slot, chunks) == chunk &&
        !is_kept(s, expert_of, base, slot) && source_of(s, expert_of, base, slot) == slot)
      neapi_messages_add(&t->send, s->now.working + s->now.working_at[e], bytes, peer);
  }
}

/* The ranges of one slot from the whole group; this rank's own is copied. row: the slot's, or where
 * it is staged. */
static void list_slot(neap_transfer *t, int32_t expert, char *row)
{
  const neap_shards *s = t->shards;
  int32_t first = s->group_first[s->rank];
  for (int32_t peer = first; peer < first + s->group_size[s->rank]; peer++) {
    neapi_shard_range range = neapi_shards_working(s, expert, peer);
    char *target = row + neapi_shards_bytes(s, range.begin);
    int64_t bytes = neapi_shards_bytes(s, range.end) - neapi_shards_bytes(s, range.begin);
    if (peer == s->rank)
      t->failed |= neapi_copy(target, s->now.working + s->now.working_at[expert], bytes);
    else
      neapi_messages_add(&t->recv, target, bytes, peer);
  }
}

/* Where a slot's ranges arrive. */
static char *received(const neap_transfer *t, int64_t slot)
{
  const neap_shards *s = t->shards;
  char *rows = s->packed ? t->staging.data : t->rows;
  return rows + slot * neapi_shards_bytes(s, s->slot_size);
}

static void list_incoming(neap_transfer *t, const int32_t *expert_of, const int32_t *base,
                          int32_t chunk, int32_t chunks)
{
  const neap_shards *s = t->shards;
  int32_t first = s->topology->first_slot[s->rank];
  int32_t from = neapi_slots_before(s->slots, chunks, chunk);
  for (int32_t i = from; i < neapi_slots_before(s->slots, chunks, chunk + 1); i++) {
    if (is_kept(s, expert_of, base, first + i))
      continue;
    int32_t source = source_of(s, expert_of, base, first + i) - first;
    if (source == i)
      list_slot(t, expert_of[first + i], received(t, i));
    if (source != i || s->packed)
      t->copies[t->copy_count++] = (row_copy){source, i, expert_of[first + i]};
  }
}

/* Slots before the first that lacks its expert are ready at once. */
static void set_ready(neap_transfer *t, const int32_t *expert_of, const int32_t *base)
{
  const neap_shards *s = t->shards;
  int32_t first = s->topology->first_slot[s->rank];
  while (t->ready < s->slots && is_kept(s, expert_of, base, first + t->ready))
    t->ready++;
}

/* A row from what has arrived for it in FP8. */
static int unpack_row(const neap_transfer *t, const row_copy *copy)
{
  const neap_shards *s = t->shards;
  return s->kernels->from_e4m3(s->sizes[copy->expert], received(t, copy->to),
                               t->rows + copy->to * s->slot_size * s->element, neapi_stream());
}

/* Rows of the first end slots, all of which have arrived: those that came in FP8, and those whose
 * expert another row has. */
static void copy_rows(neap_transfer *t, int32_t end)
{
  const neap_shards *s = t->shards;
  int64_t bytes = s->slot_size * s->element;
  if (t->copied == t->copy_count || t->copies[t->copied].to >= end)
    return;
  double begin = neap_timeline_begin(NEAP_SPAN_UNSHARD);
  for (; t->copied < t->copy_count && t->copies[t->copied].to < end; t->copied++) {
    const row_copy *copy = &t->copies[t->copied];
    t->failed |= copy->from == copy->to
                     ? neapi_kernel_status_of("unshard", unpack_row(t, copy))
                     : neapi_copy(t->rows + copy->to * bytes, t->rows + copy->from * bytes, bytes);
  }
  neap_timeline_end(NEAP_SPAN_UNSHARD, begin);
}

static int finish_unshard(neap_transfer *t)
{
  copy_rows(t, t->shards->slots);
  if (t->staging.memory == NEAPI_GPU) /* as after a reduce */
    neapi_buffer_free(&t->staging);
  return t->failed ? NEAP_SYSTEM : NEAP_OK;
}

static int start_unshard(neap_transfer *t, const int32_t *expert_of, int32_t chunks)
{
  neap_shards *s = t->shards;
  int status = NEAP_OK;
  set_ready(t, expert_of, NULL);
  if (!any_lacks(s, expert_of, NULL))
    return NEAP_OK;
  for (int32_t chunk = 0; !status && chunk < chunks; chunk++) {
    double begin = neap_timeline_begin(NEAP_SPAN_UNSHARD);
    t->send.count = t->recv.count = 0;
    list_outgoing(t, expert_of, NULL, chunk, chunks);
    list_incoming(t, expert_of, NULL, chunk, chunks);
    neap_timeline_end(NEAP_SPAN_UNSHARD, begin);
    status = neapi_transfer_exchange(t, NEAP_SPAN_UNSHARD, chunks > 1 ? chunk : -1,
                                     &s->traffic.unshard, &s->traffic.unshard_inter);
  }
  return status;
}

/* Makes room for the messages of an unshard into buffer. */
static int reserve_unshard(neap_transfer *t, const neap_layout *layout, neap_tensor *buffer)
{
  neap_shards *s = t->shards;
  int32_t first = s->group_first[s->rank], end = first + s->group_size[s->rank];
  int status = neapi_messages_reserve(&t->send, s->topology->first_slot[end] -
                                                    s->topology->first_slot[first]);
  if (!status)
    status = neapi_messages_reserve(&t->recv, (int64_t)s->slots * (end - first));
  if (!status && s->packed)
    status = neapi_buffer_reserve(&t->staging, s->slots * neapi_e4m3_bytes(s->slot_size),
                                  "unshard in FP8");
  t->rows = neap_tensor_data(buffer);
  buffer->layout = layout->hash;
  t->finish = finish_unshard;
  return status;
}

int neap_shards_unshard_start(neap_shards *s, const neap_layout *layout, neap_tensor *buffer,
                              int32_t chunks, neap_transfer **out)
{
  int status = neapi_layout_require(layout, s->topology, "unshard");
  if (!status)
    status = neapi_tensor_matrix("unshard", "buffer", buffer, s->dtype, s->slots, s->slot_size);
  if (!status && chunks < 1)
    status = neapi_fail(NEAP_ARGUMENT, "unshard: %d chunks; it must be 1 or more", chunks);
  if (status)
    return status;
  neap_transfer *t = neapi_transfer_acquire(s, chunks);
  if (!t)
    return NEAP_MEMORY;
  status = reserve_unshard(t, layout, buffer);
  if (!status)
    status = start_unshard(t, layout->expert_of, chunks);
  return neapi_transfer_started(t, status, out);
}

static int start_changes(neap_transfer *t, const int32_t *expert_of, const int32_t *base)
{
  neap_shards *s = t->shards;
  t->stream = NEAP_LATE;
  set_ready(t, expert_of, base);
  if (!any_lacks(s, expert_of, base))
    return NEAP_OK;
  double begin = neap_timeline_begin(NEAP_SPAN_LATE);
  list_outgoing(t, expert_of, base, 0, 1);
  list_incoming(t, expert_of, base, 0, 1);
  neap_timeline_end(NEAP_SPAN_LATE, begin);
  return neapi_transfer_exchange(t, NEAP_SPAN_LATE, -1, &s->traffic.late, &s->traffic.late_inter);
}

int neap_shards_unshard_changes_start(neap_shards *s, const neap_layout *base,
                                      const neap_layout *layout, neap_tensor *buffer,
                                      neap_transfer **out)
{
  int status = neapi_layout_require(base, s->topology, "unshard of changes");
  if (!status)
    status = neapi_layout_require(layout, s->topology, "unshard of changes");
  if (!status)
    status = neapi_tensor_matrix("unshard of changes", "buffer", buffer, s->dtype, s->slots,
                                 s->slot_size);
  if (!status && buffer->layout != base->hash)
    status = neapi_fail(NEAP_LAYOUT,
                        "unshard of changes: the buffer has layout %016llx, base is %016llx",
                        (unsigned long long)buffer->layout, (unsigned long long)base->hash);
  if (status)
    return status;
  neap_transfer *t = neapi_transfer_acquire(s, 1);
  if (!t)
    return NEAP_MEMORY;
  status = reserve_unshard(t, layout, buffer);
  if (!status)
    status = start_changes(t, layout->expert_of, base->expert_of);
  return neapi_transfer_started(t, status, out);
}

/* Slots, from the first on, that have their experts. */
static int32_t slots_ready(const neap_transfer *t)
{
  if (!t->exchanges)
    return t->shards->slots;
  int32_t arrived = neapi_slots_before(t->shards->slots, t->exchanges, t->arrived);
  return arrived > t->ready ? arrived : t->ready;
}

int neapi_transfer_wait_slot(neap_transfer *t, int32_t slot, int32_t *end)
{
  int32_t ready = slots_ready(t);
  while (ready <= slot) {
    int status = neapi_transfer_wait_next(t);
    if (status)
      return status;
    ready = slots_ready(t);
    copy_rows(t, ready);
  }
  *end = ready < *end ? ready : *end;
  return t->failed ? NEAP_SYSTEM : NEAP_OK;
}
