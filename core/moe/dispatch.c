/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of tokens and their exchanges. */
#include "moe/dispatch.h"

#include "base/memory.h"

#include <string.h>

static int allocate(neapi_dispatch *d)
{
  const neap_topology *t = d->topology;
  int64_t pairs = (int64_t)d->slots * t->ranks, messages = 2 * (t->slots + pairs);
  const struct {
    void *where;
    int64_t bytes;
  } needs[] = {{&d->tokens, t->slots * 8ll},
               {&d->column, pairs * 8},
               {&d->slot_tokens, t->slots * 8ll},
               {&d->start, t->slots * 8ll},
               {&d->batch, d->slots * 8ll},
               {&d->sends, t->slots * (int64_t)sizeof(neapi_dispatch_message)},
               {&d->receives, pairs * (int64_t)sizeof(neapi_dispatch_message)},
               {&d->send, messages * (int64_t)sizeof(neap_message)},
               {&d->recv, messages * (int64_t)sizeof(neap_message)},
               {&d->requests, 2 * d->chunks * (int64_t)sizeof(neap_request *)}};
  for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
    void *memory = neapi_alloc_zero(needs[i].bytes, "moe dispatch");
    if (!memory)
      return NEAP_MEMORY;
    memcpy(needs[i].where, &memory, sizeof memory);
  }
  return NEAP_OK;
}

int neapi_dispatch_open(neapi_dispatch *d, neap_comm *comm, neap_topology *topology,
                        int64_t mark_bytes, int32_t chunks)
{
  int32_t rank = neap_comm_rank(comm);
  *d = (neapi_dispatch){.comm = comm,
                        .topology = topology,
                        .rank = rank,
                        .slots = topology->first_slot[rank + 1] - topology->first_slot[rank],
                        .chunks = chunks,
                        .mark_bytes = mark_bytes};
  return allocate(d);
}

void neapi_dispatch_drain(neapi_dispatch *d)
{
  for (int32_t i = 0; d->requests && i < 2 * d->chunks; i++) {
    if (d->requests[i])
      neap_request_wait(d->requests[i]);
    d->requests[i] = NULL;
  }
}

void neapi_dispatch_close(neapi_dispatch *d)
{
  neapi_dispatch_drain(d);
  void *memory[] = {d->tokens, d->column,   d->slot_tokens, d->start, d->batch,
                    d->sends,  d->receives, d->send,        d->recv,  d->requests};
  for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
    free(memory[i]);
}

/* ---- rows ------------------------------------------------------------------------------------ */

void neapi_dispatch_slots(const neapi_dispatch *d, int32_t chunk, int32_t *from, int32_t *end)
{
  *from = neapi_slots_before(d->slots, d->chunks, chunk);
  *end = neapi_slots_before(d->slots, d->chunks, chunk + 1);
}

/* Numbers the rows of this rank's slots, and lists what comes from other ranks. */
static void number_batches(neapi_dispatch *d)
{
  int32_t first = d->topology->first_slot[d->rank];
  int64_t row = 0;
  d->receive_count = 0;
  for (int32_t i = 0; i < d->slots; i++) {
    int64_t begin = row;
    for (int32_t peer = 0; peer < d->topology->ranks; peer++) {
      int64_t rows = d->column[(int64_t)peer * d->slots + i];
      if (peer == d->rank)
        d->start[first + i] = row;
      else if (rows)
        d->receives[d->receive_count++] = (neapi_dispatch_message){
            row, rows, peer, neapi_topology_chunk(d->topology, first + i, d->chunks)};
      row += rows;
    }
    d->batch[i] = row - begin;
  }
  d->rows = row;
}

/* Numbers the rows of this rank's tokens that other ranks compute, and lists them. */
static void number_sends(neapi_dispatch *d)
{
  int64_t row = d->rows;
  d->send_count = 0;
  for (int32_t s = 0; s < d->topology->slots; s++) {
    int32_t peer = d->topology->rank_of[s];
    if (peer == d->rank || !d->tokens[s])
      continue;
    d->start[s] = row;
    d->sends[d->send_count++] = (neapi_dispatch_message){
        row, d->tokens[s], peer, neapi_topology_chunk(d->topology, s, d->chunks)};
    row += d->tokens[s];
  }
  d->all_rows = row;
}

int neapi_dispatch_plan(neapi_dispatch *d, const neap_split *split)
{
  int status = neap_split_row(split, d->rank, d->tokens);
  if (!status)
    status = neap_split_column(split, d->rank, d->column);
  if (!status)
    status = neap_split_slot_tokens(split, d->slot_tokens);
  if (status)
    return status;
  number_batches(d);
  number_sends(d);
  if (d->all_rows > INT32_MAX)
    return neapi_fail(NEAP_ARGUMENT, "moe dispatch: %lld rows on a rank; allowed are 2^31 - 1",
                      (long long)d->all_rows);
  return NEAP_OK;
}

/* ---- exchanges ------------------------------------------------------------------------------- */

/* Returns how many there are; NULL: of no rows. */
static int64_t list_messages(const neapi_dispatch_message *list, int64_t count, int32_t chunk,
                             void *rows, int64_t bytes, neap_message *out)
{
  int64_t used = 0;
  for (int64_t i = 0; rows && i < count; i++)
    if (list[i].chunk == chunk)
      out[used++] =
          (neap_message){(char *)rows + list[i].row * bytes, list[i].rows * bytes, list[i].peer};
  return used;
}

int neapi_dispatch_start(neapi_dispatch *d, int32_t chunk, bool back, int64_t row_bytes, void *rows,
                         void *marks)
{
  if (neap_comm_size(d->comm) == 1) /* nobody to exchange with, and no reason to meet anybody */
    return NEAP_OK;
  const neapi_dispatch_message *out = back ? d->receives : d->sends,
                               *in = back ? d->sends : d->receives;
  int64_t outs = back ? d->receive_count : d->send_count,
          ins = back ? d->send_count : d->receive_count;
  int64_t sends = list_messages(out, outs, chunk, rows, row_bytes, d->send);
  int64_t recvs = list_messages(in, ins, chunk, rows, row_bytes, d->recv);
  sends += list_messages(out, outs, chunk, marks, d->mark_bytes, d->send + sends);
  recvs += list_messages(in, ins, chunk, marks, d->mark_bytes, d->recv + recvs);
  for (int64_t i = 0; i < sends; i++)
    d->sent += d->send[i].bytes;
  return neap_comm_exchange_start(d->comm, d->send, sends, d->recv, recvs,
                                  &d->requests[back * d->chunks + chunk]);
}

int neapi_dispatch_wait(neapi_dispatch *d, int32_t chunk, bool back)
{
  neap_request **request = &d->requests[back * d->chunks + chunk];
  neap_request *waiting = *request;
  *request = NULL;
  return waiting ? neap_request_wait(waiting) : NEAP_OK;
}
