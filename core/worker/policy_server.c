/* SPDX-License-Identifier: Apache-2.0 */
/* The worker's side of the shared memory: requests in, answers out. */
#define _GNU_SOURCE
#include "worker/channel.h"
#include "worker/sandbox.h"

#include "base/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct neap_policy_server {
  neapi_channel channel;
  neapi_channel_size size;
  uint32_t taken; /* requests, the setup included */
  uint32_t sent;  /* answers */
};

static int map(int fd, int protection, void **memory, int64_t *bytes)
{
  struct stat info;
  if (fstat(fd, &info))
    return neapi_fail(NEAP_SYSTEM, "policy server: file descriptor %d: %s", fd, strerror(errno));
  *bytes = info.st_size;
  *memory = mmap(NULL, (size_t)info.st_size, protection, MAP_SHARED, fd, 0);
  close(fd);
  if (*memory == MAP_FAILED)
    return neapi_fail(NEAP_SYSTEM, "policy server: no map of %lld bytes: %s",
                      (long long)info.st_size, strerror(errno));
  return NEAP_OK;
}

int neap_policy_server_confine(void)
{
  return neapi_sandbox_enter();
}

int neap_policy_server_confines(void)
{
  return neapi_sandbox_available();
}

static void release(neap_policy_server *d)
{
  if (d->channel.requests)
    munmap(d->channel.requests, (size_t)d->channel.requests_bytes);
  if (d->channel.answers)
    munmap(d->channel.answers, (size_t)d->channel.answers_bytes);
  free(d);
}

int neap_policy_server_open(int32_t requests_fd, int32_t answers_fd, neap_policy_server **out)
{
  void *requests, *answers;
  neap_policy_server *d = neapi_alloc_zero(sizeof *d, "policy server");
  if (!d)
    return NEAP_MEMORY;
  int status = map(requests_fd, PROT_READ, &requests, &d->channel.requests_bytes);
  if (!status) {
    d->channel.requests = requests;
    status = map(answers_fd, PROT_READ | PROT_WRITE, &answers, &d->channel.answers_bytes);
  }
  if (status) {
    release(d);
    return status;
  }
  d->channel.answers = answers;
  d->size = d->channel.requests->size;
  d->taken = 1;
  *out = d;
  return NEAP_OK;
}

const char *neap_policy_server_setup(const neap_policy_server *d)
{
  return neapi_channel_setup(&d->channel);
}

int neap_policy_server_receive(neap_policy_server *d, double timeout, neap_policy_message *message,
                               const void **payload)
{
  const uint32_t *sent = &d->channel.requests->sent;
  bool there = __atomic_load_n(sent, __ATOMIC_ACQUIRE) != d->taken;
  if (!there && timeout > 0)
    there = neapi_channel_wait(sent, d->taken, &d->channel.answers->asleep, timeout);
  if (!there) {
    message->kind = 0;
    return NEAP_OK;
  }
  neap_policy_message *slot = neapi_channel_request(&d->channel, &d->size, d->taken++);
  memcpy(message, slot, sizeof *message);
  *payload = neapi_message_payload(slot);
  return NEAP_OK;
}

void neap_policy_server_begin(neap_policy_server *d, int32_t kind, int64_t step, int32_t layer)
{
  neapi_answers *answers = d->channel.answers;
  double now = neap_clock();
  answers->kind = kind;
  answers->step = step;
  answers->layer = layer;
  __atomic_store(&answers->since, &now, __ATOMIC_RELAXED);
  __atomic_store_n(&answers->turn, (answers->turn + 1) | 1, __ATOMIC_RELEASE);
}

void neap_policy_server_end(neap_policy_server *d)
{
  neapi_answers *answers = d->channel.answers;
  __atomic_store_n(&answers->turn, (answers->turn + 1) & ~1u, __ATOMIC_RELEASE);
}

int neap_policy_server_answer(neap_policy_server *d, const neap_policy_message *message,
                              const void *payload, int64_t bytes)
{
  if (bytes < 0 || bytes > d->size.answer_bytes)
    return neapi_fail(NEAP_ARGUMENT,
                      "policy server: an answer of %lld bytes; allowed are 0 to %lld",
                      (long long)bytes, (long long)d->size.answer_bytes);
  neap_policy_message *slot = neapi_channel_answer(&d->channel, &d->size, d->sent);
  memcpy(slot, message, sizeof *message);
  if (bytes)
    memcpy(neapi_message_payload(slot), payload, (size_t)bytes);
  d->sent++;
  neapi_channel_publish(&d->channel.answers->sent, d->sent, &d->channel.requests->asleep);
  return NEAP_OK;
}

void *neap_policy_server_bulk(const neap_policy_server *d)
{
  return neapi_channel_bulk(&d->channel);
}
