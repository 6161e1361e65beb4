/* SPDX-License-Identifier: Apache-2.0 */
/* The calling thread's device, and memory of all kinds. */
#include "device/device.h"

#include "base/memory.h"
#include "device/cuda/cuda_device.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- memory of the host that is counted ------------------------------------------------------ */

static int64_t host_now, host_most; /* atomic: bytes */

static void count_host(int64_t bytes)
{
  int64_t now = __atomic_add_fetch(&host_now, bytes, __ATOMIC_RELAXED);
  int64_t most = __atomic_load_n(&host_most, __ATOMIC_RELAXED);
  while (now > most && !__atomic_compare_exchange_n(&host_most, &most, now, true, __ATOMIC_RELAXED,
                                                    __ATOMIC_RELAXED))
    continue;
}

static void *alloc_host(int64_t bytes, const char *what)
{
  void *memory = neapi_alloc(bytes, what);
  if (memory)
    count_host((int64_t)malloc_usable_size(memory));
  return memory;
}

static void free_host(void *memory)
{
  count_host(-(int64_t)malloc_usable_size(memory));
  free(memory);
}

static int held_by_host(int64_t *now, int64_t *most)
{
  *now = __atomic_load_n(&host_now, __ATOMIC_RELAXED);
  *most = __atomic_load_n(&host_most, __ATOMIC_RELAXED);
  return NEAP_OK;
}

static int forget_most_of_host(void)
{
  int64_t now = __atomic_load_n(&host_now, __ATOMIC_RELAXED);
  __atomic_store_n(&host_most, now, __ATOMIC_RELAXED);
  return NEAP_OK;
}

/* ---- the device ------------------------------------------------------------------------------ */

static _Thread_local int32_t current = -1; /* ordinal of the thread's GPU; -1: the CPU */

static int check(int error, const char *what)
{
  if (!error)
    return NEAP_OK;
  return neapi_fail(error == NEAPI_CUDA_NONE ? NEAP_ABSENT : NEAP_SYSTEM, "cuda: %s: %s", what,
                    neapi_cuda_text(error));
}

int32_t neap_device_count(void)
{
  int32_t count = 0;
  return neapi_cuda_count(&count) ? 0 : count;
}

enum { LEAST_CAPABILITY = 80 }; /* bf16 products and asynchronous copies */

/* Kernels are compiled for this and later. */
static int check_capability(int32_t ordinal)
{
  char name[256];
  int32_t capability, driver, runtime;
  int error = neapi_cuda_describe(ordinal, name, sizeof name, &capability, &driver, &runtime);
  if (error)
    return check(error, "cannot describe the GPU");
  if (capability >= LEAST_CAPABILITY)
    return NEAP_OK;
  return neapi_fail(
      NEAP_ABSENT,
      "cuda: GPU %d, %s, has compute capability %d.%d; Neap needs %d.%d or later: run "
      "with --device=cpu",
      ordinal, name, capability / 10, capability % 10, LEAST_CAPABILITY / 10,
      LEAST_CAPABILITY % 10);
}

int neap_device_use(int32_t ordinal)
{
  if (ordinal == -1) {
    current = -1;
    return NEAP_OK;
  }
  int32_t count = 0;
  int error = neapi_cuda_count(&count);
  if (error)
    return neapi_fail(NEAP_ABSENT, "cuda: no GPU can be used: %s; run with --device=cpu",
                      neapi_cuda_text(error));
  if (ordinal < 0 || ordinal >= count)
    return neapi_fail(NEAP_ABSENT, "cuda: GPU %d; this machine has %d, numbered from 0", ordinal,
                      count);
  int status = check_capability(ordinal);
  if (!status)
    status = check(neapi_cuda_use(ordinal), "cannot use the GPU");
  if (!status)
    current = ordinal;
  return status;
}

int neap_device_stream(void *stream)
{
  if (current < 0)
    return neapi_fail(NEAP_ARGUMENT, "device stream: this thread does not use a GPU");
  neapi_cuda_stream_use(stream);
  return NEAP_OK;
}

