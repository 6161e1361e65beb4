/* SPDX-License-Identifier: Apache-2.0 */
/* Memory, streams and copies of the calling thread's GPU. */
extern "C" {
#include "device/cuda/cuda_device.h"
}

#include <cuda_runtime.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
  do {                                                                                             \
    cudaError_t error = (call);                                                                    \
    if (error != cudaSuccess) {                                                                    \
      cudaGetLastError();                                                                          \
      return (int)error;                                                                           \
    }                                                                                              \
  } while (0)

/* As many hardware queues as CUDA gives, unless the user says otherwise: ranks that share a process
 * have several streams each, and streams of one queue wait for each other. CUDA looks when it is
 * first used; before main no other thread reads the environment. */
__attribute__((constructor)) static void ask_for_queues(void)
{
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
}

static thread_local cudaStream_t current = cudaStreamPerThread;

int neapi_cuda_count(int32_t *count)
{
  *count = 0;
  TRY(cudaGetDeviceCount(count));
  return 0;
}

enum { DEVICES = 64 };

/* Whether some GPU cannot read another's memory: copies between ranks are then left to CUDA. */
static bool apart;

/* Kernels on a GPU may use memory of another's pool, if the machine lets them. */
static int grant(int owner, int reader)
{
  int reaches = 0;
  TRY(cudaDeviceCanAccessPeer(&reaches, reader, owner));
  if (!reaches) {
    __atomic_store_n(&apart, true, __ATOMIC_RELAXED);
    return 0;
  }
  cudaMemPool_t pool;
  cudaMemAccessDesc access = {};
  access.location.type = cudaMemLocationTypeDevice;
  access.location.id = reader;
  access.flags = cudaMemAccessFlagsProtReadWrite;
  TRY(cudaDeviceGetDefaultMemPool(&pool, owner));
  TRY(cudaMemPoolSetAccess(pool, &access, 1));
  return 0;
}

/* The GPUs that threads of this process use read each other's memory. */
static int introduce(int ordinal)
{
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  static bool used[DEVICES];
  int error = 0;
  pthread_mutex_lock(&lock);
  for (int other = 0; other < DEVICES && ordinal < DEVICES && !used[ordinal] && !error; other++)
    if (used[other]) {
      error = grant(ordinal, other);
      error = error ? error : grant(other, ordinal);
    }
  if (ordinal < DEVICES && !error)
    used[ordinal] = true;
  pthread_mutex_unlock(&lock);
  return error;
}

/* Threads that wait long sleep, since there may be more of them than cores; freed memory stays with
 * the process, since token counts wander. */
int neapi_cuda_use(int32_t ordinal)
{
  cudaMemPool_t pool;
  uint64_t all = UINT64_MAX;
  TRY(cudaSetDevice(ordinal));
  TRY(cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync));
  TRY(cudaDeviceGetDefaultMemPool(&pool, ordinal));
  TRY(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all));
  return introduce(ordinal);
}

int neapi_cuda_select(int32_t ordinal)
{
  TRY(cudaSetDevice(ordinal));
  return 0;
}

int neapi_cuda_describe(int32_t ordinal, char *name, int64_t size, int32_t *capability,
                        int32_t *driver, int32_t *runtime)
{
  cudaDeviceProp properties;
  TRY(cudaGetDeviceProperties(&properties, ordinal));
  TRY(cudaDriverGetVersion(driver));
  TRY(cudaRuntimeGetVersion(runtime));
  snprintf(name, (size_t)size, "%s", properties.name);
  *capability = properties.major * 10 + properties.minor;
  return 0;
}

int neapi_cuda_memory(int64_t *free_bytes, int64_t *total_bytes)
{
  size_t available, total;
  TRY(cudaMemGetInfo(&available, &total));
  *free_bytes = (int64_t)available;
  *total_bytes = (int64_t)total;
  return 0;
}

int neapi_cuda_held(int32_t ordinal, int64_t *now, int64_t *most)
{
  cudaMemPool_t pool;
  uint64_t used, high;
  TRY(cudaDeviceGetDefaultMemPool(&pool, ordinal));
  TRY(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
  TRY(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &high));
  *now = (int64_t)used;
  *most = (int64_t)high;
  return 0;
}

int neapi_cuda_forget_most(int32_t ordinal)
{
  cudaMemPool_t pool;
  uint64_t none = 0;
  TRY(cudaDeviceGetDefaultMemPool(&pool, ordinal));
  TRY(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &none));
  return 0;
}

const char *neapi_cuda_text(int error)
{
  return cudaGetErrorString((cudaError_t)error);
}

