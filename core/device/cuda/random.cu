/* SPDX-License-Identifier: Apache-2.0 */
/* Normals as in base/random.c. The GPU's logarithm and cosine may differ from the host's
 * in the last bit of a double, which rounding to float hides in all but one of some 10^8 values. */
extern "C" {
#include "device/cuda/cuda_device.h"
}

#include "base/random.h"

#include <cuda_runtime.h>

static const int THREADS = 256;
static const int64_t MOST_BLOCKS = 4096;

__global__ void draw_normals(float *data, int64_t count, uint64_t key, int64_t first, double scale)
{
  for (int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x; i < count;
       i += (int64_t)gridDim.x * THREADS) {
    uint64_t index = (uint64_t)(first + i);
    double radius = 1.0 - neapi_random_uniform(key, 2 * index);
    double angle = neapi_random_uniform(key, 2 * index + 1);
    data[i] = (float)(scale * (sqrt(-2.0 * log(radius)) * cos(6.283185307179586 * angle)));
  }
}

int neapi_cuda_draw(float *data, int64_t count, uint64_t seed, uint64_t stream, int64_t first,
                    double scale)
{
  if (!count)
    return 0;
  int64_t blocks = (count + THREADS - 1) / THREADS;
  draw_normals<<<(unsigned)(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS), THREADS, 0,
                 (cudaStream_t)neapi_cuda_stream()>>>(data, count, neapi_random_key(seed, stream),
                                                      first, scale);
  return (int)cudaGetLastError();
}
