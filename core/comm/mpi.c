/*
 * Transport over MPI: a communicator of MPI's own for each of ours, so that they do not disturb
 * each other; non-blocking messages that are polled with growing pauses, since MPI's own waiting
 * spins and there may be more ranks than cores.
 *
 * A message's tag tells the operation it belongs to. Receives take any tag of their source, whose
 * messages arrive in order, and compare it: ranks that disagree fail instead of mixing up data.
 */
#include "comm/transport.h"

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
  PIECE = 1 << 30, /* bytes: MPI counts in int */
  KIND_BITS = 4,
  TAGS = 1 << 15, /* MPI promises that many */
  TURNS = 64,     /* polls that only yield, before pauses begin */
  PAUSE_MIN = 5000,
  PAUSE_MAX = 100000 /* ns */
};

_Static_assert(NEAPI_KINDS <= 1 << KIND_BITS, "a kind fits into its bits of a tag");

struct neapi_endpoint {
  MPI_Comm comm;
  int32_t rank;
  int64_t room;          /* of the next two */
  MPI_Request *requests; /* receives, then sends */
  MPI_Status *statuses;
  bool failed;
  char failure[512];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
  bool finalizer; /* registered: we have started MPI and shall end it */
  bool failed;    /* an operation failed: ending MPI in order might hang */
  int32_t links;
} state;

/* ---- starting and ending MPI ----------------------------------------------------------------- */

/* At exit: ends MPI if everything was closed in order. Otherwise mpirun sees a process that leaves
 * without a word and ends the others. */
