/* Attention of bf16 by tensor cores, as kernels.h has it. */
#ifndef NEAPI_TENSOR_ATTENTION_H
#define NEAPI_TENSOR_ATTENTION_H

#include <stdint.h>

/* Whether the two below take this D on the calling thread's GPU. */
bool neapi_tensor_attention_fits(int64_t d);

int neapi_tensor_attention(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                           const void *qkv, void *out, void *lse, void *stream);
int neapi_tensor_attention_backward(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                                    int64_t d, const void *qkv, const void *out, const void *lse,
                                    const void *dout, void *dqkv, void *stream);

#endif