void *neapi_cuda_stream(void)
{
  return current;
}

int neapi_cuda_alloc(bool pinned, int64_t bytes, void **out)
{
  size_t size = (size_t)(bytes > 0 ? bytes : 1);
  if (pinned)
    TRY(cudaMallocHost(out, size));
  else
    TRY(cudaMallocAsync(out, size, current));
  return 0;
}

void neapi_cuda_free(bool pinned, void *memory)
{
  if (pinned)
    cudaFreeHost(memory);
  else
    cudaFreeAsync(memory, current);
}

int neapi_cuda_zero(void *memory, int64_t bytes)
{
  TRY(cudaMemsetAsync(memory, 0, (size_t)bytes, current));
  return 0;
}

/* Whether the driver may go on with this memory after a copy has returned. */
static bool stays(const void *memory)
{
  cudaPointerAttributes attributes;
  bool known = cudaPointerGetAttributes(&attributes, memory) == cudaSuccess;
  return known && attributes.type != cudaMemoryTypeUnregistered;
}

int neapi_cuda_copy(void *to, const void *from, int64_t bytes)
{
  TRY(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDefault, current));
  if (!stays(to) || !stays(from))
    TRY(cudaStreamSynchronize(current));
  return 0;
}

int neapi_cuda_event_record(void **event)
{
  if (!*event) {
    cudaEvent_t made;
    TRY(cudaEventCreateWithFlags(&made, cudaEventDisableTiming | cudaEventBlockingSync));
    *event = made;
  }
  TRY(cudaEventRecord((cudaEvent_t)*event, current));
  return 0;
}

int neapi_cuda_event_follow(void *event)
{
  TRY(cudaStreamWaitEvent(current, (cudaEvent_t)event, 0));
  return 0;
}

int neapi_cuda_event_wait(void *event)
{
  TRY(cudaEventSynchronize((cudaEvent_t)event));
  return 0;
}

int neapi_cuda_event_reached(void *event)
{
  cudaError_t error = cudaEventQuery((cudaEvent_t)event);
  if (error == cudaErrorNotReady)
    cudaGetLastError();
  return error == cudaSuccess ? 1 : error == cudaErrorNotReady ? 0 : -1;
}

void neapi_cuda_event_free(void *event)
{
  cudaEventDestroy((cudaEvent_t)event);
}

/* What ranks wait for goes first. */
int neapi_cuda_stream_open(void **out)
{
  int least, greatest;
  cudaStream_t stream;
  TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  TRY(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest));
  *out = stream;
  return 0;
}

void neapi_cuda_stream_use(void *stream)
{
  current = stream ? (cudaStream_t)stream : cudaStreamPerThread;
}

void neapi_cuda_stream_close(void *stream)
{
  cudaStreamDestroy((cudaStream_t)stream);
}

int neapi_cuda_id(int32_t ordinal, unsigned char id[NEAPI_GPU_ID])
{
  cudaDeviceProp properties;
  TRY(cudaGetDeviceProperties(&properties, ordinal));
  memcpy(id, &properties.uuid, NEAPI_GPU_ID);
  return 0;
}

/* Waiting for one spins: they are waited for when a step is over, or to read clocks. */
int neapi_cuda_timestamp_open(void **out)
{
  TRY(cudaEventCreateWithFlags((cudaEvent_t *)out, cudaEventDefault));
  return 0;
}

void neapi_cuda_timestamp_close(void *event)
{
  cudaEventDestroy((cudaEvent_t)event);
}

int neapi_cuda_timestamp_record(void *event)
{
  TRY(cudaEventRecord((cudaEvent_t)event, current));
  return 0;
}

int neapi_cuda_timestamp_wait(void *event)
{
  TRY(cudaEventSynchronize((cudaEvent_t)event));
  return 0;
}

int neapi_cuda_timestamp_seconds(void *from, void *to, double *out)
{
  float milliseconds;
  TRY(cudaEventElapsedTime(&milliseconds, (cudaEvent_t)from, (cudaEvent_t)to));
  *out = milliseconds / 1e3;
  return 0;
}

int32_t neapi_cuda_gpu_of(const void *memory)
{
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, memory) != cudaSuccess) {
    cudaGetLastError();
    return -1;
  }
  return attributes.type == cudaMemoryTypeDevice ? attributes.device : -1;
}

/* ---- copies of many segments ----------------------------------------------------------------- */

enum { SEGMENTS = 64, THREADS = 512, UNROLL = 4, BLOCKS_PER_SEGMENT = 64 };

typedef struct {
  neapi_copy_segment of[SEGMENTS];
} segment_list;

