/* Status names, the thread's error message, the clock and the version. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "base/status.h"

#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local char message[MESSAGE_BYTES];

#define STATUS_NAME(name) #name,
static const char *const names[] = {NEAP_STATUS_LIST(STATUS_NAME)};

int neap_abi(void)
{
  return NEAP_ABI;
}

const char *neap_version(void)
{
  return NEAP_VERSION " (" NEAP_BUILD
#ifdef __AVX512F__
                      ", avx512"
#elif defined(__AVX2__)
                      ", avx2"
#endif
                      "" NEAP_SANITIZE ")";
}

const char *neap_status_name(int status)
{
  return status >= 0 && status < NEAP_STATUS_COUNT ? names[status] : "?";
}

const char *neap_error_message(void)
{
  return message;
}

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

int32_t neap_processors(void)
{
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

int neapi_fail(int status, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return status;
}

void neapi_fail_prefix(const char *format, ...)
{
  char old[MESSAGE_BYTES];
  memcpy(old, message, sizeof old);
  va_list args;
  va_start(args, format);
  int used = vsnprintf(message, sizeof message, format, args);
  va_end(args);
  if (used < 0 || used > MESSAGE_BYTES - 3)
    return;
  memcpy(message + used, ": ", 3);
  strncat(message, old, sizeof message - (size_t)used - 3);
}

void *neapi_alloc(int64_t bytes, const char *what)
{
  int64_t rounded = (bytes / 64 + 1) * 64;
  void *memory = bytes < 0 ? NULL : aligned_alloc(64, (size_t)rounded);
  if (!memory)
    neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " bytes", what, bytes);
  return memory;
}

void *neapi_alloc_zero(int64_t bytes, const char *what)
{
  void *memory = neapi_alloc(bytes, what);
  if (memory)
    memset(memory, 0, (size_t)bytes);
  return memory;
}
