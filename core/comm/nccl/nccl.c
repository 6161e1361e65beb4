/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport for buffers on GPUs: grouped sends and receives of NCCL, enqueued on the calling
 * thread's stream, so that the host waits for none of them. What is in host memory, and all that
 * ranks have to agree on, goes by another transport: MPI, or that of a communicator which is given.
 * The collectives are those of collective.c, which add in rank
 * order: NCCL's own reductions have an order of theirs.
 *
 * NCCL's communicators do not block: calls that take long are polled. A thread of the process looks
 * after all of them (watchdog.c), since an error may come when nobody calls.
 */
#include "comm/comm.h"
#include "comm/nccl/endpoint.h"
#include "comm/watchdog.h"

#include "base/memory.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  TURNS = 64, /* polls that only yield, before pauses begin */
  PAUSE_MIN = 5000,
  PAUSE_MAX = 200000, /* ns */
  CONFIG_VERSION = 21400
};

static const double open_seconds = 300, close_seconds = 10; /* at most */
static const unsigned config_magic = 0xcafebeef;

/* ---- failures -------------------------------------------------------------------------------- */

static int report(const neapi_endpoint *endpoint)
{
  return neapi_fail(NEAP_COMM, "%s", endpoint->failure);
}

/* ---- waiting for NCCL itself ----------------------------------------------------------------- */

static void pause_for(int turn, int64_t *ns)
{
  if (turn < TURNS) {
    sched_yield();
    return;
  }
  struct timespec time = {0, *ns};
  nanosleep(&time, NULL);
  *ns = *ns * 2 < PAUSE_MAX ? *ns * 2 : PAUSE_MAX;
}

/* Until NCCL has done what it was called for by the latest operation, apart from what runs on the
 * GPU; at most so many seconds. The endpoint is locked, but not while this thread sleeps. */
static int wait_until_called(neapi_endpoint *endpoint, double seconds)
{
  int64_t pause = PAUSE_MIN;
  double begin = neap_clock();
  for (int turn = 0; !endpoint->failed; turn++) {
    int error = NCCL_SUCCESS;
    int called = endpoint->nccl->async_error(endpoint->comm, &error);
    error = called ? called : error;
    if (error == NCCL_SUCCESS)
      return NEAP_OK;
    if (error != NCCL_IN_PROGRESS)
      neapi_nccl_fail_error(endpoint, &endpoint->starting, error);
    else if (seconds > 0 && neap_clock() - begin > seconds)
      neapi_nccl_fail(endpoint, &endpoint->starting, "nccl: the other ranks do not answer");
    else {
      pthread_mutex_unlock(&endpoint->lock);
      pause_for(turn, &pause);
      pthread_mutex_lock(&endpoint->lock);
    }
  }
  return report(endpoint);
}

/* ---- messages -------------------------------------------------------------------------------- */

/* Empty messages do not travel. */
static int enqueue(const neapi_endpoint *endpoint, const neap_message *send, int64_t sends,
                   const neap_message *recv, int64_t recvs)
{
  const nccl_functions *nccl = endpoint->nccl;
  void *stream = neapi_stream();
  int error = nccl->group_start();
  for (int64_t i = 0; i < sends && !error; i++)
    if (send[i].bytes)
      error = nccl->send(send[i].data, (size_t)send[i].bytes, NCCL_INT8, send[i].peer,
                         endpoint->comm, stream);
  for (int64_t i = 0; i < recvs && !error; i++)
    if (recv[i].bytes)
      error = nccl->receive(recv[i].data, (size_t)recv[i].bytes, NCCL_INT8, recv[i].peer,
                            endpoint->comm, stream);
  int ended = nccl->group_end();
  error = error ? error : ended;
  return error == NCCL_IN_PROGRESS ? NCCL_SUCCESS : error;
}

static bool carries(const neap_message *list, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    if (list[i].bytes)
      return true;
  return false;
}

