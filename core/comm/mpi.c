/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport over MPI: a communicator of MPI's own for each of ours, so that they do not disturb
 * each other; non-blocking messages that are polled with growing pauses, since MPI's own waiting
 * spins and there may be more ranks than cores.
 *
 * A message's tag tells the operation it belongs to. Receives take any tag of their source, whose
 * messages arrive in order, and compare it: ranks that disagree fail instead of mixing up data.
 */
#include "comm/transport.h"
#include "comm/watchdog.h"

#include "base/memory.h"

#include <inttypes.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  SEGMENT = 1 << 30, /* bytes: MPI counts in int */
  KIND_BITS = 4,
  TAGS = 1 << 15, /* MPI promises that many */
  TURNS = 64,     /* polls that only yield, before pauses begin */
  PAUSE_MIN = 5000,
  PAUSE_MAX = 100000,          /* ns */
  HUNG = -1 - MPI_ERR_LASTCODE /* no error of MPI's: the watchdog has given up */
};

_Static_assert(NEAPI_KINDS <= 1 << KIND_BITS, "a kind fits into its bits of a tag");

struct neapi_endpoint {
  MPI_Comm comm;
  int32_t rank;
  int64_t capacity;      /* of the next two */
  MPI_Request *requests; /* receives, then sends */
  MPI_Status *statuses;
  bool failed;
  char failure[512];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool finalizer; /* registered: we have started MPI and shall end it */
  bool failed;    /* an operation failed: ending MPI in order might hang */
  int32_t endpoints;
  bool watching; /* watchdogs talk over watch_comm; not while MPI ends */
} state;
static MPI_Comm watch_comm;

/* ---- starting and ending MPI ----------------------------------------------------------------- */

/* At exit: ends MPI if everything was closed in order. Otherwise mpirun sees a process that leaves
 * without a word and ends the others. */
static void finalize(void)
{
  int done = 0;
  pthread_mutex_lock(&lock);
  state.watching = false;
  pthread_mutex_unlock(&lock);
  MPI_Finalized(&done);
  if (!done && !state.failed && !state.endpoints)
    MPI_Finalize();
}

static int start_locked(void)
{
  int started = 0, finished = 0, level = MPI_THREAD_SINGLE;
  MPI_Finalized(&finished);
  if (finished)
    return neapi_fail(NEAP_ABSENT, "comm_open_mpi: MPI has already been finalized");
  MPI_Initialized(&started);
  if (started)
    MPI_Query_thread(&level);
  else if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level))
    return neapi_fail(NEAP_ABSENT, "comm_open_mpi: MPI_Init_thread failed");
  if (!started) {
    state.finalizer = true;
    atexit(finalize);
  }
  if (level < MPI_THREAD_MULTIPLE)
    return neapi_fail(
        NEAP_ABSENT,
        "comm_open_mpi: MPI gives thread level %d; %d (MPI_THREAD_MULTIPLE) is needed: "
        "build MPI with thread support or start it with that level",
        level, MPI_THREAD_MULTIPLE);
  return NEAP_OK;
}

static int start(void)
{
  pthread_mutex_lock(&lock);
  int status = start_locked();
  pthread_mutex_unlock(&lock);
  return status;
}

