/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting for a stream. An interrupt takes tens of microseconds to wake a thread, which is long
 * beside a layer, so the thread first looks at a word in host memory that the GPU writes behind the
 * stream's work; that asks nothing of the driver, which other ranks' threads are calling. */
extern "C" {
#include "device/cuda/cuda_device.h"
}

#include <cuda.h>
#include <cuda_runtime.h>
#include <pthread.h>
#include <sched.h>

static const double PATIENCE = 0.02; /* seconds of looking; then the thread sleeps */

typedef decltype(&cuStreamWriteValue32) writer;

static writer write_value;
static int cores; /* that this process may use */
static int waiters;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void ask_driver(void)
{
  cpu_set_t set;
  cores = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
  void *found = NULL;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuStreamWriteValue32", &found, 12000, cudaEnableDefault,
                                       &result) == cudaSuccess &&
      result == cudaDriverEntryPointSuccess)
    write_value = (writer)found;
  else
    cudaGetLastError();
}

/* A thread's word, and the number that it was last asked to hold. */
struct bell {
  volatile uint32_t *word;
  uint32_t number;

  bell() : word(NULL), number(0)
  {
    pthread_once(&once, ask_driver);
    __atomic_add_fetch(&waiters, 1, __ATOMIC_RELAXED);
    void *memory;
    if (cudaHostAlloc(&memory, sizeof *word, cudaHostAllocPortable) == cudaSuccess) {
      word = (volatile uint32_t *)memory;
      *word = 0;
    } else {
      cudaGetLastError();
    }
  }
  ~bell()
  {
    __atomic_sub_fetch(&waiters, 1, __ATOMIC_RELAXED);
    if (word)
      cudaFreeHost((void *)word);
  }
};

/* Whether the GPU has written the word in time. */
static bool watch(const bell *b)
{
  double end = neap_clock() + PATIENCE;
  for (int looks = 0;; looks++) {
    if (*b->word == b->number) {
      __atomic_thread_fence(__ATOMIC_ACQUIRE);
      return true;
    }
    if (looks % 64 == 63) {
      if (neap_clock() > end)
        return false;
      sched_yield();
    }
  }
}

/* A failed stream never writes: its error is what the sleeping wait returns. */
int neapi_cuda_wait(void)
{
  static thread_local bell b;
  void *stream = neapi_cuda_stream();
  bool awake = b.word && write_value && __atomic_load_n(&waiters, __ATOMIC_RELAXED) <= cores;
  if (awake && write_value((CUstream)stream, (CUdeviceptr)b.word, ++b.number, 0) == CUDA_SUCCESS &&
      watch(&b))
    return 0;
  return (int)cudaStreamSynchronize((cudaStream_t)stream);
}
