/* SPDX-License-Identifier: Apache-2.0 */
/* Launches that a GPU refuses: which kernel it was, and what CUDA says. */
#include "cuda.cuh"

#include <stdarg.h>
#include <stdio.h>

typedef struct {
  const char *kernel;
  dim3 grid, block;
  size_t shared;
} launch;

static thread_local launch latest;
static thread_local char text[512];
static thread_local bool told; /* text is of an error that nobody has asked for yet */

/* A GPU's number and name. */
static void describe_gpu(char *to, size_t size)
{
  int device = -1;
  cudaDeviceProp properties;
  if (cudaGetDevice(&device) == cudaSuccess &&
      cudaGetDeviceProperties(&properties, device) == cudaSuccess)
    snprintf(to, size, "GPU %d (%s)", device, properties.name);
  else
    snprintf(to, size, "GPU %d", device);
}

static void tell(cudaError_t error)
{
  char gpu[300];
  const launch *l = &latest;
  describe_gpu(gpu, sizeof gpu);
  snprintf(text, sizeof text,
           "%s refused kernel %s, grid %u x %u x %u of %u x %u x %u threads, %zu bytes of shared "
           "memory: %s (%s)",
           gpu, l->kernel ? l->kernel : "?", l->grid.x, l->grid.y, l->grid.z, l->block.x,
           l->block.y, l->block.z, l->shared, cudaGetErrorString(error), cudaGetErrorName(error));
  told = true;
}

void neapi_launching(const char *kernel, dim3 grid, dim3 block, size_t shared)
{
  cudaError_t error = told ? cudaSuccess : cudaPeekAtLastError();
  if (error != cudaSuccess) /* of the launch before */
    tell(error);
  latest = (launch){kernel, grid, block, shared};
}

int neapi_launched(void)
{
  cudaError_t error = cudaGetLastError();
  bool memory = error == cudaErrorMemoryAllocation;
  if (!memory && !told)
    tell(error);
  told = false;
  return memory ? NEAPI_KERNEL_MEMORY : NEAPI_KERNEL_DEVICE;
}

int neapi_refused(const char *format, ...)
{
  char gpu[300], what[200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  describe_gpu(gpu, sizeof gpu);
  snprintf(text, sizeof text, "%s refused %s: %s", gpu, what,
           cudaGetErrorString(cudaGetLastError()));
  told = false;
  return NEAPI_KERNEL_DEVICE;
}

extern "C" const char *neapi_kernels_cuda_refusal(void)
{
  return text;
}
