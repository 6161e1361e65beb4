/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention: by tensor cores where they fit, else by plain kernels. */
#include "attention/attention.h"

template <class T>
static int attention(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                     const void *qkv, void *out, void *lse, void *stream)
{
  bool tensor = sizeof(T) == sizeof(bf16) && neapi_tensor_attention_fits(d);
  if (!sequences || !s || !heads)
    return NEAPI_KERNEL_OK;
  return (tensor ? neapi_tensor_attention : scalar_attention<T>::forward)(
      sequences, s, heads, kv_heads, d, qkv, out, lse, stream);
}

template <class T>
static int attention_backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                              int64_t d, const void *qkv, const void *out, const void *lse,
                              const void *dout, void *dqkv, void *stream)
{
  bool tensor = sizeof(T) == sizeof(bf16) && neapi_tensor_attention_fits(d);
  if (!sequences || !s || !heads)
    return NEAPI_KERNEL_OK;
  return (tensor ? neapi_tensor_attention_backward : scalar_attention<T>::backward)(
      sequences, s, heads, kv_heads, d, qkv, out, lse, dout, dqkv, stream);
}

LAUNCHER(attention);
LAUNCHER(attention_backward);
