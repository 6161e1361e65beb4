/* SPDX-License-Identifier: Apache-2.0 */
/* The seam to CUDA in a build without it: there is no GPU, and whatever asks for one is told so. */
#include "device/cuda/cuda_device.h"

#ifndef NEAP_CUDA

#include <stddef.h>

int neapi_cuda_count(int32_t *count)
{
  (void)count;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_use(int32_t ordinal)
{
  (void)ordinal;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_select(int32_t ordinal)
{
  (void)ordinal;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_describe(int32_t ordinal, char *name, int64_t size, int32_t *capability,
                        int32_t *driver, int32_t *runtime)
{
  (void)ordinal, (void)name, (void)size, (void)capability, (void)driver, (void)runtime;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_memory(int64_t *free_bytes, int64_t *total_bytes)
{
  (void)free_bytes, (void)total_bytes;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_held(int32_t ordinal, int64_t *now, int64_t *most)
{
  (void)ordinal, (void)now, (void)most;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_forget_most(int32_t ordinal)
{
  (void)ordinal;
  return NEAPI_CUDA_NONE;
}

const char *neapi_cuda_text(int error)
{
  (void)error;
  return "this build has no GPU code: it was made with NEAP_CUDA=off, or where no CUDA "
         "toolkit (nvcc) was found";
}

void *neapi_cuda_stream(void)
{
  return NULL;
}

int neapi_cuda_wait(void)
{
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_alloc(bool pinned, int64_t bytes, void **out)
{
  (void)pinned, (void)bytes, (void)out;
  return NEAPI_CUDA_NONE;
}

void neapi_cuda_free(bool pinned, void *memory)
{
  (void)pinned, (void)memory;
}

int neapi_cuda_zero(void *memory, int64_t bytes)
{
  (void)memory, (void)bytes;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_copy(void *to, const void *from, int64_t bytes)
{
  (void)to, (void)from, (void)bytes;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_event_record(void **event)
{
  *event = NULL;
  return 0;
}

int neapi_cuda_event_follow(void *event)
{
  (void)event;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_event_wait(void *event)
{
  (void)event;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_timestamp_open(void **out)
{
  (void)out;
  return NEAPI_CUDA_NONE;
}

void neapi_cuda_timestamp_close(void *event)
{
  (void)event;
}

int neapi_cuda_timestamp_record(void *event)
{
  (void)event;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_timestamp_wait(void *event)
{
  (void)event;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_timestamp_seconds(void *from, void *to, double *out)
{
  (void)from, (void)to, (void)out;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_event_reached(void *event)
{
  (void)event;
  return 1;
}

void neapi_cuda_event_free(void *event)
{
  (void)event;
}

int neapi_cuda_stream_open(void **out)
{
  (void)out;
  return NEAPI_CUDA_NONE;
}

void neapi_cuda_stream_use(void *stream)
{
  (void)stream;
}

void neapi_cuda_stream_close(void *stream)
{
  (void)stream;
}

int neapi_cuda_id(int32_t ordinal, unsigned char id[NEAPI_GPU_ID])
{
  (void)ordinal, (void)id;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_draw(float *data, int64_t count, uint64_t seed, uint64_t stream, int64_t first,
                    double scale)
{
  (void)data, (void)count, (void)seed, (void)stream, (void)first, (void)scale;
  return NEAPI_CUDA_NONE;
}

int32_t neapi_cuda_gpu_of(const void *memory)
{
  (void)memory;
  return -1;
}

int neapi_cuda_copy_all(const neapi_copy_segment *segments, int64_t count)
{
  (void)segments, (void)count;
  return NEAPI_CUDA_NONE;
}

int neapi_cuda_fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                    int op)
{
  (void)out, (void)sources, (void)ranks, (void)count, (void)dtype, (void)op;
  return NEAPI_CUDA_NONE;
}

#endif
