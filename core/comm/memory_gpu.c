/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers in a GPU's memory: as in memory_host.c, by the GPU, on the calling thread's stream. */
#include "comm/transport.h"

static void *allocate(int64_t bytes, const char *what)
{
  return neapi_memory_alloc(NEAPI_GPU, bytes, what);
}

static void release(void *memory)
{
  neapi_memory_free(NEAPI_GPU, memory);
}

static int copy(void *to, const void *from, int64_t bytes)
{
  neapi_copy_segment segment = {to, from, bytes};
  return bytes && to != from ? neapi_gpu_copy_all(&segment, 1) : NEAP_OK;
}

const neapi_memory_ops neapi_gpu_memory = {allocate, release, copy, neapi_gpu_fold};