static void finalize(void)
{
  int done = 0;
  MPI_Finalized(&done);
  if (!done && !state.failed && !state.links)
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

static void count_links(int32_t more, bool failed)
{
  pthread_mutex_lock(&lock);
  state.links += more;
  state.failed = state.failed || failed;
  pthread_mutex_unlock(&lock);
}

/* ---- errors ---------------------------------------------------------------------------------- */

/* The link fails with this and every later operation. */
static int fail(neapi_endpoint *link, const neapi_call *call, const char *what)
{
  char text[NEAPI_CALL_TEXT];
  snprintf(link->failure, sizeof link->failure, "comm: rank %d, %s (its operation %" PRId64 "): %s",
           link->rank, neapi_call_text(call, text), call->number, what);
  link->failed = true;
  count_links(0, true);
  return neapi_fail(NEAP_COMM, "%s", link->failure);
}

static int fail_mpi(neapi_endpoint *link, const neapi_call *call, int error, int32_t peer)
{
  char text[MPI_MAX_ERROR_STRING] = "", what[MPI_MAX_ERROR_STRING + 64];
  int length = 0;
  MPI_Error_string(error, text, &length);
  if (peer >= 0)
    snprintf(what, sizeof what, "message of rank %d: %s", peer, text);
  else
    snprintf(what, sizeof what, "%s", text);
  return fail(link, call, what);
}

/* ---- messages -------------------------------------------------------------------------------- */

static int tag_of(const neapi_call *call)
{
  return (int)((call->number << KIND_BITS | call->kind) % TAGS);
}

static int64_t pieces(const neap_message *list, int64_t count)
{
  int64_t total = 0;
  for (int64_t i = 0; i < count; i++)
    total += list[i].bytes ? (list[i].bytes + PIECE - 1) / PIECE : 1;
  return total;
}

static int reserve(neapi_endpoint *link, int64_t count)
{
  if (count <= link->room)
    return NEAP_OK;
  free(link->requests);
  free(link->statuses);
  link->room = 0;
  link->requests = neapi_alloc(count * (int64_t)sizeof *link->requests, "comm: messages");
  link->statuses = neapi_alloc(count * (int64_t)sizeof *link->statuses, "comm: messages");
  if (!link->requests || !link->statuses)
    return NEAP_MEMORY;
  link->room = count;
  return NEAP_OK;
}

/* Starts the message's pieces as requests from *at on. */
static int start_message(neapi_endpoint *link, const neap_message *message, int tag, bool receive,
                         int64_t *at)
{
  int64_t left = message->bytes;
  char *data = message->data;
  do {
    int bytes = left < PIECE ? (int)left : PIECE;
    MPI_Request *request = &link->requests[*at];
    int error =
        receive ? MPI_Irecv(data, bytes, MPI_BYTE, message->peer, MPI_ANY_TAG, link->comm, request)
                : MPI_Isend(data, bytes, MPI_BYTE, message->peer, tag, link->comm, request);
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
static int finish(neapi_endpoint *link, int64_t count)
{
  int64_t pause = PAUSE_MIN;
  for (int turn = 0;; turn++) {
    int done = 0;
    int error = MPI_Testall((int)count, link->requests, &done, link->statuses);
    if (error || done)
      return error;
    if (turn < TURNS)
      sched_yield();
    else
      pause_for(&pause);
  }
}

/* After a failure: nothing may be written into the caller's buffers any more. Sends that nobody
 * takes cannot be called back. */
static void cancel(neapi_endpoint *link, int64_t recvs, int64_t count)
{
  for (int64_t i = 0; i < count; i++) {
    if (link->requests[i] == MPI_REQUEST_NULL)
      continue;
    if (i < recvs) {
      MPI_Cancel(&link->requests[i]);
      MPI_Wait(&link->requests[i], MPI_STATUS_IGNORE);
    } else
      MPI_Request_free(&link->requests[i]);
  }
}

/* Which message failed: Testall tells by the statuses. */
static int fail_finish(neapi_endpoint *link, const neapi_call *call, int error, int64_t count)
{
  if (error == MPI_ERR_IN_STATUS)
    for (int64_t i = 0; i < count; i++) {
      int one = link->statuses[i].MPI_ERROR;
      if (one != MPI_SUCCESS && one != MPI_ERR_PENDING)
        return fail_mpi(link, call, one, link->statuses[i].MPI_SOURCE);
    }
  return fail_mpi(link, call, error, -1);
}

/* Compares what arrived with what was expected. */
static int check_received(neapi_endpoint *link, const neapi_call *call, const neap_message *recv,
                          int64_t recvs)
{
  char what[160];
  int64_t at = 0;
  for (int64_t i = 0; i < recvs; i++) {
    int64_t left = recv[i].bytes;
    do {
      int bytes = left < PIECE ? (int)left : PIECE, got = 0;
      const MPI_Status *status = &link->statuses[at++];
      MPI_Get_count(status, MPI_BYTE, &got);
      if (status->MPI_TAG != tag_of(call)) {
        snprintf(what, sizeof what,
                 "ranks disagree: rank %d sent %d bytes of its %s (operation %d)", recv[i].peer,
                 got, neapi_kind_name(status->MPI_TAG % (1 << KIND_BITS)),
                 status->MPI_TAG >> KIND_BITS);
        return fail(link, call, what);
      }
      if (got != bytes) {
        snprintf(what, sizeof what, "rank %d sent %d bytes where %d were expected", recv[i].peer,
                 got, bytes);
        return fail(link, call, what);
      }
      left -= bytes;
    } while (left);
  }
  return NEAP_OK;
}

static int exchange(neapi_endpoint *link, const neapi_call *call, const neap_message *send,
                    int64_t sends, const neap_message *recv, int64_t recvs)
{
  if (link->failed)
    return neapi_fail(NEAP_COMM, "%s", link->failure);
  int64_t receiving = pieces(recv, recvs), count = receiving + pieces(send, sends), at = 0;
  if (count > INT32_MAX)
    return neapi_fail(NEAP_ARGUMENT, "comm: %" PRId64 " messages at once; at most %d are allowed",
                      count, INT32_MAX);
  int status = reserve(link, count);
  if (status)
    return status;
  int error = MPI_SUCCESS;
  for (int64_t i = 0; i < recvs && !error; i++)
    error = start_message(link, &recv[i], 0, true, &at);
  for (int64_t i = 0; i < sends && !error; i++)
    error = start_message(link, &send[i], tag_of(call), false, &at);
  if (error)
    status = fail_mpi(link, call, error, -1);
  else if ((error = finish(link, count)))
    status = fail_finish(link, call, error, count);
  else
    return check_received(link, call, recv, recvs);
  cancel(link, receiving < at ? receiving : at, at);
  return status;
}

static int barrier(neapi_endpoint *link, const neapi_call *call)
{
  if (link->failed)
    return neapi_fail(NEAP_COMM, "%s", link->failure);
  int status = reserve(link, 1);
  if (status)
    return status;
  int error = MPI_Ibarrier(link->comm, link->requests);
  if (!error)
    error = finish(link, 1);
  return error ? fail_mpi(link, call, error, -1) : NEAP_OK;
}

/* ---- links ----------------------------------------------------------------------------------- */

/* Takes over comm. */
static int link_open(MPI_Comm comm, neapi_endpoint **out)
{
  neapi_endpoint *link = neapi_alloc_zero(sizeof *link, "comm: link");
  if (!link) {
    MPI_Comm_free(&comm);
    return NEAP_MEMORY;
  }
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  link->comm = comm;
  MPI_Comm_rank(comm, &link->rank);
  count_links(1, false);
  *out = link;
  return NEAP_OK;
}

static int split(neapi_endpoint *link, const neapi_call *call, const int32_t *members, int32_t rank,
                 int32_t size, neapi_endpoint **out)
{
  (void)size;
  MPI_Comm comm;
  int error = MPI_Comm_split(link->comm, members[0], rank, &comm);
  return error ? fail_mpi(link, call, error, -1) : link_open(comm, out);
}

static void link_close(neapi_endpoint *link)
{
  if (!link->failed)
    MPI_Comm_free(&link->comm);
  count_links(-1, false);
  free(link->requests);
  free(link->statuses);
  free(link);
}

const neapi_transport neapi_mpi_transport = {"mpi", false, exchange, barrier, split, link_close};

int neapi_mpi_gather(neapi_endpoint *link, const neapi_call *call, const void *data, int32_t bytes,
                     void *out)
{
  if (link->failed)
    return neapi_fail(NEAP_COMM, "%s", link->failure);
  int status = reserve(link, 1);
  if (status)
    return status;
  int error =
      MPI_Iallgather(data, bytes, MPI_BYTE, out, bytes, MPI_BYTE, link->comm, link->requests);
  if (!error)
    error = finish(link, 1);
  return error ? fail_mpi(link, call, error, -1) : NEAP_OK;
}

static void find_place(MPI_Comm comm, neapi_rank_info *place)
{
  MPI_Comm host;
  MPI_Comm_rank(comm, &place->rank);
  MPI_Comm_size(comm, &place->size);
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, place->rank, MPI_INFO_NULL, &host);
  MPI_Comm_rank(host, &place->local_rank);
  MPI_Comm_size(host, &place->local_size);
  MPI_Comm_free(&host);
}

int neapi_mpi_endpoint_open(neapi_endpoint **out, neapi_rank_info *place)
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
  find_place(comm, place);
  return link_open(comm, out);
}

int neap_comm_open_mpi(neap_comm **out)
{
  neapi_endpoint *link;
  neapi_rank_info place;
  int status = neapi_mpi_endpoint_open(&link, &place);
  return status ? status : neapi_comm_open(&neapi_mpi_transport, link, place.rank, place.size, out);
}