static void count_endpoints(int32_t more, bool failed)
{
  pthread_mutex_lock(&lock);
  state.endpoints += more;
  state.failed = state.failed || failed;
  pthread_mutex_unlock(&lock);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* The endpoint fails with this and every later operation. */
static int fail(neapi_endpoint *endpoint, const neapi_call *call, const char *what)
{
  char text[NEAPI_CALL_TEXT];
  snprintf(endpoint->failure, sizeof endpoint->failure,
           "comm: rank %d, %s (its operation %" PRId64 "): %s", endpoint->rank,
           neapi_call_text(call, text), call->number, what);
  endpoint->failed = true;
  count_endpoints(0, true);
  return neapi_fail(NEAP_COMM, "%s", endpoint->failure);
}

static int fail_mpi(neapi_endpoint *endpoint, const neapi_call *call, int error, int32_t peer)
{
  char text[MPI_MAX_ERROR_STRING] = "", what[MPI_MAX_ERROR_STRING + 64];
  int length = 0;
  if (error == HUNG)
    return fail(endpoint, call, neapi_watchdog_verdict());
  MPI_Error_string(error, text, &length);
  if (peer >= 0)
    snprintf(what, sizeof what, "message of rank %d: %s", peer, text);
  else
    snprintf(what, sizeof what, "%s", text);
  return fail(endpoint, call, what);
}

/* ---- messages -------------------------------------------------------------------------------- */

static int tag_of(const neapi_call *call)
{
  return (int)((call->number << KIND_BITS | call->kind) % TAGS);
}

static int64_t segments(const neap_message *list, int64_t count)
{
  int64_t total = 0;
  for (int64_t i = 0; i < count; i++)
    total += list[i].bytes ? (list[i].bytes + SEGMENT - 1) / SEGMENT : 1;
  return total;
}

static int reserve(neapi_endpoint *endpoint, int64_t count)
{
  if (count <= endpoint->capacity)
    return NEAP_OK;
  free(endpoint->requests);
  free(endpoint->statuses);
  endpoint->capacity = 0;
  endpoint->requests = neapi_alloc(count * (int64_t)sizeof *endpoint->requests, "comm: messages");
  endpoint->statuses = neapi_alloc(count * (int64_t)sizeof *endpoint->statuses, "comm: messages");
  if (!endpoint->requests || !endpoint->statuses)
    return NEAP_MEMORY;
  endpoint->capacity = count;
  return NEAP_OK;
}

/* Starts the message's segments as requests from *at on. */
static int start_message(neapi_endpoint *endpoint, const neap_message *message, int tag,
                         bool receive, int64_t *at)
{
  int64_t left = message->bytes;
  char *data = message->data;
  do {
    int bytes = left < SEGMENT ? (int)left : SEGMENT;
    MPI_Request *request = &endpoint->requests[*at];
    int error =
        receive
            ? MPI_Irecv(data, bytes, MPI_BYTE, message->peer, MPI_ANY_TAG, endpoint->comm, request)
            : MPI_Isend(data, bytes, MPI_BYTE, message->peer, tag, endpoint->comm, request);
    if (error)
      return error;
    ++*at;
    left -= bytes;
    data += bytes;
  } while (left);
  return MPI_SUCCESS;
}

static void pause_for(int64_t *ns)
{
  struct timespec time = {0, *ns};
  nanosleep(&time, NULL);
  *ns = *ns * 2 < PAUSE_MAX ? *ns * 2 : PAUSE_MAX;
}

/* Polls until all requests are done. */
static int finish(neapi_endpoint *endpoint, int64_t count)
{
  int64_t pause = PAUSE_MIN;
  for (int turn = 0;; turn++) {
    int done = 0;
    int error = MPI_Testall((int)count, endpoint->requests, &done, endpoint->statuses);
    if (error || done)
      return error;
    if (neapi_watchdog_verdict())
      return HUNG;
    if (turn < TURNS)
      sched_yield();
    else
      pause_for(&pause);
  }
}

/* After a failure: nothing may be written into the caller's buffers any more. Sends that nobody
 * takes cannot be called back. */
static void cancel(neapi_endpoint *endpoint, int64_t recvs, int64_t count)
{
  for (int64_t i = 0; i < count; i++) {
    if (endpoint->requests[i] == MPI_REQUEST_NULL)
      continue;
    if (i < recvs) {
      MPI_Cancel(&endpoint->requests[i]);
      MPI_Wait(&endpoint->requests[i], MPI_STATUS_IGNORE);
    } else
      MPI_Request_free(&endpoint->requests[i]);
  }
}

/* Which message failed: Testall tells by the statuses. */
static int fail_finish(neapi_endpoint *endpoint, const neapi_call *call, int error, int64_t count)
{
  if (error == MPI_ERR_IN_STATUS)
    for (int64_t i = 0; i < count; i++) {
      int one = endpoint->statuses[i].MPI_ERROR;
      if (one != MPI_SUCCESS && one != MPI_ERR_PENDING)
        return fail_mpi(endpoint, call, one, endpoint->statuses[i].MPI_SOURCE);
    }
  return fail_mpi(endpoint, call, error, -1);
}

/* Compares what arrived with what was expected. */
static int check_received(neapi_endpoint *endpoint, const neapi_call *call,
                          const neap_message *recv, int64_t recvs)
{
  char what[160];
  int64_t at = 0;
  for (int64_t i = 0; i < recvs; i++) {
    int64_t left = recv[i].bytes;
    do {
      int bytes = left < SEGMENT ? (int)left : SEGMENT, got = 0;
      const MPI_Status *status = &endpoint->statuses[at++];
      MPI_Get_count(status, MPI_BYTE, &got);
      if (status->MPI_TAG != tag_of(call)) {
        snprintf(what, sizeof what,
                 "ranks disagree: rank %d sent %d bytes of its %s (operation %d)", recv[i].peer,
                 got, neapi_kind_name(status->MPI_TAG % (1 << KIND_BITS)),
                 status->MPI_TAG >> KIND_BITS);
        return fail(endpoint, call, what);
      }
      if (got != bytes) {
        snprintf(what, sizeof what, "rank %d sent %d bytes where %d were expected", recv[i].peer,
                 got, bytes);
        return fail(endpoint, call, what);
      }
      left -= bytes;
    } while (left);
  }
  return NEAP_OK;
}

static int exchange(neapi_endpoint *endpoint, const neapi_call *call, const neap_message *send,
                    int64_t sends, const neap_message *recv, int64_t recvs)
{
  if (endpoint->failed)
    return neapi_fail(NEAP_COMM, "%s", endpoint->failure);
  int64_t receiving = segments(recv, recvs), count = receiving + segments(send, sends), at = 0;
  if (count > INT32_MAX)
    return neapi_fail(NEAP_ARGUMENT, "comm: %" PRId64 " messages at once; at most %d are allowed",
                      count, INT32_MAX);
  int status = reserve(endpoint, count);
  if (status)
    return status;
  int error = MPI_SUCCESS;
  for (int64_t i = 0; i < recvs && !error; i++)
    error = start_message(endpoint, &recv[i], 0, true, &at);
  for (int64_t i = 0; i < sends && !error; i++)
    error = start_message(endpoint, &send[i], tag_of(call), false, &at);
  if (error)
    status = fail_mpi(endpoint, call, error, -1);
  else if ((error = finish(endpoint, count)))
    status = fail_finish(endpoint, call, error, count);
  else
    return check_received(endpoint, call, recv, recvs);
  cancel(endpoint, receiving < at ? receiving : at, at);
  return status;
}

static int barrier(neapi_endpoint *endpoint, const neapi_call *call)
{
  if (endpoint->failed)
    return neapi_fail(NEAP_COMM, "%s", endpoint->failure);
  int status = reserve(endpoint, 1);
  if (status)
    return status;
  int error = MPI_Ibarrier(endpoint->comm, endpoint->requests);
  if (!error)
    error = finish(endpoint, 1);
  return error ? fail_mpi(endpoint, call, error, -1) : NEAP_OK;
}

/* ---- endpoints ------------------------------------------------------------------------------- */

/* Takes over comm. */
static int endpoint_open(MPI_Comm comm, neapi_endpoint **out)
{
  neapi_endpoint *endpoint = neapi_alloc_zero(sizeof *endpoint, "comm: endpoint");
  if (!endpoint) {
    MPI_Comm_free(&comm);
    return NEAP_MEMORY;
  }
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  endpoint->comm = comm;
  MPI_Comm_rank(comm, &endpoint->rank);
  count_endpoints(1, false);
  *out = endpoint;
  return NEAP_OK;
}

static int split(neapi_endpoint *endpoint, const neapi_call *call, const int32_t *members,
                 int32_t rank, int32_t size, neapi_endpoint **out)
{
  (void)size;
  MPI_Comm comm;
  int error = MPI_Comm_split(endpoint->comm, members[0], rank, &comm);
  return error ? fail_mpi(endpoint, call, error, -1) : endpoint_open(comm, out);
}

static void endpoint_close(neapi_endpoint *endpoint)
{
  if (!endpoint->failed)
    MPI_Comm_free(&endpoint->comm);
  count_endpoints(-1, false);
  free(endpoint->requests);
  free(endpoint->statuses);
  free(endpoint);
}

const neapi_transport neapi_mpi_transport = {"mpi",   false, exchange,
                                             barrier, split, endpoint_close};

static void find_rank_info(MPI_Comm comm, neapi_rank_info *info)
{
  MPI_Comm host;
  MPI_Comm_rank(comm, &info->rank);
  MPI_Comm_size(comm, &info->size);
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, info->rank, MPI_INFO_NULL, &host);
  MPI_Comm_rank(host, &info->local_rank);
  MPI_Comm_size(host, &info->local_size);
  MPI_Comm_free(&host);
}