static int exchange_locked(neapi_endpoint *endpoint, const neap_message *send, int64_t sends,
                           const neap_message *recv, int64_t recvs)
{
  if (endpoint->failed)
    return report(endpoint);
  int error = enqueue(endpoint, send, sends, recv, recvs);
  if (error) {
    neapi_nccl_fail_error(endpoint, &endpoint->starting, error);
    return report(endpoint);
  }
  double begun = neap_clock();
  int status = wait_until_called(endpoint, endpoint->limit);
  if (status)
    return status;
  endpoint->latest.call = endpoint->starting;
  endpoint->latest.begun = begun;
  status = neapi_stream_event_record(&endpoint->latest.end);
  neapi_nccl_go_on(endpoint);
  return status;
}

static int exchange(neapi_endpoint *endpoint, const neapi_call *call, const neap_message *send,
                    int64_t sends, const neap_message *recv, int64_t recvs)
{
  if (!call->gpu)
    return endpoint->by->exchange(endpoint->host, call, send, sends, recv, recvs);
  if (!carries(send, sends) && !carries(recv, recvs))
    return NEAP_OK;
  pthread_mutex_lock(&endpoint->lock);
  endpoint->starting = *call;
  int status = exchange_locked(endpoint, send, sends, recv, recvs);
  pthread_mutex_unlock(&endpoint->lock);
  return status;
}

static int barrier(neapi_endpoint *endpoint, const neapi_call *call)
{
  return endpoint->by->barrier(endpoint->host, call);
}

/* ---- endpoints ------------------------------------------------------------------------------- */

/* Lets go of NCCL's communicator: in order where the others do too. */
static void leave(neapi_endpoint *endpoint)
{
  pthread_mutex_lock(&endpoint->lock);
  if (endpoint->comm) {
    int error = endpoint->nccl->finalize(endpoint->comm);
    if ((!error || error == NCCL_IN_PROGRESS) && !wait_until_called(endpoint, close_seconds))
      endpoint->nccl->destroy(endpoint->comm);
    else if (endpoint->comm)
      endpoint->nccl->abort(endpoint->comm);
    endpoint->comm = NULL;
  }
  pthread_mutex_unlock(&endpoint->lock);
}

static void endpoint_close(neapi_endpoint *endpoint)
{
  pthread_mutex_lock(&endpoint->lock);
  neapi_stream_event *ends[] = {endpoint->watched.end, endpoint->latest.end};
  pthread_mutex_unlock(&endpoint->lock);
  for (int i = 0; i < 2; i++)
    neapi_stream_event_wait(ends[i]); /* looked after meanwhile: if it never ends it is aborted */
  neapi_nccl_unwatch(endpoint);
  leave(endpoint);
  endpoint->by->close(endpoint->host);
  neapi_stream_event_free(endpoint->latest.end);
  neapi_stream_event_free(endpoint->watched.end);
  pthread_mutex_destroy(&endpoint->lock);
  free(endpoint);
}

/* What every rank tells before and after NCCL's communicator comes up. */
typedef struct {
  int32_t status;
  char text[300];
  nccl_id id;
} opening;

/* The ranks over a transport for host memory, before there is an endpoint of ours. */
typedef struct {
  const neapi_transport *by;
  neapi_endpoint *endpoint;
  int32_t rank, size;
} host_ranks;

/* Everybody's bytes in out[size][bytes]. Collective. */
static int gather(const host_ranks *host, const neapi_call *call, void *mine, int64_t bytes,
                  void *out)
{
  neap_message *list = neapi_alloc(2 * host->size * (int64_t)sizeof *list, "comm: messages");
  if (!list)
    return NEAP_MEMORY;
  int64_t count = 0;
  for (int32_t r = 0; r < host->size; r++)
    if (r != host->rank) {
      list[count] = (neap_message){.peer = r, .data = mine, .bytes = bytes};
      list[host->size + count++] =
          (neap_message){.peer = r, .data = (char *)out + r * bytes, .bytes = bytes};
    }
  memcpy((char *)out + host->rank * bytes, mine, (size_t)bytes);
  int status = host->by->exchange(host->endpoint, call, list, count, list + host->size, count);
  free(list);
  return status;
}

