/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' operations: on Hopper, for bf16, all slots of one F at once; else slot after
 * slot. */
extern "C" {
#include "per_expert.h"
}
#include "hopper/experts.h"

#include <stdlib.h>

template <class T> static const neapi_expert_ops *ops(void)
{
  static const neapi_expert_ops ops = {sizeof(T),
                                       sizeof(float),
                                       launchers<T>::gemm,
                                       launchers<T>::gemm_tn,
                                       launchers<T>::swiglu,
                                       launchers<T>::swiglu_backward,
                                       launchers<T>::row_dots};
  return &ops;
}

/* Whether Hopper's own products are used. They beat one cuBLAS call per expert and separate passes
 * for SwiGLU at all sizes measured (docs/performance.md). A row's bits depend on the choice: it may
 * look at H, the expert's F and the GPU, never at numbers of rows, nor at which experts a rank
 * has. */
template <class T> static bool all_at_once(const neapi_slots *s, int64_t f)
{
  return sizeof(T) == sizeof(bf16) && neapi_hopper_fits(s, f);
}

/* Calls at_once(F) for every F of slots with rows that is done at once. Returns a status. */
template <class T, class AT_ONCE> static int each_size(const neapi_slots *s, AT_ONCE at_once)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < s->count; i++) {
    int64_t f = s->batches[i].ffn, before = 0;
    while (before < i && !(s->batches[before].ffn == f && s->batches[before].rows))
      before++;
    if (s->batches[i].rows && before == i && all_at_once<T>(s, f))
      status = at_once(f);
  }
  return status;
}

/* The slots that are not done at once: others without rows. Calls one_by_one if there are any. */
template <class T, class ONE_BY_ONE>
static int the_rest(const neapi_slots *s, ONE_BY_ONE one_by_one)
{
  int64_t left = 0;
  size_t size = (size_t)(s->count > 0 ? s->count : 1) * sizeof(neapi_batch);
  neapi_batch *batches = (neapi_batch *)malloc(size);
  if (!batches)
    return NEAPI_KERNEL_MEMORY;
  for (int64_t i = 0; i < s->count; i++) {
    batches[i] = s->batches[i];
    if (all_at_once<T>(s, batches[i].ffn))
      batches[i].rows = 0;
    left += batches[i].rows;
  }
  neapi_slots rest = *s;
  rest.batches = batches;
  int status = left ? one_by_one(&rest) : NEAPI_KERNEL_OK;
  free(batches);
  return status;
}

template <class T>
static int experts_forward(const neapi_slots *s, const void *weights, const void *in, void *gate_up,
                           void *activation, void *out, void *stream)
{
  int status = each_size<T>(s, [&](int64_t f) {
    return neapi_hopper_forward(s, f, weights, in, gate_up, activation, out, stream);
  });
  return status ? status : the_rest<T>(s, [&](const neapi_slots *rest) {
    return neapi_per_expert_forward(ops<T>(), rest, weights, in, gate_up, activation, out, stream);
  });
}

template <class T>
static int experts_backward(const neapi_slots *s, const void *weights, const void *dout,
                            void *gate_up, void *activation, void *dactivation, void *din,
                            void *dlog, void *stream)
{
  int status = each_size<T>(s, [&](int64_t f) {
    return neapi_hopper_backward(s, f, weights, dout, gate_up, activation, din, dlog, stream);
  });
  return status ? status : the_rest<T>(s, [&](const neapi_slots *rest) {
    return neapi_per_expert_backward(ops<T>(), rest, weights, dout, gate_up, activation,
                                     dactivation, din, dlog, stream);
  });
}

template <class T>
static int experts_gradients(const neapi_slots *s, const void *in, const void *dgate_up,
                             const void *activation, const void *dout, void *gradients,
                             void *stream)
{
  int status = each_size<T>(s, [&](int64_t f) {
    return neapi_hopper_gradients(s, f, in, dgate_up, activation, dout, gradients, stream);
  });
  return status ? status : the_rest<T>(s, [&](const neapi_slots *rest) {
    return neapi_per_expert_gradients(ops<T>(), rest, in, dgate_up, activation, dout, gradients,
                                      stream);
  });
}

LAUNCHER(experts_forward);
LAUNCHER(experts_backward);
LAUNCHER(experts_gradients);
