/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers of a shard store: their memory, messages and waiting.
 *
 * Both sides list their messages by the same nesting (slots ascending, or experts ascending), which
 * is what pairs the i-th message to a rank with the i-th from it.
 */
#include "moe/transfer.h"

#include "device/timeline.h"

#include <stdlib.h>

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

neap_transfer *neapi_transfer_acquire(neap_shards *s, int32_t exchanges)
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

int neapi_transfer_wait_next(neap_transfer *t)
{
  neap_request **requests = t->requests.data;
  return neap_request_wait(requests[t->arrived++]);
}

/* Waits for the exchanges that have not been waited for. Returns the first failure. */
static int drain(neap_transfer *t)
{
  int status = NEAP_OK;
  while (t->arrived < t->exchanges) {
    int failed = neapi_transfer_wait_next(t);
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

int neapi_messages_reserve(neapi_messages *list, int64_t count)
{
  list->count = 0;
  return neapi_buffer_reserve(&list->buffer, count * (int64_t)sizeof(neap_message),
                              "shards: messages");
}

void neapi_messages_add(neapi_messages *list, void *data, int64_t bytes, int32_t peer)
{
  if (bytes)
    ((neap_message *)list->buffer.data)[list->count++] = (neap_message){data, bytes, peer};
}

int neapi_transfer_exchange(neap_transfer *t, int id, int32_t chunk, int64_t *total, int64_t *inter)
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

int neapi_transfer_started(neap_transfer *t, int status, neap_transfer **out)
{
  if (status) {
    drain(t);
    release(t);
  } else {
    *out = t;
  }
  return status;
}

/* ---- waiting --------------------------------------------------------------------------------- */

int neap_transfer_wait(neap_transfer *t)
{
  if (!t)
    return neapi_fail(NEAP_ARGUMENT, "transfer wait: no transfer");
  int status = drain(t);
  if (!status)
    status = t->finish(t);
  release(t);
  return status;
}
