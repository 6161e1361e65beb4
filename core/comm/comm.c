/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Communicators and requests: operations queue up and run one after the other, either in the thread
 * that waits for them or in the communicator's progress thread, which exists from the first
 * asynchronous operation on.
 */
#include "comm/comm.h"

#include "base/memory.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local int64_t training_step = -1;

void neap_comm_step(int64_t step)
{
  training_step = step;
}

/* ---- requests -------------------------------------------------------------------------------- */

neap_request *neapi_request_open(neap_comm *comm, const neapi_call *call, int64_t sends,
                                 int64_t recvs, bool counted)
{
  int64_t capacity = sends + recvs, each = (int64_t)sizeof(neap_message);
  int64_t counts = counted ? comm->size * 8ll : 0;
  neap_request *request =
      neapi_alloc((int64_t)sizeof *request + 2 * capacity * each + counts, "comm: request");
  if (!request)
    return NULL;
  memset(request, 0, sizeof *request);
  request->comm = comm;
  request->call = *call;
  request->call.step = training_step;
  request->call.comm = comm->number;
  neapi_timeline_where(&request->call.layer, &request->call.phase);
  neapi_span_label_take(&request->label);
  request->send = (neap_message *)(request + 1);
  request->recv = request->send + sends;
  request->own_send = request->recv + recvs;
  request->own_recv = request->own_send + sends;
  request->counts = counted ? (int64_t *)(request->own_recv + recvs) : NULL;
  __atomic_add_fetch(&comm->references, 1, __ATOMIC_RELAXED);
  return request;
}

static void release(neap_comm *comm)
{
  if (__atomic_sub_fetch(&comm->references, 1, __ATOMIC_ACQ_REL))
    return;
  pthread_mutex_destroy(&comm->lock);
  pthread_cond_destroy(&comm->work);
  pthread_cond_destroy(&comm->changed);
  free(comm->send);
  free(comm->recv);
  free(comm->sources);
  free(comm);
}

void neapi_request_free(neap_request *request)
{
  if (!request)
    return;
  neapi_span_label_drop(&request->label);
  neapi_stream_event_free(request->event);
  release(request->comm);
  free(request);
}

void neapi_request_send(neap_request *request, const void *data, int64_t bytes, int32_t peer)
{
  neap_message message = {(void *)data, bytes, peer};
  if (peer == request->comm->rank)
    request->own_send[request->own_sends++] = message;
  else
    request->send[request->sends++] = message;
}

void neapi_request_recv(neap_request *request, void *data, int64_t bytes, int32_t peer)
{
  neap_message message = {data, bytes, peer};
  if (peer == request->comm->rank)
    request->own_recv[request->own_recvs++] = message;
  else
    request->recv[request->recvs++] = message;
}

/* ---- the queue ------------------------------------------------------------------------------- */

static void push(neap_comm *comm, neap_request *request)
{
  if (comm->head)
    comm->tail->next = request;
  else
    comm->head = request;
  comm->tail = request;
}

/* Runs the first operation of the queue. The lock is held before and after, not during. */
static void run_head(neap_comm *comm)
{
  neap_request *request = comm->head;
  comm->head = request->next;
  comm->busy = true;
  pthread_mutex_unlock(&comm->lock);
  request->status = neapi_collective_run(request);
  if (request->status)
    snprintf(request->error, sizeof request->error, "%s", neap_error_message());
  pthread_mutex_lock(&comm->lock);
  comm->busy = false;
  __atomic_store_n(&request->done, true, __ATOMIC_RELEASE);
  pthread_cond_broadcast(&comm->changed);
  if (comm->head && comm->threaded)
    pthread_cond_signal(&comm->work);
}

static void *progress(void *argument)
{
  neap_comm *comm = argument;
  pthread_mutex_lock(&comm->lock);
  while (comm->head || !comm->closing)
    if (comm->head && !comm->busy)
      run_head(comm);
    else
      pthread_cond_wait(&comm->work, &comm->lock);
  pthread_mutex_unlock(&comm->lock);
  return NULL;
}

