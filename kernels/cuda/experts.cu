/* The experts' operations: on Hopper, for bf16, all slots at once; else slot after slot. */
extern "C" {
#include "per_expert.h"
}
#include "hopper/experts.h"

static const neapi_kernels *table_of(float)
{
  return neapi_kernels_cuda_f32();
}
static const neapi_kernels *table_of(bf16)
{
  return neapi_kernels_cuda_bf16();
}

/* Whether Hopper's own products are used. They beat a cuBLAS call an expert and separate passes for
 * SwiGLU at all sizes measured (docs/performance.md). A row's bits depend on the choice: it may
 * look at the layer's shape and at the GPU, never at numbers of rows, nor at which experts a rank
 * has. */
template <class T> static bool all_at_once(const neapi_slots *s)
{
  return sizeof(T) == sizeof(bf16) && neapi_hopper_fits(s);
}

template <class T>
static int forward(const neapi_slots *s, const void *weights, const void *in, void *gate_up,
                   void *activation, void *out, void *stream)
{
  if (all_at_once<T>(s))
    return neapi_hopper_forward(s, weights, in, gate_up, activation, out, stream);
  return neapi_by_slot_forward(table_of(T()), s, weights, in, gate_up, activation, out, stream);
}

template <class T>
static int backward(const neapi_slots *s, const void *weights, const void *dout, void *gate_up,
                    void *activation, void *slope, void *din, void *stream)
{
  if (all_at_once<T>(s))
    return neapi_hopper_backward(s, weights, dout, gate_up, activation, din, stream);
  return neapi_by_slot_backward(table_of(T()), s, weights, dout, gate_up, activation, slope, din,
                                stream);
}

template <class T>
static int gradients(const neapi_slots *s, const void *in, const void *dgate_up,
                     const void *activation, const void *dout, void *gradients, void *stream)
{
  if (all_at_once<T>(s))
    return neapi_hopper_gradients(s, in, dgate_up, activation, dout, gradients, stream);
  return neapi_by_slot_gradients(table_of(T()), s, in, dgate_up, activation, dout, gradients,
                                 stream);
}

template <class T> void neapi_cuda_experts(neapi_kernels *table)
{
  table->experts_forward = forward<T>;
  table->experts_backward = backward<T>;
  table->experts_gradients = gradients<T>;
}
template void neapi_cuda_experts<float>(neapi_kernels *);
template void neapi_cuda_experts<bf16>(neapi_kernels *);
