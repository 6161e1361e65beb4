/* SPDX-License-Identifier: Apache-2.0 */
/* Clocks, and the processors that the calling thread may use. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "neap.h"

#include <sched.h>
#include <string.h>
#include <time.h>

enum { SET_WORDS = 64 };

double neap_clock(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double neap_time(void)
{
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double neap_thread_seconds(void)
{
  struct timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

void neap_processor_set(uint64_t *set)
{
  memset(set, 0, SET_WORDS * sizeof *set);
  if (sched_getaffinity(0, SET_WORDS * sizeof *set, (cpu_set_t *)(void *)set))
    set[0] = 1;
}

int32_t neap_processors(void)
{
  uint64_t set[SET_WORDS];
  int32_t count = 0;
  neap_processor_set(set);
  for (int i = 0; i < SET_WORDS; i++)
    count += __builtin_popcountll(set[i]);
  return count;
}