/* The progress thread takes no signals: they are the program's business. */
static int start_thread(neap_comm *comm)
{
  if (comm->threaded)
    return NEAP_OK;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&comm->thread, NULL, progress, comm);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error)
    return neapi_fail(NEAP_SYSTEM, "comm: cannot start a progress thread: %s", strerror(error));
  comm->threaded = true;
  return NEAP_OK;
}

/* Finds out where the buffers are; those on a GPU are ready at this point of the caller's
 * stream. */
static int locate(neap_request *r)
{
  if (!neapi_on_gpu())
    return NEAP_OK;
  const void *memory = r->data ? r->data : r->input;
  const neap_message *lists[] = {r->send, r->recv, r->own_send};
  const int64_t counts[] = {r->sends, r->recvs, r->own_sends};
  for (int i = 0; i < 3; i++)
    for (int64_t j = 0; !memory && j < counts[i]; j++)
      memory = lists[i][j].data;
  r->call.gpu = memory ? neapi_gpu_of(memory) + 1 : 0;
  if (!r->call.gpu)
    return NEAP_OK;
  if (!r->comm->transport->takes_gpu)
    return neapi_fail(NEAP_ABSENT,
                      "comm_%s: the transport %s does not take GPU memory: open the communicator "
                      "with neap_comm_open_nccl, as neap run --device=cuda does under mpirun",
                      neapi_kind_name(r->call.kind), r->comm->transport->name);
  return neapi_stream_event_record(&r->event);
}

int neapi_request_submit(neap_request *request, neap_request **out)
{
  neap_comm *comm = request->comm;
  int status = locate(request);
  if (status) {
    neapi_request_free(request);
    return status;
  }
  pthread_mutex_lock(&comm->lock);
  status = out ? start_thread(comm) : NEAP_OK;
  if (!status)
    push(comm, request);
  if (!status && out)
    pthread_cond_signal(&comm->work);
  pthread_mutex_unlock(&comm->lock);
  if (status)
    neapi_request_free(request);
  else if (out)
    *out = request;
  return status || out ? status : neap_request_wait(request);
}

/* The waiting thread runs the operation itself if it is the next and nobody has begun it. What it
 * enqueues on a GPU later is after the operation. */
static int await(neap_request *request)
{
  neap_comm *comm = request->comm;
  double begin = neapi_timeline_now();
  pthread_mutex_lock(&comm->lock);
  bool waits = !request->done || request->call.gpu;
  while (!request->done)
    if (comm->head == request && !comm->busy)
      run_head(comm);
    else
      pthread_cond_wait(&comm->changed, &comm->lock);
  pthread_mutex_unlock(&comm->lock);
  int status = request->status;
  if (status)
    neapi_fail(status, "%s", request->error);
  else
    status = neapi_stream_event_follow(request->event);
  if (waits)
    neapi_span_label_waited(&request->label, begin, neapi_timeline_now());
  return status;
}

int neap_request_wait(neap_request *request)
{
  if (!request)
    return neapi_fail(NEAP_ARGUMENT, "request_wait: no request");
  int status = await(request);
  neapi_request_free(request);
  return status;
}

int neap_request_done(const neap_request *request)
{
  return !request || __atomic_load_n(&request->done, __ATOMIC_ACQUIRE);
}

/* ---- communicators --------------------------------------------------------------------------- */