/* A row of blocks per segment; 16 bytes at a time where both addresses allow it. */
__global__ void __launch_bounds__(THREADS) copy_segments(segment_list list)
{
  neapi_copy_segment segment = list.of[blockIdx.y];
  int64_t thread = blockIdx.x * (int64_t)THREADS + threadIdx.x;
  int64_t threads = (int64_t)gridDim.x * THREADS;
  bool wide = (((uintptr_t)segment.to | (uintptr_t)segment.from) & 15) == 0;
  int64_t words = wide ? segment.bytes / 16 : 0;
  const int4 *from = (const int4 *)segment.from;
  int4 *to = (int4 *)segment.to;
  int64_t i = thread;
  for (; i + (UNROLL - 1) * threads < words; i += UNROLL * threads) {
    int4 held[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      held[u] = from[i + u * threads];
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
      to[i + u * threads] = held[u];
  }
  for (; i < words; i += threads)
    to[i] = from[i];
  for (int64_t b = words * 16 + thread; b < segment.bytes; b += threads)
    ((char *)segment.to)[b] = ((const char *)segment.from)[b];
}

static unsigned blocks_for(int64_t bytes)
{
  int64_t blocks = (bytes + 16 * UNROLL * THREADS - 1) / (16 * UNROLL * THREADS);
  blocks = blocks > BLOCKS_PER_SEGMENT ? (int64_t)BLOCKS_PER_SEGMENT : blocks;
  return (unsigned)(blocks ? blocks : 1);
}

static int copy_one_by_one(const neapi_copy_segment *segments, int64_t count)
{
  for (int64_t i = 0; i < count; i++)
    if (segments[i].bytes)
      TRY(cudaMemcpyAsync(segments[i].to, segments[i].from, (size_t)segments[i].bytes,
                          cudaMemcpyDefault, current));
  return 0;
}

int neapi_cuda_copy_all(const neapi_copy_segment *segments, int64_t count)
{
  if (__atomic_load_n(&apart, __ATOMIC_RELAXED))
    return copy_one_by_one(segments, count);
  for (int64_t i = 0; i < count;) {
    segment_list list;
    unsigned used = 0;
    int64_t largest = 0;
    for (; used < (unsigned)SEGMENTS && i < count; i++)
      if (segments[i].bytes) {
        list.of[used++] = segments[i];
        largest = segments[i].bytes > largest ? segments[i].bytes : largest;
      }
    if (used)
      copy_segments<<<dim3(blocks_for(largest), used), THREADS, 0, current>>>(list);
    TRY(cudaGetLastError());
  }
  return 0;
}

/* ---- reductions, in rank order --------------------------------------------------------------- */

enum { SOURCES = 64 };

template <class X> struct source_list {
  const X *of[SOURCES];
  int count;
};

/* A NaN of any rank stays in a maximum or minimum. */
template <class X> __device__ static X combine(X sum, X x, int op)
{
  if (op == NEAP_SUM)
    return sum + x;
  bool takes = op == NEAP_MAX ? x > sum : x < sum;
  return takes || x != x ? x : sum;
}

template <class X> __global__ void fold(X *out, source_list<X> sources, int64_t count, int op)
{
  for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < count;
       i += (int64_t)gridDim.x * blockDim.x) {
    X sum = sources.of[0][i];
    for (int r = 1; r < sources.count; r++)
      sum = combine(sum, sources.of[r][i], op);
    out[i] = sum;
  }
}

/* Of more ranks than a launch takes, later launches go on from the result so far. */
template <class X>
static int fold_all(void *out, const void *const *sources, int32_t ranks, int64_t count, int op)
{
  int64_t blocks = (count + THREADS - 1) / THREADS;
  for (int32_t from = 0; from < ranks;) {
    source_list<X> list;
    list.count = 0;
    if (from)
      list.of[list.count++] = (const X *)out;
    while (list.count < SOURCES && from < ranks)
      list.of[list.count++] = (const X *)sources[from++];
    fold<X><<<(unsigned)(blocks < 2048 ? blocks : 2048), THREADS, 0, current>>>((X *)out, list,
                                                                                count, op);
    TRY(cudaGetLastError());
  }
  return 0;
}

int neapi_cuda_fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                    int op)
{
  if (!count)
    return 0;
  switch (dtype) {
  case NEAP_F32:
    return fold_all<float>(out, sources, ranks, count, op);
  case NEAP_F64:
    return fold_all<double>(out, sources, ranks, count, op);
  case NEAP_I32:
    return fold_all<int32_t>(out, sources, ranks, count, op);
  default:
    return fold_all<int64_t>(out, sources, ranks, count, op);
  }
}
