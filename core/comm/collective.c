/* SPDX-License-Identifier: Apache-2.0 */
/* The collectives, on grouped messages: the same for every transport, and so the same bits. */
#include "comm/comm.h"

#include <string.h>

/* Bytes at most that a reduction gathers at a time from all ranks; a test has less. */
#ifndef NEAPI_REDUCE_SCRATCH
#define NEAPI_REDUCE_SCRATCH (1ll << 28)
#endif

enum {
  SMALL_REDUCE = 8192,    /* bytes up to which all ranks send all to all and add for themselves */
  SMALL_BROADCAST = 65536 /* bytes up to which the root sends all to all */
};

static int exchange(neap_comm *comm, const neapi_call *call, const neap_message *send,
                    int64_t sends, const neap_message *recv, int64_t recvs)
{
  int64_t bytes = 0;
  for (int64_t i = 0; i < sends; i++)
    bytes += send[i].bytes;
  __atomic_add_fetch(&comm->bytes_sent, bytes, __ATOMIC_RELAXED);
  return comm->transport->exchange(comm->endpoint, call, send, sends, recv, recvs);
}

static const neapi_memory_ops *memory_of(const neapi_call *call)
{
  return call->gpu ? &neapi_gpu_memory : &neapi_host_memory;
}

/* Scratch memory of at least so many bytes, where the call's buffers are, kept for later
 * operations; NULL: reported. */
static void *scratch(neap_comm *comm, const neapi_call *call, int64_t bytes)
{
  int kind = call->gpu > 0;
  if (bytes > comm->scratch_bytes[kind] || !comm->scratch[kind]) {
    memory_of(call)->release(comm->scratch[kind]);
    comm->scratch_bytes[kind] = 0;
    comm->scratch[kind] = memory_of(call)->allocate(bytes, "comm: scratch");
    if (comm->scratch[kind])
      comm->scratch_bytes[kind] = bytes;
  }
  return comm->scratch[kind];
}

/* Start of chunk i when count is cut into parts chunks that differ by at most one. */
static int64_t chunk(int64_t count, int32_t parts, int32_t i)
{
  int64_t more = count % parts;
  return count / parts * i + (i < more ? i : more);
}

/* What the list-based operations do: all_gather, all_to_all, exchange. */
static int run_messages(neap_request *request)
{
  neap_comm *comm = request->comm;
  int status = NEAP_OK;
  for (int64_t i = 0; !status && i < request->own_sends; i++)
    status = memory_of(&request->call)
                 ->copy(request->own_recv[i].data, request->own_send[i].data,
                        request->own_send[i].bytes);
  if (status)
    return status;
  return exchange(comm, &request->call, request->send, request->sends, request->recv,
                  request->recvs);
}

/* Every rank but except sends its chunk of data[bytes] to all, which puts the whole together. */
static int gather_chunks(neap_comm *comm, const neapi_call *call, char *data, int64_t count,
                         int64_t size, int32_t except)
{
  int64_t sends = 0, recvs = 0;
  int64_t begin = chunk(count, comm->size, comm->rank);
  int64_t end = chunk(count, comm->size, comm->rank + 1);
  for (int32_t r = 0; r < comm->size; r++) {
    if (r == comm->rank)
      continue;
    int64_t from = chunk(count, comm->size, r), to = chunk(count, comm->size, r + 1);
    if (end > begin && r != except)
      comm->send[sends++] = (neap_message){data + begin * size, (end - begin) * size, r};
    if (to > from && comm->rank != except)
      comm->recv[recvs++] = (neap_message){data + from * size, (to - from) * size, r};
  }
  return exchange(comm, call, comm->send, sends, comm->recv, recvs);
}

/* The root sends every rank all of data, or only the rank's chunk of it. */
static int send_from_root(neap_comm *comm, const neapi_call *call, char *data, int64_t bytes,
                          bool chunks)
{
  int32_t root = call->detail;
  int64_t sends = 0, recvs = 0;
  for (int32_t r = 0; r < comm->size; r++) {
    int64_t from = chunks ? chunk(bytes, comm->size, r) : 0;
    int64_t to = chunks ? chunk(bytes, comm->size, r + 1) : bytes;
    if (comm->rank == root && r != root)
      comm->send[sends++] = (neap_message){data + from, to - from, r};
    if (comm->rank == r && r != root)
      comm->recv[recvs++] = (neap_message){data + from, to - from, root};
  }
  return exchange(comm, call, comm->send, sends, comm->recv, recvs);
}

