/* SPDX-License-Identifier: Apache-2.0 */
/* Elementwise operations: each thread takes 16 bytes at a time where addresses allow it. */
#include "cuda.cuh"

/* ---- kernels --------------------------------------------------------------------------------- */

/* f(i, n, whole) does the elements i to i + SIZE - 1 of n. */
template <class T, class F> __global__ void map_kernel(int64_t n, F f, bool whole)
{
  int64_t step = (int64_t)gridDim.x * blockDim.x * pack<T>::SIZE;
  for (int64_t i = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * pack<T>::SIZE; i < n;
       i += step)
    f(i, n, whole && i + pack<T>::SIZE <= n);
}

template <class T, class F> static int map(int64_t n, F f, bool whole, void *stream)
{
  if (n)
    LAUNCH(blocks_for(n, BLOCK * pack<T>::SIZE), BLOCK, 0, stream_of(stream), map_kernel<T>)
  (n, f, whole);
  return launched();
}

/* Whether an array that starts here allows 16-byte access. */
static bool starts(const void *a, const void *b = NULL, const void *c = NULL)
{
  return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16) == 0;
}

template <class T> struct fill_map {
  T value;
  T *out;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    pack<T> p;
#pragma unroll
    for (int j = 0; j < pack<T>::SIZE; j++)
      p.at[j] = value;
    store(p, out, i, n, whole);
  }
};

template <class T> struct add_map {
  const T *a, *b;
  T *out;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    pack<T> p, q;
    load(p, a, i, n, whole);
    load(q, b, i, n, whole);
#pragma unroll
    for (int j = 0; j < pack<T>::SIZE; j++)
      p.at[j] = real_of<T>(to_float(p.at[j]) + to_float(q.at[j]));
    store(p, out, i, n, whole);
  }
};

enum { PARTS = 64 }; /* arrays that one launch adds */

template <class X, class SUM> struct sum_map {
  int count;
  const X *part[PARTS];
  X *out;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    SUM sum[16 / sizeof(X)] = {0};
    for (int c = 0; c < count; c++)
      for (int j = 0; j < (int)(16 / sizeof(X)); j++)
        if (i + j < n)
          sum[j] += SUM(to_sum(part[c][i + j]));
    for (int j = 0; j < (int)(16 / sizeof(X)); j++)
      if (i + j < n)
        out[i + j] = from_sum(sum[j]);
  }
  __device__ static double to_sum(double x)
  {
    return x;
  }
  __device__ static float to_sum(float x)
  {
    return x;
  }
  __device__ static float to_sum(bf16 x)
  {
    return to_float(x);
  }
  __device__ static X from_sum(SUM x)
  {
    return (X)x;
  }
};

template <class T> struct swiglu_map {
  int64_t f;
  const T *gu;
  T *h;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    pack<T> g, u;
    const T *row = gu + i / f * 2 * f;
    if (whole) {
      load(g, row, i % f, f, true);
      load(u, row + f, i % f, f, true);
    } else {
      for (int j = 0; j < pack<T>::SIZE && i + j < n; j++) {
        row = gu + (i + j) / f * 2 * f;
        g.at[j] = row[(i + j) % f];
        u.at[j] = row[f + (i + j) % f];
      }
    }
    for (int j = 0; j < pack<T>::SIZE; j++) {
      float x = to_float(g.at[j]);
      g.at[j] = real_of<T>(x / (1.0f + expf(-x)) * to_float(u.at[j]));
    }
    store(g, h, i, n, whole);
  }
};

template <class T> struct swiglu_backward_map {
  int64_t f;
  const T *gu, *dh;
  T *dgu;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    int64_t at = i / f * 2 * f + i % f;
    if (whole) {
      pack<T> g, u, d;
      load(g, gu, at, at, true);
      load(u, gu, at + f, at, true);
      load(d, dh, i, n, true);
#pragma unroll
      for (int j = 0; j < pack<T>::SIZE; j++)
        swiglu_gradients(&g.at[j], &u.at[j], to_float(d.at[j]));
      store(g, dgu, at, at, true);
      store(u, dgu, at + f, at, true);
      return;
    }
    for (int64_t e = i; e < n && e < i + pack<T>::SIZE; e++) {
      at = e / f * 2 * f + e % f;
      T g = gu[at], u = gu[at + f];
      swiglu_gradients(&g, &u, to_float(dh[e]));
      dgu[at] = g;
      dgu[at + f] = u;
    }
  }
  __device__ static void swiglu_gradients(T *g, T *u, float grad)
  {
    float x = to_float(*g), gate = 1.0f / (1.0f + expf(-x)), silu = x * gate;
    *g = real_of<T>(grad * to_float(*u) * (gate + silu * (1.0f - gate)));
    *u = real_of<T>(grad * silu);
  }
};

struct adamw_map {
  float rate, beta1, beta2, eps, decay, correction1, correction2, grad_scale;
  const float *grad;
  float *param, *m, *v;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    pack<float> g, p, a, b;
    load(g, grad, i, n, whole);
    load(p, param, i, n, whole);
    load(a, m, i, n, whole);
    load(b, v, i, n, whole);
#pragma unroll
    for (int j = 0; j < pack<float>::SIZE; j++) {
      float x = g.at[j] * grad_scale;
      a.at[j] = beta1 * a.at[j] + (1.0f - beta1) * x;
      b.at[j] = beta2 * b.at[j] + (1.0f - beta2) * x * x;
      float along = a.at[j] / correction1 / (sqrtf(b.at[j] / correction2) + eps);
      p.at[j] -= rate * (along + decay * p.at[j]);
    }
    store(p, param, i, n, whole);
    store(a, m, i, n, whole);
    store(b, v, i, n, whole);
  }
};

