/*
 * Transfers of a shard store: unshard, reduce and refresh, each one grouped exchange.
 *
 * Both sides list their messages by the same nesting (slots ascending, or experts ascending), which
 * is what pairs the i-th message to a rank with the i-th from it.
 */
#include "base/memory.h"
#include "device/timeline.h"
#include "layout/layout.h"
#include "moe/shards.h"
#include "tensor/tensor.h"

#include <string.h>

/* A growing list of messages. */
typedef struct {
  neapi_buffer buffer;
  int64_t count;
} messages;

/* Rows of the slots' buffer. */
typedef struct {
  int64_t from, to;
} row_copy;

struct neap_transfer {
  neap_shards *shards;
  neap_transfer *next;
  neapi_buffer requests; /* neap_request *[exchanges]; of unshard: the c-th brings the c-th chunk of
                            the slots */
  int32_t exchanges, arrived; /* 0 of them: nothing has to move */
  messages send, recv;        /* of one chunk */
  row_copy *copies;           /* [slots] of unshard, by to */
  int32_t copy_count, copied;
  char *rows;    /* of unshard: the slots' buffer */
  int32_t ready; /* of an unshard of changes: slots before the first changed one */
  int stream;    /* NEAP_UNSHARD, also of a refresh; NEAP_LATE or NEAP_REDUCE */
  bool accumulates;
  int failed;           /* copies within this rank */
  neapi_buffer terms;   /* [S] const void *: what an expert's range is the sum of, by expert */
  int32_t *term_first;  /* [experts + 1] */
  neapi_buffer staging; /* what has come from other ranks */
};

/* ---- life ------------------------------------------------------------------------------------ */

static void free_transfer(neap_transfer *t)
{
  if (!t)
    return;
  neapi_buffer_free(&t->send.buffer);
  neapi_buffer_free(&t->recv.buffer);
  neapi_buffer_free(&t->terms);
  neapi_buffer_free(&t->staging);
  neapi_buffer_free(&t->requests);
  free(t->copies);
  free(t->term_first);
  free(t);
}

static neap_transfer *make_transfer(neap_shards *s)
{
  neap_transfer *t = neapi_alloc_zero(sizeof *t, "shards: transfer");
  if (!t)
    return NULL;
  t->shards = s;
  t->staging.memory = s->memory;
  t->copies = neapi_alloc(s->slots * (int64_t)sizeof *t->copies, "shards: transfer");
  t->term_first = neapi_alloc(s->experts * 4ll + 4, "shards: transfer");
  int64_t terms = s->topology->slots * (int64_t)sizeof(void *);
  if (!t->copies || !t->term_first || neapi_buffer_reserve(&t->terms, terms, "shards: transfer")) {
    free_transfer(t);
    return NULL;
  }
  return t;
}

static void release(neap_transfer *t)
{
  neap_shards *s = t->shards;
  neap_transfer **at = &s->active;
  while (*at != t)
    at = &(*at)->next;
  *at = t->next;
  t->next = s->idle;
  s->idle = t;
}

/* A transfer of at most so many exchanges from the idle ones, or a new one. */
static neap_transfer *acquire(neap_shards *s, int32_t exchanges)
{
  neap_transfer *t = s->idle;
  if (t)
    s->idle = t->next;
  else
    t = make_transfer(s);
  if (!t)
    return NULL;
  t->next = s->active;
  s->active = t;
  t->exchanges = t->arrived = 0;
  t->send.count = t->recv.count = 0;
  t->copy_count = t->copied = t->failed = 0;
  t->ready = 0;
  t->stream = NEAP_UNSHARD;
  int64_t bytes = exchanges * (int64_t)sizeof(neap_request *);
  if (!neapi_buffer_reserve(&t->requests, bytes, "shards: transfer"))
    return t;
  release(t);
  return NULL;
}

/* Waits for the next exchange. */
static int wait_next(neap_transfer *t)
{
  neap_request **requests = t->requests.data;
  return neap_request_wait(requests[t->arrived++]);
}

/* Waits for the exchanges that have not been waited for. Returns the first failure. */
static int drain(neap_transfer *t)
{
  int status = NEAP_OK;
  while (t->arrived < t->exchanges) {
    int failed = wait_next(t);
    status = status ? status : failed;
  }
  return status;
}

void neapi_transfers_close(neap_shards *s)
{
  while (s->active) {
    drain(s->active);
    release(s->active);
  }
  while (s->idle) {
    neap_transfer *next = s->idle->next;
    free_transfer(s->idle);
    s->idle = next;
  }
}

/* ---- messages -------------------------------------------------------------------------------- */

static int reserve(messages *list, int64_t count)
{
  list->count = 0;
  return neapi_buffer_reserve(&list->buffer, count * (int64_t)sizeof(neap_message),
                              "shards: messages");
}