static int connect_processes(neapi_endpoint **out, neapi_rank_info *info)
{
  int status = start();
  if (status)
    return status;
  MPI_Comm comm;
  int error;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  error = MPI_Comm_dup(MPI_COMM_WORLD, &comm);
  if (error) {
    char text[MPI_MAX_ERROR_STRING] = "";
    MPI_Error_string(error, text, &(int){0});
    return neapi_fail(NEAP_COMM, "comm_open_mpi: cannot duplicate MPI_COMM_WORLD: %s", text);
  }
  find_rank_info(comm, info);
  return endpoint_open(comm, out);
}

int neapi_mpi_endpoint_open(neapi_endpoint **out, neapi_rank_info *info)
{
  neapi_watchdog_connecting(true);
  int status = connect_processes(out, info);
  neapi_watchdog_connecting(false);
  return status;
}

/* ---- watchdogs ------------------------------------------------------------------------------- */

enum { WATCH_TAG = 1 };

/* What is sent stays allocated: it may be taken at any time, and there is little of it. */
static void watch_send(int32_t peer, const void *data, int32_t bytes)
{
  MPI_Request request;
  void *copy = neapi_alloc(bytes, "comm: watchdog");
  pthread_mutex_lock(&lock);
  if (copy && state.watching) {
    memcpy(copy, data, (size_t)bytes);
    if (!MPI_Isend(copy, bytes, MPI_BYTE, peer, WATCH_TAG, watch_comm, &request))
      MPI_Request_free(&request);
  } else
    free(copy);
  pthread_mutex_unlock(&lock);
}