template <class FROM, class TO> struct convert_map {
  const FROM *x;
  TO *out;
  __device__ void operator()(int64_t i, int64_t n, bool whole) const
  {
    enum { SIZE = pack<bf16>::SIZE };
    if (whole) {
      alignas(16) FROM from[SIZE];
      alignas(16) TO to[SIZE];
      move(from, x + i);
#pragma unroll
      for (int j = 0; j < (int)SIZE; j++)
        convert(from[j], &to[j]);
      move(out + i, to);
      return;
    }
    for (int j = 0; j < (int)SIZE && i + j < n; j++)
      convert(x[i + j], &out[i + j]);
  }
  /* A pack of bf16 or as many others, 16 bytes at a time. */
  template <class X> __device__ static void move(X *to, const X *from)
  {
#pragma unroll
    for (int w = 0; w < (int)(pack<bf16>::SIZE * sizeof(X) / 16); w++)
      ((int4 *)to)[w] = ((const int4 *)from)[w];
  }
  template <class X> __device__ static void convert(X from, double *to)
  {
    *to = (double)to_float(from);
  }
  template <class X> __device__ static void convert(X from, float *to)
  {
    *to = (float)from;
  }
  __device__ static void convert(double from, bf16 *to)
  {
    *to = __double2bfloat16(from);
  }
  __device__ static void convert(float from, bf16 *to)
  {
    *to = __float2bfloat16(from);
  }
};

/* ---- launchers ------------------------------------------------------------------------------- */

static bf16 host_real(double x, bf16)
{
  return __double2bfloat16(x);
}
static float host_real(double x, float)
{
  return (float)x;
}

template <class T> static int fill(int64_t n, double value, void *x, void *s)
{
  return map<T>(n, fill_map<T>{host_real(value, T()), (T *)x}, starts(x), s);
}

template <class T> static int add(int64_t n, const void *a, const void *b, void *out, void *s)
{
  return map<T>(n, add_map<T>{(const T *)a, (const T *)b, (T *)out}, starts(a, b, out), s);
}

/* Of more parts than a launch takes, later launches go on from the sum so far. */
template <class X, class SUM>
static int sum_arrays(int64_t n, int64_t count, const X *const *parts, X *out, void *s)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t from = 0; !status && from < count;) {
    sum_map<X, SUM> f;
    f.count = 0;
    f.out = out;
    if (from)
      f.part[f.count++] = out;
    while (f.count < PARTS && from < count)
      f.part[f.count++] = parts[from++];
    status = map<X>(n, f, false, s);
  }
  return status;
}

template <class T>
static int sum(int64_t n, int64_t count, const void *const *parts, void *out, void *s)
{
  return sum_arrays<T, float>(n, count, (const T *const *)parts, (T *)out, s);
}

static int sum_double(int64_t n, int64_t count, const double *const *parts, double *out, void *s)
{
  return sum_arrays<double, double>(n, count, parts, out, s);
}

template <class T> static int swiglu(int64_t t, int64_t f, const void *gu, void *h, void *s)
{
  bool whole = starts(gu, h) && f % pack<T>::SIZE == 0;
  return map<T>(t * f, swiglu_map<T>{f, (const T *)gu, (T *)h}, whole, s);
}

template <class T>
static int swiglu_backward(int64_t t, int64_t f, const void *gu, const void *dh, void *dgu, void *s)
{
  bool whole = starts(gu, dh, dgu) && f % pack<T>::SIZE == 0;
  return map<T>(t * f, swiglu_backward_map<T>{f, (const T *)gu, (const T *)dh, (T *)dgu}, whole, s);
}

static int adamw(int64_t n, const neapi_adamw *a, const void *grad, void *param, void *m, void *v,
                 void *s)
{
  adamw_map f = {(float)a->rate,        (float)a->beta1,      (float)a->beta2,
                 (float)a->eps,         (float)a->decay,      (float)a->correction1,
                 (float)a->correction2, (float)a->grad_scale, (const float *)grad,
                 (float *)param,        (float *)m,           (float *)v};
  return map<float>(n, f, starts(grad, param, m) && starts(v), s);
}

template <class T> static int to_double(int64_t n, const void *x, double *out, void *s)
{
  return map<bf16>(n, convert_map<T, double>{(const T *)x, out}, false, s);
}

template <class T> static int from_double(int64_t n, const double *x, void *out, void *s)
{
  return map<bf16>(n, convert_map<double, T>{x, (T *)out}, false, s);
}

template <class T> static int to_acc(int64_t n, const void *x, void *out, void *s)
{
  return map<bf16>(n, convert_map<T, float>{(const T *)x, (float *)out}, starts(x, out), s);
}

template <class T> static int from_acc(int64_t n, const void *x, void *out, void *s)
{
  return map<bf16>(n, convert_map<float, T>{(const float *)x, (T *)out}, starts(x, out), s);
}

LAUNCHER(fill);
LAUNCHER(add);
LAUNCHER(sum);
LAUNCHER_OF_BOTH(sum_double);
LAUNCHER(swiglu);
LAUNCHER(swiglu_backward);
LAUNCHER_OF_BOTH(adamw);
LAUNCHER(to_double);
LAUNCHER(from_double);
LAUNCHER(to_acc);
LAUNCHER(from_acc);
