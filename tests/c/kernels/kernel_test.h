/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel tests share: random and poisoned arrays of either real type, and comparisons.
 * Arrays come from malloc one by one, so that a sanitizer sees every step outside of one; they are
 * freed together by release_all. */
#ifndef NEAP_KERNEL_TEST_H
#define NEAP_KERNEL_TEST_H

#include "check.h"
#include "kernels.h"
#include "neap.h"

#include <stdlib.h>

typedef const neapi_kernels kernels;

static void *arrays[4096];
static int array_count;

static inline void release_all(void)
{
  while (array_count)
    free(arrays[--array_count]);
}

/* Bytes of 0xff: NaN in both real types, -1 in the integers. */
static inline void *poisoned(int64_t bytes)
{
  void *array = malloc((size_t)(bytes > 0 ? bytes : 1));
  if (!array || array_count == 4096) {
    fprintf(stderr, "kernel test: no memory, or too many arrays\n");
    exit(1);
  }
  memset(array, 0xff, (size_t)(bytes > 0 ? bytes : 1));
  return arrays[array_count++] = array;
}

static inline void *reals(kernels *k, int64_t n)
{
  return poisoned(n * k->size);
}

static inline double get(kernels *k, const void *x, int64_t i)
{
  return k->size == 8 ? ((const double *)x)[i] : (double)((const float *)x)[i];
}

static inline void put(kernels *k, void *x, int64_t i, double value)
{
  if (k->size == 8)
    ((double *)x)[i] = value;
  else
    ((float *)x)[i] = (float)value;
}

/* Where element i of an array starts. */
static inline void *at(kernels *k, const void *x, int64_t i)
{
  return (char *)x + i * k->size;
}

/* n normal numbers that are the same in f32 and f64. */
static inline void *normals(kernels *k, int64_t n, uint64_t seed)
{
  void *x = reals(k, n);
  for (int64_t i = 0; i < n; i++)
    put(k, x, i, (double)(float)neap_random_normal(seed, 1, (uint64_t)i));
  return x;
}

static inline void *copy_of(const void *x, int64_t bytes)
{
  return memcpy(poisoned(bytes), x, (size_t)bytes);
}

/* A whole number in [low, high] of (seed, index). */
static inline int64_t pick(uint64_t seed, uint64_t index, int64_t low, int64_t high)
{
  return low + (int64_t)(neap_random_bits(seed, 2, index) % (uint64_t)(high - low + 1));
}

static inline int32_t *random_ids(int64_t n, int64_t below, uint64_t seed)
{
  int32_t *ids = poisoned(n * 4);
  for (int64_t i = 0; i < n; i++)
    ids[i] = (int32_t)pick(seed, (uint64_t)i, 0, below - 1);
  return ids;
}

/* A random order of 0..n-1. */
static inline int32_t *random_order(int64_t n, uint64_t seed)
{
  int32_t *order = poisoned(n * 4);
  for (int64_t i = 0; i < n; i++)
    order[i] = (int32_t)i;
  for (int64_t i = n - 1; i > 0; i--) {
    int64_t j = pick(seed, (uint64_t)i, 0, i);
    int32_t other = order[i];
    order[i] = order[j];
    order[j] = other;
  }
  return order;
}

/* Largest |a - b|, relative to the largest |b| or 1; NaN if there is one. */
static inline double distance(kernels *ka, const void *a, kernels *kb, const void *b, int64_t n)
{
  double largest = 1, apart = 0;
  for (int64_t i = 0; i < n; i++) {
    double difference = fabs(get(ka, a, i) - get(kb, b, i));
    if (!(difference <= apart))
      apart = difference;
    if (apart != apart)
      return apart;
    largest = fmax(largest, fabs(get(kb, b, i)));
  }
  return apart / largest;
}

static inline bool check_near(kernels *ka, const void *a, kernels *kb, const void *b, int64_t n,
                              double tolerance, const char *what)
{
  double apart = distance(ka, a, kb, b, n);
  return check(apart <= tolerance, "%s (%s against %s, %lld elements) is off by %g; allowed %g",
               what, ka->name, kb->name, (long long)n, apart, tolerance);
}

/* A scalar function of f64 arrays that context knows. */
typedef double objective(void *context);

/* Compares probes elements of the gradient (N) of f at x (N) with central differences. */
static inline void check_gradient(const char *what, objective *f, void *context, double *x,
                                  int64_t n, const double *gradient, int probes)
{
  for (int p = 0; p < probes && n > 0; p++) {
    int64_t i = probes >= n ? p % n : pick(77, (uint64_t)p, 0, n - 1);
    double old = x[i], step = 1e-5;
    x[i] = old + step;
    double above = f(context);
    x[i] = old - step;
    double below = f(context);
    x[i] = old;
    check_close(gradient[i], (above - below) / (2 * step), 2e-7, what);
  }
}

/* sum of x * weight: turns an output into an objective. */
static inline double weighted(int64_t n, const double *x, const double *weight)
{
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    sum += x[i] * weight[i];
  return sum;
}

static const int64_t odd_sizes[] = {1, 3, 17, 127, 129};
enum { ODD_SIZES = 5 };

/* Runs a test for each real type. */
#define FOR_BOTH(test)                                                                             \
  do {                                                                                             \
    test(neapi_kernels_f32());                                                                     \
    test(neapi_kernels_f64());                                                                     \
    release_all();                                                                                 \
  } while (0)

#endif