/* Large data: scatter, then all-gather, so that the root's sending is shared by all (van de Geijn;
 * Thakur, Rabenseifner & Gropp 2005, section 4.3). */
static int run_broadcast(neap_request *request)
{
  neap_comm *comm = request->comm;
  int64_t bytes = request->call.bytes;
  bool chunks = bytes > SMALL_BROADCAST && comm->size > 2;
  int status = send_from_root(comm, &request->call, request->data, bytes, chunks);
  if (!status && chunks)
    status = gather_chunks(comm, &request->call, request->data, bytes, 1, request->call.detail);
  return status;
}

/* Elements of rank r's chunk: as counts says where it is given, else chunks are even. */
static int64_t chunk_of(const neap_request *request, int32_t r)
{
  int32_t size = request->comm->size;
  return request->counts ? request->counts[r]
                         : chunk(request->count, size, r + 1) - chunk(request->count, size, r);
}

static int64_t between(int64_t count, int64_t skip, int64_t most)
{
  int64_t rest = count > skip ? count - skip : 0;
  return rest < most ? rest : most;
}

/* Of every chunk the elements from skip on, most at the utmost: its rank gets everybody's and folds
 * them in rank order. */
static int reduce_piece(neap_request *request, const char *input, char *output, int64_t size,
                        int64_t skip, int64_t most)
{
  neap_comm *comm = request->comm;
  int64_t mine = 0, mine_from = 0, from = 0, sends = 0, recvs = 0;
  for (int32_t r = 0; r < comm->size; r++) {
    int64_t count = between(chunk_of(request, r), skip, most);
    if (r == comm->rank) {
      mine = count;
      mine_from = from + skip;
    } else if (count)
      comm->send[sends++] = (neap_message){(char *)input + (from + skip) * size, count * size, r};
    from += chunk_of(request, r);
  }
  char *parts = scratch(comm, &request->call, comm->size * mine * size);
  if (!parts)
    return NEAP_MEMORY;
  for (int32_t r = 0; r < comm->size; r++) {
    comm->sources[r] = r == comm->rank ? input + mine_from * size : parts + r * mine * size;
    if (mine && r != comm->rank)
      comm->recv[recvs++] = (neap_message){(void *)comm->sources[r], mine * size, r};
  }
  int status = exchange(comm, &request->call, comm->send, sends, comm->recv, recvs);
  if (!status)
    status = memory_of(&request->call)
                 ->fold(output ? output + skip * size : (char *)input + mine_from * size,
                        comm->sources, comm->size, mine, request->call.dtype, request->call.detail);
  return status;
}

/* Every rank's chunk, in pieces that leave scratch memory small. */
static int reduce_chunks(neap_request *request, const char *input, char *output, int64_t size)
{
  int64_t largest = 1, most = NEAPI_REDUCE_SCRATCH / (request->comm->size * size);
  most = most > 0 ? most : 1;
  for (int32_t r = 0; r < request->comm->size; r++)
    largest = chunk_of(request, r) > largest ? chunk_of(request, r) : largest;
  int status = NEAP_OK;
  for (int64_t skip = 0; !status && skip < largest; skip += most)
    status = reduce_piece(request, input, output, size, skip, most);
  return status;
}

static int run_reduce_scatter(neap_request *request)
{
  return reduce_chunks(request, request->input, request->data,
                       neap_dtype_size(request->call.dtype));
}

/* Everybody gets everything and folds it: one exchange instead of two. */
static int reduce_small(neap_request *request, int64_t bytes)
{
  neap_comm *comm = request->comm;
  char *parts = scratch(comm, &request->call, comm->size * bytes);
  if (!parts)
    return NEAP_MEMORY;
  int64_t messages = 0;
  for (int32_t r = 0; r < comm->size; r++) {
    comm->sources[r] = r == comm->rank ? request->data : parts + r * bytes;
    if (r == comm->rank || !bytes)
      continue;
    comm->send[messages] = (neap_message){request->data, bytes, r};
    comm->recv[messages++] = (neap_message){parts + r * bytes, bytes, r};
  }
  int status = exchange(comm, &request->call, comm->send, messages, comm->recv, messages);
  if (!status)
    status = memory_of(&request->call)
                 ->fold(request->data, comm->sources, comm->size, request->count,
                        request->call.dtype, request->call.detail);
  return status;
}