/* Gathers everybody's; the first rank that failed speaks for all. */
static int agree(neapi_endpoint *endpoint, const neapi_call *call, opening *mine, nccl_id *id)
{
  if (mine->status)
    snprintf(mine->text, sizeof mine->text, "%s", neap_error_message());
  opening *all = neapi_alloc(endpoint->size * (int64_t)sizeof *all, "comm: endpoint");
  if (!all)
    return NEAP_MEMORY;
  host_ranks host = {endpoint->by, endpoint->host, endpoint->rank, endpoint->size};
  int status = gather(&host, call, mine, sizeof *mine, all);
  for (int32_t r = 0; r < endpoint->size && !status; r++)
    if (all[r].status)
      status = neapi_fail(all[r].status, "comm: rank %d: %s", r, all[r].text);
  if (!status && id)
    *id = all[0].id;
  free(all);
  return status;
}

static int make_id(const neapi_endpoint *endpoint, nccl_id *id)
{
  if (endpoint->rank || endpoint->size == 1)
    return NEAP_OK;
  int error = endpoint->nccl->get_unique_id(id);
  return error ? neapi_fail(NEAP_COMM, "nccl: no id for a communicator: %s",
                            endpoint->nccl->error_string(error))
               : NEAP_OK;
}

/* Brings NCCL's communicator up; the calling thread is on the endpoint's GPU. */
static int join(neapi_endpoint *endpoint, nccl_id id)
{
  nccl_config config = {offsetof(nccl_config, blocking) + sizeof config.blocking, config_magic,
                        CONFIG_VERSION, 0};
  pthread_mutex_lock(&endpoint->lock);
  int error = endpoint->nccl->init(&endpoint->comm, endpoint->size, id, endpoint->rank, &config);
  int status;
  if (!error || error == NCCL_IN_PROGRESS)
    status = wait_until_called(endpoint, open_seconds);
  else {
    neapi_nccl_fail_error(endpoint, &endpoint->starting, error);
    status = report(endpoint);
  }
  pthread_mutex_unlock(&endpoint->lock);
  return status;
}

static int connect_all(neapi_endpoint *endpoint, const neapi_call *call)
{
  opening mine = {0};
  nccl_id id;
  mine.status = make_id(endpoint, &mine.id);
  int status = agree(endpoint, call, &mine, &id);
  if (status || endpoint->size == 1)
    return status;
  mine.status = join(endpoint, id);
  return agree(endpoint, call, &mine, NULL);
}

/* An endpoint over the ranks of host, which it takes over, and which all have their GPU in use. */
static int endpoint_open(const nccl_functions *nccl, const host_ranks *host, const neapi_call *call,
                         neapi_endpoint **out)
{
  neapi_endpoint *endpoint = neapi_alloc_zero(sizeof *endpoint, "comm: endpoint");
  if (!endpoint) {
    host->by->close(host->endpoint);
    return NEAP_MEMORY;
  }
  endpoint->nccl = nccl;
  endpoint->by = host->by;
  endpoint->host = host->endpoint;
  endpoint->starting = endpoint->watched.call = *call;
  endpoint->rank = host->rank;
  endpoint->size = host->size;
  endpoint->gpu = neapi_gpu_current();
  endpoint->limit = neapi_watchdog_limit();
  pthread_mutex_init(&endpoint->lock, NULL);
  int status = connect_all(endpoint, call);
  if (!status)
    status = neapi_nccl_watch(endpoint);
  if (status)
    endpoint_close(endpoint);
  else
    *out = endpoint;
  return status;
}

static int split(neapi_endpoint *endpoint, const neapi_call *call, const int32_t *members,
                 int32_t rank, int32_t size, neapi_endpoint **out)
{
  host_ranks host = {endpoint->by, NULL, rank, size};
  int status = host.by->split(endpoint->host, call, members, rank, size, &host.endpoint);
  if (status)
    return status;
  int32_t before = neapi_gpu_current();
  status = before == endpoint->gpu ? NEAP_OK : neap_device_use(endpoint->gpu);
  if (status) {
    host.by->close(host.endpoint);
    return status;
  }
  status = endpoint_open(endpoint->nccl, &host, call, out);
  if (before != endpoint->gpu)
    neap_device_use(before);
  return status;
}

static const neapi_transport nccl = {"nccl", true, exchange, barrier, split, endpoint_close};

/* ---- all processes --------------------------------------------------------------------------- */

/* What every rank tells of itself. */
typedef struct {
  int32_t status, version;
  char text[500];
  unsigned char gpu[NEAPI_GPU_ID];
} arrival;

