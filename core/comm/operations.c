/* SPDX-License-Identifier: Apache-2.0 */
/* The public operations of a communicator: they check their arguments and make requests. */
#include "comm/comm.h"

#include "base/dtype.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- argument checks ------------------------------------------------------------------------- */

static int check_comm(const neap_comm *comm, int kind)
{
  return comm ? NEAP_OK
              : neapi_fail(NEAP_ARGUMENT, "comm_%s: no communicator; open one first",
                           neapi_kind_name(kind));
}

static int check_dtype(int kind, int dtype)
{
  if (neap_dtype_size(dtype))
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "comm_%s: dtype %d; allowed are 0 (f32) to %d (u8)",
                    neapi_kind_name(kind), dtype, NEAP_U8);
}

static int check_reduction(int kind, int dtype, int op)
{
  int status = check_dtype(kind, dtype);
  if (status)
    return status;
  if (dtype > NEAP_I64)
    return neapi_fail(NEAP_ARGUMENT, "comm_%s: dtype %d (%s); allowed are f32, f64, i32, i64",
                      neapi_kind_name(kind), dtype, neapi_dtype_name(dtype));
  if (op < NEAP_SUM || op > NEAP_MIN)
    return neapi_fail(NEAP_ARGUMENT, "comm_%s: operation %d; allowed are 0 (sum), 1 (max), 2 (min)",
                      neapi_kind_name(kind), op);
  return NEAP_OK;
}

static int check_data(int kind, const char *what, const void *data, int64_t bytes)
{
  if (data || !bytes)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "comm_%s: %s is NULL but has %" PRId64 " bytes",
                    neapi_kind_name(kind), what, bytes);
}

/* Elements to bytes. */
static int check_count(int kind, const char *what, int64_t count, int64_t size, int64_t *bytes)
{
  if (count >= 0 && !__builtin_mul_overflow(count, size, bytes))
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "comm_%s: %s is %" PRId64 "; allowed are 0 to %" PRId64,
                    neapi_kind_name(kind), what, count, INT64_MAX / size);
}

/* Sum of counts[size] elements in bytes; *mine: those of this rank. */
static int check_counts(const neap_comm *comm, int kind, const char *what, const int64_t *counts,
                        int64_t size, int64_t *total, int64_t *mine)
{
  if (!counts)
    return neapi_fail(NEAP_ARGUMENT, "comm_%s: %s is NULL; give one count per rank",
                      neapi_kind_name(kind), what);
  *total = 0;
  for (int32_t r = 0; r < comm->size; r++) {
    char name[48];
    int64_t bytes = 0;
    snprintf(name, sizeof name, "%s[%d]", what, r);
    int status = check_count(kind, name, counts[r], size, &bytes);
    if (status)
      return status;
    if (__builtin_add_overflow(*total, bytes, total))
      return neapi_fail(NEAP_ARGUMENT, "comm_%s: %s add up to more than %" PRId64 " bytes",
                        neapi_kind_name(kind), what, INT64_MAX);
    if (r == comm->rank)
      *mine = bytes;
  }
  return NEAP_OK;
}

static int check_messages(const neap_comm *comm, const char *what, const neap_message *messages,
                          int64_t count, int64_t *total)
{
  if (count < 0 || count > INT32_MAX)
    return neapi_fail(NEAP_ARGUMENT, "comm_exchange: %" PRId64 " %ss; allowed are 0 to %d", count,
                      what, INT32_MAX);
  if (!messages && count)
    return neapi_fail(NEAP_ARGUMENT, "comm_exchange: no list but %" PRId64 " %ss", count, what);
  for (int64_t i = 0; i < count; i++) {
    const neap_message *m = &messages[i];
    if (m->peer < 0 || m->peer >= comm->size)
      return neapi_fail(NEAP_ARGUMENT,
                        "comm_exchange: %s %" PRId64 " has peer %d; allowed are 0 to %d", what, i,
                        m->peer, comm->size - 1);
    if (m->bytes < 0 || __builtin_add_overflow(*total, m->bytes, total))
      return neapi_fail(NEAP_ARGUMENT,
                        "comm_exchange: %s %" PRId64 " has %" PRId64
                        " bytes; allowed are 0 to %" PRId64 " in all",
                        what, i, m->bytes, INT64_MAX);
    int status = check_data(NEAPI_EXCHANGE, what, m->data, m->bytes);
    if (status)
      return status;
  }
  return NEAP_OK;
}

