/* SPDX-License-Identifier: Apache-2.0 */
/* What the CUDA kernel tests share: the same random numbers on the GPU and, rounded as the GPU
 * holds them, in float on the host, where the plain C kernels are the reference. */
#ifndef NEAP_GPU_TEST_H
#define NEAP_GPU_TEST_H

#include "kernels/kernel_test.h"

#include <cuda_runtime_api.h>

static void *device_arrays[4096];
static int device_count;

static inline void must(cudaError_t error)
{
  if (error == cudaSuccess)
    return;
  fprintf(stderr, "cuda: %s\n", cudaGetErrorString(error));
  exit(1);
}

/* Frees all arrays; every launch so far must have gone well. */
static inline void release_everything(void)
{
  must(cudaDeviceSynchronize());
  while (device_count)
    must(cudaFree(device_arrays[--device_count]));
  release_all();
}

/* Device memory of 0xff bytes. */
static inline void *device_poisoned(int64_t bytes)
{
  void *memory = NULL;
  must(cudaMalloc(&memory, (size_t)(bytes + 64)));
  must(cudaMemset(memory, 0xff, (size_t)(bytes + 64)));
  if (device_count == 4096)
    exit(1);
  return device_arrays[device_count++] = memory;
}

static inline void *to_device(const void *x, int64_t bytes)
{
  void *memory = device_poisoned(bytes);
  must(cudaMemcpy(memory, x, (size_t)bytes, cudaMemcpyHostToDevice));
  return memory;
}

static inline void *to_host(const void *x, int64_t bytes)
{
  void *memory = poisoned(bytes);
  must(cudaMemcpy(memory, x, (size_t)bytes, cudaMemcpyDeviceToHost));
  return memory;
}

static inline uint16_t bf16_of(float x)
{
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float float_of(uint16_t x)
{
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* An array of the table's real on the device, and the same values in float on the host. */
typedef struct {
  float *host;
  void *device;
} twin;

static inline twin twin_of(kernels *k, float *host, int64_t n)
{
  if (k->size == 4)
    return (twin){host, to_device(host, n * 4)};
  uint16_t *narrow = poisoned(n * 2);
  for (int64_t i = 0; i < n; i++) {
    narrow[i] = bf16_of(host[i]);
    host[i] = float_of(narrow[i]);
  }
  return (twin){host, to_device(narrow, n * 2)};
}

static inline twin twin_normals(kernels *k, int64_t n, uint64_t seed)
{
  return twin_of(k, normals(neapi_kernels_f32(), n, seed), n);
}

/* Poisoned on both sides. */
static inline twin twin_output(kernels *k, int64_t n)
{
  return (twin){reals(neapi_kernels_f32(), n), device_poisoned(n * k->size)};
}

/* A float array, whatever the table. */
static inline twin twin_acc(float *host, int64_t n)
{
  return (twin){host, to_device(host, n * 4)};
}

static inline twin twin_acc_output(int64_t n)
{
  return (twin){reals(neapi_kernels_f32(), n), device_poisoned(n * 4)};
}

/* The device's side in float. */
static inline float *fetch(kernels *k, const void *device, int64_t n)
{
  void *raw = to_host(device, n * k->size);
  if (k->size == 4)
    return raw;
  float *wide = poisoned(n * 4);
  for (int64_t i = 0; i < n; i++)
    wide[i] = float_of(((uint16_t *)raw)[i]);
  return wide;
}

/* Of results of order 1; the table's rounding decides. */
static inline double tolerance(kernels *k)
{
  return k->size == 4 ? 2e-5 : 8e-3;
}

/* Largest |a - b| relative to the largest |b|, or 1. */
static inline bool check_twin(kernels *k, twin x, int64_t n, double allowed, const char *what)
{
  const float *got = fetch(k, x.device, n);
  double apart = distance(neapi_kernels_f32(), got, neapi_kernels_f32(), x.host, n);
  return check(apart <= allowed, "%s, %s, %lld elements: off by %g; allowed %g", k->name, what,
               (long long)n, apart, allowed);
}

static inline bool check_acc(kernels *k, twin x, int64_t n, double allowed, const char *what)
{
  double apart =
      distance(neapi_kernels_f32(), to_host(x.device, n * 4), neapi_kernels_f32(), x.host, n);
  return check(apart <= allowed, "%s, %s, %lld elements: off by %g; allowed %g", k->name, what,
               (long long)n, apart, allowed);
}

/* The same bytes on the device. */
static inline bool check_equal(const void *a, const void *b, int64_t bytes, const char *what,
                               kernels *k)
{
  return check(!memcmp(to_host(a, bytes), to_host(b, bytes), (size_t)bytes), "%s: %s", k->name,
               what);
}

/* Runs a test for each table. */
#define FOR_TABLES(test)                                                                           \
  do {                                                                                             \
    test(neapi_kernels_cuda_f32());                                                                \
    release_everything();                                                                          \
    test(neapi_kernels_cuda_bf16());                                                               \
    release_everything();                                                                          \
  } while (0)

/* Numbers of rows and widths that divide nothing, for kernels of rows; arrays are freed after each.
 */
static const int64_t row_counts[] = {0, 1, 127, 129}, widths[] = {1, 10, 64, 129, 512};
enum { ROW_COUNTS = 4, WIDTHS = 5 };

#define FOR_SIZES(t, h)                                                                            \
  for (int size = 0; size < ROW_COUNTS * WIDTHS; release_everything(), size++)                     \
    for (int64_t t = row_counts[size % ROW_COUNTS], h = widths[size / ROW_COUNTS], once = 1; once; \
         once = 0)

/* Without a GPU a test says so and ends. */
static inline bool gpu_absent(void)
{
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0)
    return false;
  printf("skipped: no GPU (%s)\n0 passed, 0 failed\n", cudaGetErrorString(error));
  return true;
}

#endif