int neap_device_describe(int32_t ordinal, char *text, int64_t size)
{
  char name[256];
  int32_t capability, driver, runtime;
  int error = neapi_cuda_describe(ordinal, name, sizeof name, &capability, &driver, &runtime);
  if (error)
    return check(error, "cannot describe the GPU");
  snprintf(text, (size_t)size, "%s, compute capability %d.%d, CUDA %d.%d, driver for CUDA %d.%d",
           name, capability / 10, capability % 10, runtime / 1000, runtime % 1000 / 10,
           driver / 1000, driver % 1000 / 10);
  return NEAP_OK;
}

int neap_device_memory(int64_t *free_bytes, int64_t *total_bytes)
{
  if (current < 0)
    return neapi_fail(NEAP_ARGUMENT, "device memory: this thread does not use a GPU");
  return check(neapi_cuda_memory(free_bytes, total_bytes), "cannot tell the GPU's memory");
}

int neap_device_held(int64_t *now, int64_t *most)
{
  if (current < 0)
    return held_by_host(now, most);
  return check(neapi_cuda_held(current, now, most), "cannot tell what memory is used");
}

int neap_device_forget_most(void)
{
  if (current < 0)
    return forget_most_of_host();
  return check(neapi_cuda_forget_most(current), "cannot tell what memory is used");
}

int neap_device_wait(void)
{
  return neapi_stream_wait();
}

bool neapi_on_gpu(void)
{
  return current >= 0;
}

void *neapi_stream(void)
{
  return current >= 0 ? neapi_cuda_stream() : NULL;
}

int neapi_stream_wait(void)
{
  return current >= 0 ? check(neapi_cuda_wait(), "an earlier kernel failed") : NEAP_OK;
}

void *neapi_memory_alloc(neapi_memory_kind kind, int64_t bytes, const char *what)
{
  if (kind == NEAPI_HOST || current < 0)
    return alloc_host(bytes, what);
  void *memory = NULL;
  int error = neapi_cuda_alloc(kind == NEAPI_PINNED, bytes, &memory);
  if (!error)
    return memory;
  int64_t available = 0, total = 0;
  neapi_cuda_memory(&available, &total);
  neapi_fail(NEAP_MEMORY,
             "%s: %lld bytes are needed on GPU %d (%s), of whose %lld bytes %lld are free", what,
             (long long)bytes, current, neapi_cuda_text(error), (long long)total,
             (long long)available);
  return NULL;
}

void neapi_memory_free(neapi_memory_kind kind, void *memory)
{
  if (!memory)
    return;
  if (kind == NEAPI_HOST)
    free_host(memory);
  else
    neapi_cuda_free(kind == NEAPI_PINNED, memory);
}

void neapi_memory_zero(neapi_memory_kind kind, void *memory, int64_t bytes)
{
  if (kind == NEAPI_GPU)
    neapi_cuda_zero(memory, bytes);
  else
    memset(memory, 0, (size_t)bytes);
}

int neapi_copy(void *to, const void *from, int64_t bytes)
{
  if (!bytes || to == from)
    return NEAP_OK;
  if (current >= 0)
    return check(neapi_cuda_copy(to, from, bytes), "a copy failed");
  memmove(to, from, (size_t)bytes);
  return NEAP_OK;
}

double *neapi_results(void)
{
  static _Thread_local double on_host[NEAPI_RESULTS];
  static _Thread_local double *pinned; /* kept until the process ends */
  if (current < 0)
    return on_host;
  if (!pinned)
    pinned = neapi_memory_alloc(NEAPI_PINNED, NEAPI_RESULTS * 8, "results");
  return pinned;
}

int neapi_stream_event_record(neapi_stream_event **event)
{
  return check(neapi_cuda_event_record((void **)event), "cannot record an event");
}

int neapi_stream_event_follow(neapi_stream_event *event)
{
  if (!event || current < 0)
    return neapi_stream_event_wait(event);
  return check(neapi_cuda_event_follow(event), "cannot wait for a stream");
}

int neapi_stream_event_wait(neapi_stream_event *event)
{
  return event ? check(neapi_cuda_event_wait(event), "an earlier kernel failed") : NEAP_OK;
}

int neapi_timestamp_open(neapi_timestamp **out)
{
  return check(neapi_cuda_timestamp_open((void **)out), "cannot make an event");
}

void neapi_timestamp_close(neapi_timestamp *event)
{
  neapi_cuda_timestamp_close(event);
}