/* What a rank sends to itself it must also receive. */
static int check_own(int kind, const neap_request *request)
{
  int64_t sends = request->own_sends, recvs = request->own_recvs;
  if (sends != recvs)
    return neapi_fail(NEAP_SHAPE,
                      "comm_%s: rank %d sends %" PRId64 " messages to itself but receives %" PRId64,
                      neapi_kind_name(kind), request->comm->rank, sends, recvs);
  for (int64_t i = 0; i < sends; i++)
    if (request->own_send[i].bytes != request->own_recv[i].bytes)
      return neapi_fail(NEAP_SHAPE,
                        "comm_%s: rank %d sends %" PRId64 " bytes to itself but receives %" PRId64,
                        neapi_kind_name(kind), request->comm->rank, request->own_send[i].bytes,
                        request->own_recv[i].bytes);
  return NEAP_OK;
}

/* ---- operations ------------------------------------------------------------------------------ */

int neap_comm_barrier(neap_comm *comm)
{
  int status = check_comm(comm, NEAPI_BARRIER);
  if (status)
    return status;
  neapi_call call = {.kind = NEAPI_BARRIER, .dtype = -1};
  neap_request *request = neapi_request_open(comm, &call, 0, 0, false);
  return request ? neapi_request_submit(request, NULL) : NEAP_MEMORY;
}

int neap_comm_broadcast(neap_comm *comm, void *data, int64_t bytes, int32_t root)
{
  int status = check_comm(comm, NEAPI_BROADCAST);
  if (!status)
    status = check_count(NEAPI_BROADCAST, "bytes", bytes, 1, &bytes);
  if (!status)
    status = check_data(NEAPI_BROADCAST, "data", data, bytes);
  if (status)
    return status;
  if (root < 0 || root >= comm->size)
    return neapi_fail(NEAP_ARGUMENT, "comm_broadcast: root %d; allowed are 0 to %d", root,
                      comm->size - 1);
  neapi_call call = {.kind = NEAPI_BROADCAST, .dtype = -1, .detail = root, .bytes = bytes};
  neap_request *request = neapi_request_open(comm, &call, 0, 0, false);
  if (!request)
    return NEAP_MEMORY;
  request->data = data;
  return neapi_request_submit(request, NULL);
}

int neap_comm_all_reduce(neap_comm *comm, void *data, int64_t count, int dtype, int op)
{
  int64_t bytes = 0;
  int status = check_comm(comm, NEAPI_ALL_REDUCE);
  if (!status)
    status = check_reduction(NEAPI_ALL_REDUCE, dtype, op);
  if (!status)
    status = check_count(NEAPI_ALL_REDUCE, "count", count, neap_dtype_size(dtype), &bytes);
  if (!status)
    status = check_data(NEAPI_ALL_REDUCE, "data", data, bytes);
  if (status)
    return status;
  neapi_call call = {.kind = NEAPI_ALL_REDUCE, .dtype = dtype, .detail = op, .bytes = bytes};
  neap_request *request = neapi_request_open(comm, &call, 0, 0, false);
  if (!request)
    return NEAP_MEMORY;
  request->data = data;
  request->count = count;
  return neapi_request_submit(request, NULL);
}

int neap_comm_all_gather(neap_comm *comm, const void *send, void *recv, const int64_t *counts,
                         int dtype)
{
  int64_t total = 0, mine = 0, size = neap_dtype_size(dtype);
  int status = check_comm(comm, NEAPI_ALL_GATHER);
  if (!status)
    status = check_dtype(NEAPI_ALL_GATHER, dtype);
  if (!status)
    status = check_counts(comm, NEAPI_ALL_GATHER, "counts", counts, size, &total, &mine);
  if (!status)
    status = check_data(NEAPI_ALL_GATHER, "send", send, mine);
  if (!status)
    status = check_data(NEAPI_ALL_GATHER, "recv", recv, total);
  if (status)
    return status;
  neapi_call call = {.kind = NEAPI_ALL_GATHER, .dtype = dtype, .bytes = total};
  neap_request *request = neapi_request_open(comm, &call, comm->size, comm->size, false);
  if (!request)
    return NEAP_MEMORY;
  char *to = recv;
  for (int32_t r = 0; r < comm->size; to += counts[r++] * size) {
    if (mine)
      neapi_request_send(request, send, mine, r);
    if (counts[r])
      neapi_request_recv(request, to, counts[r] * size, r);
  }
  return neapi_request_submit(request, NULL);
}