static bool watch_receive(void *data, int32_t bytes)
{
  int there = 0;
  MPI_Status status;
  pthread_mutex_lock(&lock);
  if (state.watching && !MPI_Iprobe(MPI_ANY_SOURCE, WATCH_TAG, watch_comm, &there, &status) &&
      there)
    there = !MPI_Recv(data, bytes, MPI_BYTE, status.MPI_SOURCE, WATCH_TAG, watch_comm, &status);
  pthread_mutex_unlock(&lock);
  return there;
}

void neapi_mpi_watch(void)
{
  static const neapi_watch_peers by_mpi = {watch_send, watch_receive};
  pthread_mutex_lock(&lock);
  bool first = !state.watching;
  pthread_mutex_unlock(&lock);
  neapi_watchdog_connecting(true);
  if (first && MPI_Comm_dup(MPI_COMM_WORLD, &watch_comm) == MPI_SUCCESS) {
    MPI_Comm_set_errhandler(watch_comm, MPI_ERRORS_RETURN);
    pthread_mutex_lock(&lock);
    state.watching = true;
    pthread_mutex_unlock(&lock);
  }
  neapi_watchdog_connecting(false);
  neapi_watchdog_start(&by_mpi);
}

int neap_comm_open_mpi(neap_comm **out)
{
  neapi_endpoint *endpoint;
  neapi_rank_info info;
  int status = neapi_mpi_endpoint_open(&endpoint, &info);
  if (status)
    return status;
  neapi_mpi_watch();
  return neapi_comm_open(&neapi_mpi_transport, endpoint, info.rank, info.size,
                         neapi_flight_open(info.rank, info.size, NULL, NULL), out);
}
