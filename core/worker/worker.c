/* SPDX-License-Identifier: Apache-2.0 */
/* Workers, seen from the rank: requests out, answers in, and what to do when none come. */
#define _GNU_SOURCE
#include "worker/channel.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct neap_worker {
  char *setup;
  bool trusted;
  neapi_channel_size size;
  neapi_channel channel;
  int control;      /* socket to the spawner: closing it kills the process; -1: there is none */
  uint32_t sent;    /* requests, the setup included */
  uint32_t taken;   /* answers */
  uint32_t turn;    /* of the hook that was running when last looked at */
  double turn_seen; /* when that was seen first */
};

/* How often a waiting rank looks whether the worker still lives. */
static const double LOOK_SECONDS = 5e-3;

/* ---- start and end --------------------------------------------------------------------------- */

/* A sealed region of shared memory: its size is final, and a region for the worker to read cannot
 * be written by anyone who maps it later. */
static int open_region(int64_t bytes, bool for_reading, int *fd, void **memory)
{
  *fd = memfd_create("neap-worker", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (*fd < 0 || ftruncate(*fd, bytes)) {
    int why = errno;
    if (*fd >= 0)
      close(*fd);
    return neapi_fail(NEAP_SYSTEM, "worker: no shared memory of %lld bytes: %s", (long long)bytes,
                      strerror(why));
  }
  *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | (for_reading ? F_SEAL_FUTURE_WRITE : 0);
  if (*memory == MAP_FAILED || fcntl(*fd, F_ADD_SEALS, seals)) {
    int why = errno;
    if (*memory != MAP_FAILED)
      munmap(*memory, (size_t)bytes);
    close(*fd);
    return neapi_fail(NEAP_SYSTEM, "worker: shared memory of %lld bytes: %s", (long long)bytes,
                      strerror(why));
  }
  return NEAP_OK;
}

static void end(neap_worker *w)
{
  if (w->control >= 0)
    close(w->control);
  w->control = -1;
  if (w->channel.requests) {
    munmap(w->channel.requests, (size_t)w->channel.requests_bytes);
    munmap(w->channel.answers, (size_t)w->channel.answers_bytes);
  }
  w->channel.requests = NULL;
}

static int start(neap_worker *w)
{
  int requests_fd, answers_fd;
  void *requests, *answers;
  int64_t requests_bytes = neapi_requests_bytes(&w->size);
  int64_t answers_bytes = neapi_answers_bytes(&w->size);
  int status = open_region(requests_bytes, true, &requests_fd, &requests);
  if (status)
    return status;
  status = open_region(answers_bytes, false, &answers_fd, &answers);
  if (status) {
    munmap(requests, (size_t)requests_bytes);
    close(requests_fd);
    return status;
  }
  w->channel = (neapi_channel){requests, answers, requests_bytes, answers_bytes};
  w->channel.requests->size = w->size;
  memcpy(neapi_channel_setup(&w->channel), w->setup, (size_t)w->size.setup_bytes);
  w->sent = w->channel.requests->sent = 1;
  w->taken = w->turn = 0;
  status = neapi_spawner_spawn(requests_fd, answers_fd, w->trusted, &w->control);
  close(requests_fd);
  close(answers_fd);
  if (status)
    end(w);
  return status;
}

static int check_size(const neapi_channel_size *size)
{
  int64_t most = 1ll << 40;
  if (size->slots < 2 || size->slots > 1 << 20 || size->request_bytes < 0 ||
      size->request_bytes > most || size->answer_bytes < 0 || size->answer_bytes > most ||
      size->bulk_bytes < 0 || size->bulk_bytes > most)
    return neapi_fail(NEAP_ARGUMENT,
                      "worker: %d slots, %lld, %lld and %lld bytes; allowed are 2 to 2^20 slots "
                      "and 0 to 2^40 bytes",
                      size->slots, (long long)size->request_bytes, (long long)size->answer_bytes,
                      (long long)size->bulk_bytes);
  return NEAP_OK;
}

int neap_worker_open(const char *setup, int32_t slots, int64_t request_bytes, int64_t answer_bytes,
                     int64_t bulk_bytes, int trusted, neap_worker **out)
{
  neapi_channel_size size = {request_bytes, answer_bytes, bulk_bytes, (int64_t)strlen(setup) + 1,
                             slots};
  int status = check_size(&size);
  if (status)
    return status;
  neap_worker *w = neapi_alloc_zero(sizeof *w, "worker");
  if (!w)
    return NEAP_MEMORY;
  w->size = size;
  w->trusted = trusted;
  w->control = -1;
  w->setup = neapi_alloc(size.setup_bytes, "worker");
  status = w->setup ? NEAP_OK : NEAP_MEMORY;
  if (!status) {
    memcpy(w->setup, setup, (size_t)size.setup_bytes);
    status = start(w);
  }
  if (status) {
    neap_worker_close(w);
    return status;
  }
  *out = w;
  return NEAP_OK;
}

int neap_worker_restart(neap_worker *w)
{
  end(w);
  return start(w);
}

void neap_worker_close(neap_worker *w)
{
  if (!w)
    return;
  end(w);
  free(w->setup);
  free(w);
}

/* ---- requests -------------------------------------------------------------------------------- */

int32_t neap_worker_pending(const neap_worker *w)
{
  return w->control >= 0 ? (int32_t)(w->sent - w->taken) : 0;
}

int neap_worker_send(neap_worker *w, const neap_policy_message *message, const void *first,
                     int64_t first_bytes, const void *second, int64_t second_bytes)
{
  if (w->control < 0)
    return neapi_fail(NEAP_ARGUMENT, "worker: it has ended");
  if (neap_worker_pending(w) >= w->size.slots)
    return neapi_fail(NEAP_ARGUMENT, "worker: %d requests are under way; that is all that fit",
                      w->size.slots);
  if (first_bytes < 0 || second_bytes < 0 || first_bytes + second_bytes > w->size.request_bytes)
    return neapi_fail(NEAP_ARGUMENT, "worker: a request of %lld bytes; allowed are 0 to %lld",
                      (long long)(first_bytes + second_bytes), (long long)w->size.request_bytes);
  neap_policy_message *slot = neapi_channel_request(&w->channel, &w->size, w->sent);
  memcpy(slot, message, sizeof *message);
  char *payload = neapi_message_payload(slot);
  if (first_bytes)
    memcpy(payload, first, (size_t)first_bytes);
  if (second_bytes)
    memcpy(payload + first_bytes, second, (size_t)second_bytes);
  w->sent++;
  neapi_channel_publish(&w->channel.requests->sent, w->sent, &w->channel.answers->asleep);
  return NEAP_OK;
}

/* ---- answers --------------------------------------------------------------------------------- */

/* Puts into message what the worker is busy with, as far as it can be believed. */
static void describe(const neap_worker *w, int32_t kind, neap_policy_message *message)
{
  const volatile neapi_answers *answers = w->channel.answers;
  *message = (neap_policy_message){.kind = kind, .layer = answers->layer, .step = answers->step};
  message->about = answers->turn & 1 ? answers->kind : 0;
}

/* Copies the next answer out of shared memory and takes it; what it says may still be nonsense. */
static void take(neap_worker *w, neap_policy_message *message, void *payload)
{
  neap_policy_message *slot = neapi_channel_answer(&w->channel, &w->size, w->taken);
  memcpy(message, slot, sizeof *message);
  message->text[sizeof message->text - 1] = 0;
  if (payload)
    memcpy(payload, neapi_message_payload(slot), (size_t)w->size.answer_bytes);
  w->taken++;
  if (message->kind <= 0 || !isfinite(message->seconds))
    describe(w, NEAP_WORKER_DAMAGED, message);
}

/* Whether a hook has run for longer than the deadline. Its start is what the worker says, but not
 * later than when this rank saw it first. */
static bool overdue(neap_worker *w, double deadline)
{
  const neapi_answers *answers = w->channel.answers;
  double now = neap_clock(), since;
  uint32_t turn = __atomic_load_n(&answers->turn, __ATOMIC_ACQUIRE);
  __atomic_load(&answers->since, &since, __ATOMIC_RELAXED);
  if (turn != w->turn) {
    w->turn = turn;
    w->turn_seen = now;
  }
  double start = since > 0 && since < w->turn_seen ? since : w->turn_seen;
  return (turn & 1) && now - start > deadline;
}

/* How the process ended, from what the spawner says. */
static void describe_end(int status, char *text, size_t bytes)
{
  if (status <= NEAPI_NOT_STARTED)
    snprintf(text, bytes, "it could not be started: %s", strerror(NEAPI_NOT_STARTED - status));
  else if (status < 0)
    snprintf(text, bytes,
             "no process could be started, or it went unseen; limits on open files and "
             "processes (ulimit -n, -u) are a cause");
  else if (WIFSIGNALED(status))
    snprintf(text, bytes, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
  else
    snprintf(text, bytes, "exit status %d", WEXITSTATUS(status));
}

/* One look: an answer, an end, a hook past its deadline, or nothing (kind 0). */
static void look(neap_worker *w, double deadline, neap_policy_message *message, void *payload)
{
  uint32_t sent = __atomic_load_n(&w->channel.answers->sent, __ATOMIC_ACQUIRE);
  int status = 0;
  if (sent - w->taken > w->sent - w->taken)
    describe(w, NEAP_WORKER_DAMAGED, message);
  else if (sent != w->taken)
    take(w, message, payload);
  else if (neapi_spawner_ended(w->control, &status))
    describe(w, NEAP_WORKER_DEAD, message);
  else if (overdue(w, deadline))
    describe(w, NEAP_WORKER_OVERDUE, message);
  else
    message->kind = 0;
  if (message->kind != NEAP_WORKER_DEAD)
    return;
  describe_end(status, message->text, sizeof message->text);
}

int neap_worker_receive(neap_worker *w, double timeout, double deadline,
                        neap_policy_message *message, void *payload)
{
  if (w->control < 0)
    return neapi_fail(NEAP_ARGUMENT, "worker: it has ended");
  double until = neap_clock() + timeout;
  for (;;) {
    double left = until - neap_clock();
    if (left > 0)
      neapi_channel_wait(&w->channel.answers->sent, w->taken, &w->channel.requests->asleep,
                         left < LOOK_SECONDS ? left : LOOK_SECONDS);
    look(w, deadline, message, payload);
    if (message->kind || left <= 0)
      return NEAP_OK;
  }
}

const void *neap_worker_bulk(const neap_worker *w)
{
  return neapi_channel_bulk(&w->channel);
}