int neap_comm_reduce_scatter(neap_comm *comm, const void *send, void *recv, const int64_t *counts,
                             int dtype, int op)
{
  int64_t total = 0, mine = 0, size = neap_dtype_size(dtype);
  int status = check_comm(comm, NEAPI_REDUCE_SCATTER);
  if (!status)
    status = check_reduction(NEAPI_REDUCE_SCATTER, dtype, op);
  if (!status)
    status = check_counts(comm, NEAPI_REDUCE_SCATTER, "counts", counts, size, &total, &mine);
  if (!status)
    status = check_data(NEAPI_REDUCE_SCATTER, "send", send, total);
  if (!status)
    status = check_data(NEAPI_REDUCE_SCATTER, "recv", recv, mine);
  if (status)
    return status;
  neapi_call call = {.kind = NEAPI_REDUCE_SCATTER, .dtype = dtype, .detail = op, .bytes = total};
  neap_request *request = neapi_request_open(comm, &call, 0, 0, true);
  if (!request)
    return NEAP_MEMORY;
  request->input = send;
  request->data = recv;
  memcpy(request->counts, counts, (size_t)comm->size * sizeof *counts);
  return neapi_request_submit(request, NULL);
}

int neap_comm_all_to_all(neap_comm *comm, const void *send, const int64_t *send_counts, void *recv,
                         const int64_t *recv_counts, int dtype)
{
  int64_t sent = 0, received = 0, mine = 0, size = neap_dtype_size(dtype);
  int status = check_comm(comm, NEAPI_ALL_TO_ALL);
  if (!status)
    status = check_dtype(NEAPI_ALL_TO_ALL, dtype);
  if (!status)
    status = check_counts(comm, NEAPI_ALL_TO_ALL, "send_counts", send_counts, size, &sent, &mine);
  if (!status)
    status =
        check_counts(comm, NEAPI_ALL_TO_ALL, "recv_counts", recv_counts, size, &received, &mine);
  if (!status)
    status = check_data(NEAPI_ALL_TO_ALL, "send", send, sent);
  if (!status)
    status = check_data(NEAPI_ALL_TO_ALL, "recv", recv, received);
  if (status)
    return status;
  neapi_call call = {.kind = NEAPI_ALL_TO_ALL, .dtype = dtype, .bytes = sent};
  neap_request *request = neapi_request_open(comm, &call, comm->size, comm->size, false);
  if (!request)
    return NEAP_MEMORY;
  const char *from = send;
  char *to = recv;
  for (int32_t r = 0; r < comm->size; r++) {
    if (send_counts[r])
      neapi_request_send(request, from, send_counts[r] * size, r);
    if (recv_counts[r])
      neapi_request_recv(request, to, recv_counts[r] * size, r);
    from += send_counts[r] * size;
    to += recv_counts[r] * size;
  }
  status = check_own(NEAPI_ALL_TO_ALL, request);
  if (status) {
    neapi_request_free(request);
    return status;
  }
  return neapi_request_submit(request, NULL);
}

/* out == NULL: blocks. */
static int exchange(neap_comm *comm, const neap_message *send, int64_t sends,
                    const neap_message *recv, int64_t recvs, neap_request **out)
{
  int64_t sent = 0, received = 0;
  int status = check_comm(comm, NEAPI_EXCHANGE);
  if (!status)
    status = check_messages(comm, "send", send, sends, &sent);
  if (!status)
    status = check_messages(comm, "receive", recv, recvs, &received);
  if (status)
    return status;
  neapi_call call = {.kind = NEAPI_EXCHANGE, .dtype = -1, .bytes = sent};
  neap_request *request = neapi_request_open(comm, &call, sends, recvs, false);
  if (!request)
    return NEAP_MEMORY;
  for (int64_t i = 0; i < sends; i++)
    neapi_request_send(request, send[i].data, send[i].bytes, send[i].peer);
  for (int64_t i = 0; i < recvs; i++)
    neapi_request_recv(request, recv[i].data, recv[i].bytes, recv[i].peer);
  status = check_own(NEAPI_EXCHANGE, request);
  if (status) {
    neapi_request_free(request);
    return status;
  }
  return neapi_request_submit(request, out);
}

int neap_comm_exchange(neap_comm *comm, const neap_message *send, int64_t sends,
                       const neap_message *recv, int64_t recvs)
{
  return exchange(comm, send, sends, recv, recvs, NULL);
}

int neap_comm_exchange_start(neap_comm *comm, const neap_message *send, int64_t sends,
                             const neap_message *recv, int64_t recvs, neap_request **out)
{
  if (!out)
    return neapi_fail(NEAP_ARGUMENT, "comm_exchange_start: out is NULL: nowhere for the request");
  return exchange(comm, send, sends, recv, recvs, out);
}