int neapi_timestamp_record(neapi_timestamp *event)
{
  return check(neapi_cuda_timestamp_record(event), "cannot set an event");
}

int neapi_timestamp_wait(neapi_timestamp *event)
{
  return check(neapi_cuda_timestamp_wait(event), "an earlier kernel failed");
}

int neapi_timestamp_seconds(neapi_timestamp *from, neapi_timestamp *to, double *out)
{
  return check(neapi_cuda_timestamp_seconds(from, to, out), "cannot tell the time of an event");
}

int neapi_stream_event_reached(neapi_stream_event *event)
{
  return event ? neapi_cuda_event_reached(event) : 1;
}

void neapi_stream_event_free(neapi_stream_event *event)
{
  if (event)
    neapi_cuda_event_free(event);
}

struct neapi_gpu_stream {
  void *stream;
  int32_t ordinal;
  int32_t before;      /* the device of the thread that has entered */
  void *before_stream; /* and its stream */
};

int neapi_gpu_stream_open(int32_t ordinal, neapi_gpu_stream **out)
{
  neapi_gpu_stream *stream = neapi_alloc_zero(sizeof *stream, "stream");
  if (!stream)
    return NEAP_MEMORY;
  stream->ordinal = ordinal;
  int32_t before = current;
  int status = before == ordinal ? NEAP_OK : neap_device_use(ordinal);
  if (!status)
    status = check(neapi_cuda_stream_open(&stream->stream), "cannot open a stream");
  if (before != ordinal)
    neap_device_use(before);
  if (status)
    free(stream);
  else
    *out = stream;
  return status;
}

int neapi_gpu_stream_enter(neapi_gpu_stream *stream)
{
  int error = current == stream->ordinal ? 0 : neapi_cuda_select(stream->ordinal);
  if (error)
    return check(error, "cannot use the GPU");
  stream->before = current;
  stream->before_stream = neapi_cuda_stream();
  current = stream->ordinal;
  neapi_cuda_stream_use(stream->stream);
  return NEAP_OK;
}

void neapi_gpu_stream_leave(neapi_gpu_stream *stream)
{
  neapi_cuda_stream_use(stream->before_stream);
  current = stream->before;
  if (current >= 0 && current != stream->ordinal)
    neapi_cuda_select(current);
}

void neapi_gpu_stream_close(neapi_gpu_stream *stream)
{
  if (!stream)
    return;
  neapi_cuda_stream_close(stream->stream);
  free(stream);
}

int32_t neapi_gpu_of(const void *memory)
{
  return neapi_cuda_gpu_of(memory);
}

int32_t neapi_gpu_current(void)
{
  return current;
}

int neapi_gpu_id(int32_t ordinal, unsigned char id[NEAPI_GPU_ID])
{
  return check(neapi_cuda_id(ordinal, id), "cannot identify the GPU");
}

int neapi_gpu_draw(float *data, int64_t count, uint64_t seed, uint64_t stream, int64_t first,
                   double scale)
{
  return check(neapi_cuda_draw(data, count, seed, stream, first, scale), "cannot draw");
}

int neapi_gpu_copy_all(const neapi_copy_segment *segments, int64_t count)
{
  return check(neapi_cuda_copy_all(segments, count), "cannot copy between ranks");
}

int neapi_gpu_fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                   int op)
{
  return check(neapi_cuda_fold(out, sources, ranks, count, dtype, op), "cannot reduce");
}

void *neapi_memory_alloc_zero(neapi_memory_kind kind, int64_t bytes, const char *what)
{
  void *memory = neapi_memory_alloc(kind, bytes, what);
  if (memory)
    neapi_memory_zero(kind, memory, bytes);
  return memory;
}

neapi_memory_kind neapi_memory_of_reals(void)
{
  return neapi_on_gpu() ? NEAPI_GPU : NEAPI_HOST;
}

neapi_memory_kind neapi_memory_of_integers(void)
{
  return neapi_on_gpu() ? NEAPI_PINNED : NEAPI_HOST;
}

int neapi_require_cpu(const char *what)
{
  if (!neapi_on_gpu())
    return NEAP_OK;
  return neapi_fail(NEAP_ABSENT, "%s: not on a GPU yet; run with --device=cpu", what);
}
