/* SPDX-License-Identifier: Apache-2.0 */
/* An NCCL without a GPU, for the fake device: messages go by MPI, from the stream's thread. Behaves
 * as one that lets ranks share a GPU, or as the environment says:
 *   FAKE_NCCL_VERSION=22800   the version that it tells
 *   FAKE_NCCL_POLLS=N         how often a group's end says that it is still being started
 *   FAKE_NCCL_FAILS=N         the N-th group of rank 1 ends in an error that comes later */
#include "device.h"

#include <mpi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS, REMOTE_ERROR = 6, IN_PROGRESS = 7, MESSAGES = 8192 };

typedef struct {
  char bytes[128];
} id;

typedef struct {
  MPI_Comm ranks;
  int rank, groups; /* of the calling threads */
  int error;        /* atomic; what polls see */
  int busy;         /* atomic: polls that are still told to come again */
  int aborted;      /* atomic: what is on the stream gives up */
} comm;

typedef struct {
  void *data;
  size_t bytes;
  int peer, receives;
} message;

/* What a thread has grouped. */
typedef struct {
  comm *of;
  void *stream;
  int count;
  message list[MESSAGES];
} group;

static _Thread_local group *grouped;

static int of_environment(const char *name, int otherwise)
{
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

EXPORT int ncclGetVersion(int *version)
{
  *version = of_environment("FAKE_NCCL_VERSION", 23007);
  return SUCCESS;
}

EXPORT const char *ncclGetErrorString(int error)
{
  return error == REMOTE_ERROR ? "remote process exited or there was a network error" : "fake";
}

EXPORT const char *ncclGetLastError(comm *c)
{
  return c ? "last words" : "";
}

EXPORT int ncclGetUniqueId(id *out)
{
  static int count;
  memset(out, 0, sizeof *out);
  int key = (getpid() % 10000 * 1000 + ++count) % 2000000000;
  memcpy(out, &key, sizeof key);
  return SUCCESS;
}

/* All processes call it at the same time, in groups that have an id each: none may be alone in its
 * group, since it would not call. */
EXPORT int ncclCommInitRankConfig(comm **out, int ranks, id of, int rank, const void *config)
{
  comm *c = calloc(1, sizeof *c);
  int key, size;
  (void)config;
  memcpy(&key, &of, sizeof key);
  MPI_Comm_split(MPI_COMM_WORLD, key, rank, &c->ranks);
  MPI_Comm_size(c->ranks, &size);
  c->rank = rank;
  c->busy = 3;
  *out = c;
  return size == ranks ? IN_PROGRESS : 1;
}

EXPORT int ncclCommGetAsyncError(comm *c, int *error)
{
  int left = __atomic_load_n(&c->busy, __ATOMIC_ACQUIRE);
  *error = __atomic_load_n(&c->error, __ATOMIC_ACQUIRE);
  if (!*error && left > 0) {
    __atomic_sub_fetch(&c->busy, 1, __ATOMIC_ACQ_REL);
    *error = IN_PROGRESS;
  }
  return SUCCESS;
}

EXPORT int ncclCommFinalize(comm *c)
{
  __atomic_store_n(&c->busy, 2, __ATOMIC_RELEASE);
  return IN_PROGRESS;
}

EXPORT int ncclCommDestroy(comm *c)
{
  MPI_Comm_free(&c->ranks);
  free(c);
  return SUCCESS;
}

/* What is on the stream may still look at it: it stays. */
EXPORT int ncclCommAbort(comm *c)
{
  __atomic_store_n(&c->aborted, 1, __ATOMIC_RELEASE);
  return SUCCESS;
}

EXPORT int ncclGroupStart(void)
{
  grouped = calloc(1, sizeof *grouped);
  return SUCCESS;
}

static void add(void *data, size_t bytes, int peer, int receives, comm *c, void *stream)
{
  grouped->of = c;
  grouped->stream = stream;
  if (grouped->count == MESSAGES)
    abort();
  grouped->list[grouped->count++] = (message){data, bytes, peer, receives};
}

EXPORT int ncclSend(const void *data, size_t count, int type, int peer, comm *c, void *stream)
{
  (void)type;
  add((void *)data, count, peer, 0, c, stream);
  return SUCCESS;
}

EXPORT int ncclRecv(void *data, size_t count, int type, int peer, comm *c, void *stream)
{
  (void)type;
  add(data, count, peer, 1, c, stream);
  return SUCCESS;
}

static void deliver(void *argument)
{
  group *g = argument;
  MPI_Request *requests = malloc((size_t)g->count * sizeof *requests);
  int done = 0;
  for (int i = 0; i < g->count; i++) {
    const message *m = &g->list[i];
    if (m->receives)
      MPI_Irecv(m->data, (int)m->bytes, MPI_BYTE, m->peer, 1, g->of->ranks, &requests[i]);
    else
      MPI_Isend(m->data, (int)m->bytes, MPI_BYTE, m->peer, 1, g->of->ranks, &requests[i]);
  }
  while (!done && !__atomic_load_n(&g->of->aborted, __ATOMIC_ACQUIRE)) {
    MPI_Testall(g->count, requests, &done, MPI_STATUSES_IGNORE);
    if (!done)
      usleep(20);
  }
  for (int i = 0; i < g->count && !done; i++)
    if (requests[i] != MPI_REQUEST_NULL && g->list[i].receives)
      MPI_Cancel(&requests[i]);
  free(requests);
  free(g);
}

static void break_down(void *argument)
{
  group *g = argument;
  usleep(50000);
  __atomic_store_n(&g->of->error, REMOTE_ERROR, __ATOMIC_RELEASE);
  free(g);
}

EXPORT int ncclGroupEnd(void)
{
  group *g = grouped;
  grouped = NULL;
  if (!g->count) {
    free(g);
    return SUCCESS;
  }
  int fails = of_environment("FAKE_NCCL_FAILS", 0);
  __atomic_store_n(&g->of->busy, of_environment("FAKE_NCCL_POLLS", 1), __ATOMIC_RELEASE);
  fake_enqueue(g->stream, ++g->of->groups == fails && g->of->rank == 1 ? break_down : deliver, g);
  return IN_PROGRESS;
}