static void add(messages *list, void *data, int64_t bytes, int32_t peer)
{
  if (bytes)
    ((neap_message *)list->buffer.data)[list->count++] = (neap_message){data, bytes, peer};
}

/* Starts the exchange of what is listed as the transfer's next chunk; counts what is sent in total
 * and inter. id, chunk: of the span. */
static int start_exchange(neap_transfer *t, int id, int32_t chunk, int64_t *total, int64_t *inter)
{
  neap_shards *s = t->shards;
  const int32_t *node_of = s->topology->node_of;
  const neap_message *send = t->send.buffer.data;
  neap_request **requests = t->requests.data;
  neapi_timeline_label(id, t->stream, chunk);
  int status = neap_comm_exchange_start(t->stream == NEAP_UNSHARD ? s->comm : s->reduces, send,
                                        t->send.count, t->recv.buffer.data, t->recv.count,
                                        &requests[t->exchanges]);
  if (status)
    return status;
  t->exchanges++;
  for (int64_t i = 0; i < t->send.count; i++) {
    *total += send[i].bytes;
    if (node_of[send[i].peer] != node_of[s->rank])
      *inter += send[i].bytes;
  }
  return NEAP_OK;
}

/* Hands out a transfer that was started, or takes it back. */
static int started(neap_transfer *t, int status, neap_transfer **out)
{
  if (status) {
    drain(t);
    release(t);
  } else {
    *out = t;
  }
  return status;
}

/* ---- unshard --------------------------------------------------------------------------------- */

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
    int64_t bytes = (s->working_at[e + 1] - s->working_at[e]) * s->element;
    if (peer != s->rank && neapi_topology_chunk(topology, slot, chunks) == chunk &&
        !is_kept(s, expert_of, base, slot) && source_of(s, expert_of, base, slot) == slot)
      add(&t->send, s->working + s->working_at[e] * s->element, bytes, peer);
  }
}

/* The ranges of one slot from the whole group; this rank's own is copied. */
static void list_slot(neap_transfer *t, int32_t expert, char *row)
{
  const neap_shards *s = t->shards;
  int32_t first = s->group_first[s->rank];
  for (int32_t peer = first; peer < first + s->group_size[s->rank]; peer++) {
    neapi_shard_range range = neapi_shards_working(s, expert, peer);
    char *target = row + range.begin * s->element;
    int64_t bytes = (range.end - range.begin) * s->element;
    if (peer == s->rank)
      t->failed |= neapi_copy(target, s->working + s->working_at[expert] * s->element, bytes);
    else
      add(&t->recv, target, bytes, peer);
  }
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
      list_slot(t, expert_of[first + i], t->rows + i * s->slot_size * s->element);
    else
      t->copies[t->copy_count++] = (row_copy){source, i};
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
    status = start_exchange(t, NEAP_SPAN_UNSHARD, chunks > 1 ? chunk : -1, &s->traffic.unshard,
                            &s->traffic.unshard_inter);
  }
  return status;
}

/* Makes room for the messages of an unshard into buffer. */
static int reserve_unshard(neap_transfer *t, const neap_layout *layout, neap_tensor *buffer)
{
  neap_shards *s = t->shards;
  int32_t first = s->group_first[s->rank], end = first + s->group_size[s->rank];
  int status = reserve(&t->send, s->topology->first_slot[end] - s->topology->first_slot[first]);
  if (!status)
    status = reserve(&t->recv, (int64_t)s->slots * (end - first));
  t->rows = neap_tensor_data(buffer);
  buffer->layout = layout->hash;
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
  neap_transfer *t = acquire(s, chunks);
  if (!t)
    return NEAP_MEMORY;
  status = reserve_unshard(t, layout, buffer);
  if (!status)
    status = start_unshard(t, layout->expert_of, chunks);
  return started(t, status, out);
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
  return start_exchange(t, NEAP_SPAN_LATE, -1, &s->traffic.late, &s->traffic.late_inter);
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
  neap_transfer *t = acquire(s, 1);
  if (!t)
    return NEAP_MEMORY;
  status = reserve_unshard(t, layout, buffer);
  if (!status)
    status = start_changes(t, layout->expert_of, base->expert_of);
  return started(t, status, out);
}

/* Rows whose expert another row of the first end slots has; those have arrived. */
static void copy_rows(neap_transfer *t, int32_t end)
{
  const neap_shards *s = t->shards;
  int64_t bytes = s->slot_size * s->element;
  if (t->copied == t->copy_count || t->copies[t->copied].to >= end)
    return;
  double begin = neap_timeline_begin(NEAP_SPAN_UNSHARD);
  for (; t->copied < t->copy_count && t->copies[t->copied].to < end; t->copied++) {
    const row_copy *copy = &t->copies[t->copied];
    t->failed |= neapi_copy(t->rows + copy->to * bytes, t->rows + copy->from * bytes, bytes);
  }
  neap_timeline_end(NEAP_SPAN_UNSHARD, begin);
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
    int status = wait_next(t);
    if (status)
      return status;
    ready = slots_ready(t);
    copy_rows(t, ready);
  }
  *end = ready < *end ? ready : *end;
  return t->failed ? NEAP_SYSTEM : NEAP_OK;
}

