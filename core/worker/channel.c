/* SPDX-License-Identifier: Apache-2.0 */
/* Shared memory between a rank and its worker: where things are, and how one side wakes the
 * other. */
#include "worker/channel.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long a waiting side stays awake: at first without giving way, then letting others have the
 * core whenever they want it. Longer than it takes to wake a process: otherwise two sides that wait
 * for each other could both fall asleep just before they are needed, again and again. */
static const double ALERT_SECONDS = 1e-6, AWAKE_SECONDS = 150e-6;

static int64_t align(int64_t bytes)
{
  return (bytes + 63) / 64 * 64;
}

static int64_t slot_bytes(int64_t payload)
{
  return align((int64_t)sizeof(neap_policy_message)) + align(payload);
}

int64_t neapi_requests_bytes(const neapi_channel_size *size)
{
  return align((int64_t)sizeof(neapi_requests)) + align(size->setup_bytes) +
         size->slots * slot_bytes(size->request_bytes);
}

int64_t neapi_answers_bytes(const neapi_channel_size *size)
{
  return align((int64_t)sizeof(neapi_answers)) + align(size->bulk_bytes) +
         size->slots * slot_bytes(size->answer_bytes);
}

char *neapi_channel_setup(const neapi_channel *channel)
{
  return (char *)channel->requests + align((int64_t)sizeof(neapi_requests));
}

void *neapi_channel_bulk(const neapi_channel *channel)
{
  return (char *)channel->answers + align((int64_t)sizeof(neapi_answers));
}

neap_policy_message *neapi_channel_request(const neapi_channel *channel,
                                           const neapi_channel_size *size, uint32_t index)
{
  char *first = neapi_channel_setup(channel) + align(size->setup_bytes);
  return (neap_policy_message *)(first +
                                 index % (uint32_t)size->slots * slot_bytes(size->request_bytes));
}

neap_policy_message *neapi_channel_answer(const neapi_channel *channel,
                                          const neapi_channel_size *size, uint32_t index)
{
  char *first = (char *)neapi_channel_bulk(channel) + align(size->bulk_bytes);
  return (neap_policy_message *)(first +
                                 index % (uint32_t)size->slots * slot_bytes(size->answer_bytes));
}

void *neapi_message_payload(neap_policy_message *message)
{
  return (char *)message + align((int64_t)sizeof *message);
}

static uint32_t load(const uint32_t *word)
{
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

void neapi_channel_publish(uint32_t *count, uint32_t value, const uint32_t *other_asleep)
{
  __atomic_store_n(count, value, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(other_asleep, __ATOMIC_SEQ_CST))
    syscall(SYS_futex, count, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool wait_awake(const uint32_t *count, uint32_t old, double seconds)
{
  double start = neap_clock(), now = start;
  do {
    for (int i = 0; i < 16; i++) {
      if (load(count) != old)
        return true;
      __builtin_ia32_pause();
    }
    now = neap_clock();
    if (now - start > ALERT_SECONDS)
      sched_yield();
  } while (now - start < seconds);
  return load(count) != old;
}

bool neapi_channel_wait(const uint32_t *count, uint32_t old, uint32_t *asleep, double seconds)
{
  double until = neap_clock() + seconds;
  if (wait_awake(count, old, seconds < AWAKE_SECONDS ? seconds : AWAKE_SECONDS))
    return true;
  for (double left; load(count) == old && (left = until - neap_clock()) > 0;) {
    struct timespec time = {(time_t)left, (long)(1e9 * (left - (double)(time_t)left))};
    __atomic_store_n(asleep, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(count, __ATOMIC_SEQ_CST) == old)
      syscall(SYS_futex, count, FUTEX_WAIT, old, &time, NULL, 0);
    __atomic_store_n(asleep, 0, __ATOMIC_SEQ_CST);
  }
  return load(count) != old;
}