int neapi_comm_open(const neapi_transport *transport, neapi_endpoint *endpoint, int32_t rank,
                    int32_t size, neapi_flight *flight, neap_comm **out)
{
  neap_comm *comm = flight ? neapi_alloc_zero(sizeof *comm, "comm") : NULL;
  if (!comm) {
    neapi_flight_release(flight);
    transport->close(endpoint);
    return NEAP_MEMORY;
  }
  comm->flight = flight;
  comm->number = neapi_flight_comm(flight);
  comm->transport = transport;
  comm->endpoint = endpoint;
  comm->rank = rank;
  comm->size = size;
  comm->references = 1;
  pthread_mutex_init(&comm->lock, NULL);
  pthread_cond_init(&comm->work, NULL);
  pthread_cond_init(&comm->changed, NULL);
  comm->send = neapi_alloc(size * (int64_t)sizeof *comm->send, "comm: messages");
  comm->recv = neapi_alloc(size * (int64_t)sizeof *comm->recv, "comm: messages");
  comm->sources = neapi_alloc(size * (int64_t)sizeof *comm->sources, "comm: messages");
  if (!comm->send || !comm->recv || !comm->sources) {
    neap_comm_close(comm);
    return NEAP_MEMORY;
  }
  *out = comm;
  return NEAP_OK;
}

static int derive_endpoint(neap_comm *comm, int32_t kind, int32_t colour, neapi_endpoint **out,
                           int32_t *rank, int32_t *size)
{
  neapi_call call = {.kind = kind, .dtype = -1};
  neap_request *request = neapi_request_open(comm, &call, 0, 0, true);
  if (!request)
    return NEAP_MEMORY;
  *out = NULL;
  request->data = out;
  request->count = colour;
  pthread_mutex_lock(&comm->lock);
  push(comm, request);
  pthread_mutex_unlock(&comm->lock);
  int status = await(request);
  *rank = request->new_rank;
  *size = request->new_size;
  neapi_request_free(request);
  return status;
}

int neapi_comm_duplicate_endpoint(neap_comm *comm, neapi_endpoint **out, int32_t *rank,
                                  int32_t *size)
{
  return derive_endpoint(comm, NEAPI_DUPLICATE, 0, out, rank, size);
}

static int derive(neap_comm *comm, int32_t kind, int32_t colour, neap_comm **out)
{
  if (!comm)
    return neapi_fail(NEAP_ARGUMENT, "comm_%s: no communicator", neapi_kind_name(kind));
  neapi_endpoint *endpoint;
  int32_t rank, size;
  int status = derive_endpoint(comm, kind, colour, &endpoint, &rank, &size);
  if (status)
    return status;
  return neapi_comm_open(comm->transport, endpoint, rank, size, neapi_flight_share(comm->flight),
                         out);
}

int neap_comm_duplicate(neap_comm *comm, neap_comm **out)
{
  return derive(comm, NEAPI_DUPLICATE, 0, out);
}

int neap_comm_split(neap_comm *comm, int32_t colour, neap_comm **out)
{
  return derive(comm, NEAPI_SPLIT, colour, out);
}

void neap_comm_close(neap_comm *comm)
{
  if (!comm)
    return;
  pthread_mutex_lock(&comm->lock);
  comm->closing = true;
  pthread_cond_signal(&comm->work);
  pthread_mutex_unlock(&comm->lock);
  if (comm->threaded)
    pthread_join(comm->thread, NULL);
  neapi_flight_release(comm->flight);
  comm->transport->close(comm->endpoint);
  neapi_host_memory.release(comm->scratch[0]);
  if (comm->gpu_stream && !neapi_gpu_stream_enter(comm->gpu_stream)) {
    neapi_gpu_memory.release(comm->scratch[1]);
    neapi_gpu_stream_leave(comm->gpu_stream);
  }
  neapi_gpu_stream_close(comm->gpu_stream);
  release(comm);
}

int32_t neap_comm_rank(const neap_comm *comm)
{
  return comm->rank;
}

int32_t neap_comm_size(const neap_comm *comm)
{
  return comm->size;
}

const char *neap_comm_transport(const neap_comm *comm)
{
  return comm->transport->name;
}

int64_t neap_comm_bytes_sent(const neap_comm *comm)
{
  return __atomic_load_n(&comm->bytes_sent, __ATOMIC_RELAXED);
}