/* ---- reduce ---------------------------------------------------------------------------------- */

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
        add(&t->send, row + range.begin * element, (range.end - range.begin) * element, peer);
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
    add(&t->recv, stage, bytes, peer);
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
  neap_transfer *t = acquire(s, 1);
  if (!t)
    return NEAP_MEMORY;
  status = reserve(&t->send, (int64_t)s->slots * s->ranks);
  if (!status)
    status = reserve(&t->recv, s->topology->slots);
  if (!status)
    status = neapi_buffer_reserve(
        &t->staging, staging_bytes(s, layout->expert_of, slot_tokens, element), "reduce");
  if (status)
    return started(t, status, out);
  char *rows = neap_tensor_data(gradients);
  t->stream = NEAP_REDUCE;
  t->accumulates = accumulate;
  list_gradients(t, layout->expert_of, slot_tokens, rows, element);
  list_terms(t, layout, slot_tokens, rows, element);
  if (any_travels(s, layout->expert_of, slot_tokens))
    status = start_exchange(t, NEAP_SPAN_REDUCE, -1, &s->traffic.reduce, &s->traffic.reduce_inter);
  return started(t, status, out);
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

static int finish_reduce(neap_transfer *t)
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

/* ---- refresh --------------------------------------------------------------------------------- */

static neapi_shard_range intersect(neapi_shard_range a, neapi_shard_range b)
{
  int64_t begin = a.begin > b.begin ? a.begin : b.begin, end = a.end < b.end ? a.end : b.end;
  return (neapi_shard_range){begin, end > begin ? end : begin};
}

/* Of one expert: this rank's master range to all whose working range it meets, and back. */
static void list_refresh(neap_transfer *t, int32_t e)
{
  const neap_shards *s = t->shards;
  neapi_shard_range master = neapi_shards_master(s, e, s->rank);
  neapi_shard_range working = neapi_shards_working(s, e, s->rank);
  char *from = s->current + (s->master_at[e] - master.begin) * s->element;
  char *to = s->working + (s->working_at[e] - working.begin) * s->element;
  for (int32_t peer = 0; peer < s->ranks; peer++) {
    neapi_shard_range out = intersect(master, neapi_shards_working(s, e, peer));
    neapi_shard_range in = intersect(neapi_shards_master(s, e, peer), working);
    if (peer == s->rank) {
      t->failed |= neapi_copy(to + in.begin * s->element, from + in.begin * s->element,
                              (in.end - in.begin) * s->element);
      continue;
    }
    add(&t->send, from + out.begin * s->element, (out.end - out.begin) * s->element, peer);
    add(&t->recv, to + in.begin * s->element, (in.end - in.begin) * s->element, peer);
  }
}

/* What the master's parameters are in the working dtype. */
static int round_master(neap_shards *s)
{
  const char *master = s->part[NEAP_SHARD_PARAMETER];
  if (s->current == master)
    return NEAP_OK;
  return neapi_kernel_status_of("refresh",
                                s->kernels->from_acc(s->owned, master, s->current, neapi_stream()));
}

int neap_shards_refresh_start(neap_shards *s, neap_transfer **out)
{
  neap_transfer *t = acquire(s, 1);
  if (!t)
    return NEAP_MEMORY;
  int64_t most = (int64_t)s->experts * s->ranks;
  bool moves = s->group_size[0] != s->ranks;
  int status = round_master(s);
  if (!status)
    status = reserve(&t->send, most);
  if (!status)
    status = reserve(&t->recv, most);
  for (int32_t e = 0; !status && moves && e < s->experts; e++)
    list_refresh(t, e);
  if (!status && moves)
    status =
        start_exchange(t, NEAP_SPAN_REFRESH, -1, &s->traffic.refresh, &s->traffic.refresh_inter);
  return started(t, status, out);
}

/* ---- waiting --------------------------------------------------------------------------------- */

int neap_transfer_wait(neap_transfer *t)
{
  if (!t)
    return neapi_fail(NEAP_ARGUMENT, "transfer wait: no transfer");
  int status = drain(t);
  if (!status && t->stream == NEAP_REDUCE) {
    double begin = neap_timeline_begin(NEAP_SPAN_REDUCE);
    status = finish_reduce(t);
    if (t->staging.memory == NEAPI_GPU) /* where allocating costs little, and memory is scarce */
      neapi_buffer_free(&t->staging);
    neap_timeline_end(NEAP_SPAN_REDUCE, begin);
  } else if (!status) {
    copy_rows(t, t->shards->slots);
    status = t->failed ? NEAP_SYSTEM : NEAP_OK;
  }
  release(t);
  return status;
}
