/* The experts' operations: on Hopper, for bf16, all slots at once; else slot after slot. */
extern "C" {
#include "per_expert.h"
}
#include "hopper/experts.h"

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
 * look at the layer's shape and at the GPU, never at numbers of rows, nor at which experts a rank
 * has. */
template <class T> static bool all_at_once(const neapi_slots *s)
{
  return sizeof(T) == sizeof(bf16) && neapi_hopper_fits(s);
}

template <class T>
static int experts_forward(const neapi_slots *s, const void *weights, const void *in, void *gate_up,
                           void *activation, void *out, void *stream)
{
  if (all_at_once<T>(s))
    return neapi_hopper_forward(s, weights, in, gate_up, activation, out, stream);
  return neapi_per_expert_forward(ops<T>(), s, weights, in, gate_up, activation, out, stream);
}

template <class T>
static int experts_backward(const neapi_slots *s, const void *weights, const void *dout,
                            void *gate_up, void *activation, void *dactivation, void *din,
                            void *dlog, void *stream)
{
  if (all_at_once<T>(s))
    return neapi_hopper_backward(s, weights, dout, gate_up, activation, din, dlog, stream);
  return neapi_per_expert_backward(ops<T>(), s, weights, dout, gate_up, activation, dactivation,
                                   din, dlog, stream);
}

template <class T>
static int experts_gradients(const neapi_slots *s, const void *in, const void *dgate_up,
                             const void *activation, const void *dout, void *gradients,
                             void *stream)
{
  if (all_at_once<T>(s))
    return neapi_hopper_gradients(s, in, dgate_up, activation, dout, gradients, stream);
  return neapi_per_expert_gradients(ops<T>(), s, in, dgate_up, activation, dout, gradients, stream);
}

LAUNCHER(experts_forward);
LAUNCHER(experts_backward);
LAUNCHER(experts_gradients);