/* Large data: reduce-scatter, then all-gather (Thakur, Rabenseifner & Gropp 2005, section 4.5). */
static int run_all_reduce(neap_request *request)
{
  int64_t bytes = request->call.bytes, size = neap_dtype_size(request->call.dtype);
  if (bytes <= SMALL_REDUCE)
    return reduce_small(request, bytes);
  int status = reduce_chunks(request, request->data, NULL, size);
  if (!status)
    status = gather_chunks(request->comm, &request->call, request->data, request->count, size, -1);
  return status;
}

/* colours[size]: what every rank passes as its colour. */
static int gather_colours(neap_request *request, int32_t *colours)
{
  neap_comm *comm = request->comm;
  int32_t colour = (int32_t)request->count;
  char *all = scratch(comm, &request->call, comm->size * 4ll);
  if (!all)
    return NEAP_MEMORY;
  memcpy(all + comm->rank * 4ll, &colour, 4);
  int status = gather_chunks(comm, &request->call, all, comm->size, 4, -1);
  if (!status)
    memcpy(colours, all, (size_t)comm->size * 4);
  return status;
}

/* The colours tell who belongs together; the transport connects them. */
static int run_split(neap_request *request)
{
  neap_comm *comm = request->comm;
  int32_t *colours = (int32_t *)request->counts, *members = colours + comm->size;
  int status = gather_colours(request, colours);
  if (status)
    return status;
  int32_t size = 0;
  for (int32_t r = 0; r < comm->size; r++)
    if (colours[r] == colours[comm->rank]) {
      if (r == comm->rank)
        request->new_rank = size;
      members[size++] = r;
    }
  request->new_size = size;
  return comm->transport->split(comm->endpoint, &request->call, members, request->new_rank, size,
                                request->data);
}

static int run_kind(neap_request *request)
{
  neap_comm *comm = request->comm;
  switch (request->call.kind) {
  case NEAPI_BARRIER:
    return comm->transport->barrier(comm->endpoint, &request->call);
  case NEAPI_BROADCAST:
    return run_broadcast(request);
  case NEAPI_ALL_REDUCE:
    return run_all_reduce(request);
  case NEAPI_REDUCE_SCATTER:
    return run_reduce_scatter(request);
  case NEAPI_SPLIT:
  case NEAPI_DUPLICATE:
    return run_split(request);
  default:
    return run_messages(request);
  }
}

static int run(neap_request *request)
{
  int32_t gpu = request->call.gpu;
  double begin = neapi_span_label_now(&request->label, gpu);
  int status = run_kind(request);
  neapi_span_label_ran(&request->label, begin, neapi_span_label_now(&request->label, gpu));
  return status;
}

/* Enters the stream of the GPU that the buffers are on. */
static int enter_stream(neap_comm *comm, int32_t gpu)
{
  if (comm->gpu_stream && comm->stream_gpu != gpu)
    return neapi_fail(
        NEAP_ARGUMENT,
        "comm: buffers on GPU %d; this communicator has used GPU %d: open one for each", gpu,
        comm->stream_gpu);
  comm->stream_gpu = gpu;
  int status = comm->gpu_stream ? NEAP_OK : neapi_gpu_stream_open(gpu, &comm->gpu_stream);
  return status ? status : neapi_gpu_stream_enter(comm->gpu_stream);
}

/* The stream waits for what the starter had enqueued, and the request's event is then moved to the
 * end of the operation. */
static int run_on_gpu(neap_request *request)
{
  neap_comm *comm = request->comm;
  int status = enter_stream(comm, request->call.gpu - 1);
  if (status)
    return status;
  status = neapi_stream_event_follow(request->event);
  if (!status)
    status = run(request);
  if (!status)
    status = neapi_stream_event_record(&request->event);
  neapi_gpu_stream_leave(comm->gpu_stream);
  return status;
}

int neapi_collective_run(neap_request *request)
{
  neap_comm *comm = request->comm;
  request->call.number = comm->operations++;
  neapi_flight_begin(comm->flight, &request->call);
  int status = request->call.gpu ? run_on_gpu(request) : run(request);
  neapi_flight_end(comm->flight, &request->call, status);
  return status;
}