/* Takes the GPU that is wanted and finds NCCL, which one rank alone can do without. */
static int arrive(int32_t gpu, int32_t size, const nccl_functions **library, arrival *mine)
{
  int status = neap_device_use(gpu);
  if (!status)
    status = neapi_gpu_id(gpu, mine->gpu);
  if (status || size == 1)
    return status;
  status = neapi_nccl_load(library);
  mine->version = status ? 0 : (*library)->version;
  return status;
}

static int require_sharing(const arrival *all, int32_t a, int32_t b)
{
  char version[NCCL_VERSION_TEXT];
  if (memcmp(all[a].gpu, all[b].gpu, NEAPI_GPU_ID) || all[a].version >= NCCL_SHARES_GPUS)
    return NEAP_OK;
  return neapi_fail(NEAP_ABSENT,
                    "nccl: ranks %d and %d share a GPU, which needs NCCL 2.30 or later, and %s was "
                    "found; install NVIDIA's package libnccl2 or the Python package "
                    "nvidia-nccl-cu13 and set NEAP_NCCL=/path/to/libnccl.so.2, or start as many "
                    "processes as there are GPUs, or run ranks as threads: neap run -n",
                    a, b, neapi_nccl_version(all[a].version, version));
}

/* All ranks come to the same answer. */
static int judge(const arrival *all, int32_t size)
{
  int status = NEAP_OK;
  for (int32_t r = 0; r < size && !status; r++)
    if (all[r].status)
      status = neapi_fail(all[r].status, "%s", all[r].text);
  for (int32_t a = 0; a < size; a++)
    for (int32_t b = a + 1; b < size && !status; b++)
      status = require_sharing(all, a, b);
  return status;
}

static int meet(const host_ranks *host, const neapi_call *call, int32_t gpu,
                const nccl_functions **library)
{
  arrival mine = {0}, *all = neapi_alloc(host->size * (int64_t)sizeof mine, "comm: ranks");
  if (!all)
    return NEAP_MEMORY;
  mine.status = arrive(gpu, host->size, library, &mine);
  if (mine.status)
    snprintf(mine.text, sizeof mine.text, "%s", neap_error_message());
  int status = gather(host, call, &mine, sizeof mine, all);
  if (!status)
    status = judge(all, host->size);
  free(all);
  return status;
}

/* A communicator over the ranks of host, which it takes over, as it does flight. */
static int open_over(const host_ranks *host, int32_t gpu, neapi_flight *flight, neap_comm **out)
{
  neapi_endpoint *endpoint;
  const nccl_functions *library = NULL;
  neapi_call call = {.kind = NEAPI_DUPLICATE, .dtype = -1, .step = -1};
  int status = meet(host, &call, gpu, &library);
  if (status)
    host->by->close(host->endpoint);
  else
    status = endpoint_open(library, host, &call, &endpoint);
  if (status) {
    neapi_flight_release(flight);
    return status;
  }
  return neapi_comm_open(&nccl, endpoint, host->rank, host->size, flight, out);
}

int neap_comm_open_nccl(neap_comm **out)
{
  neapi_rank_info info;
  host_ranks host = {.by = &neapi_mpi_transport};
  int status = neapi_mpi_endpoint_open(&host.endpoint, &info);
  if (status)
    return status;
  host.rank = info.rank;
  host.size = info.size;
  int32_t count = neap_device_count();
  status = open_over(&host, count ? info.local_rank % count : 0,
                     neapi_flight_open(info.rank, info.size, NULL, NULL), out);
  if (!status)
    neapi_mpi_watch();
  return status;
}

int neap_comm_open_nccl_over(neap_comm *comm, neap_comm **out)
{
  if (!comm || !neapi_on_gpu())
    return neapi_fail(NEAP_ARGUMENT, "comm_open_nccl_over: %s",
                      comm ? "the calling thread computes on no GPU" : "no communicator");
  host_ranks host = {.by = comm->transport};
  int status = neapi_comm_duplicate_endpoint(comm, &host.endpoint, &host.rank, &host.size);
  if (status)
    return status;
  return open_over(&host, neapi_gpu_current(), neapi_flight_share(comm->flight), out);
}
