/* SPDX-License-Identifier: Apache-2.0 */
/* The two ways to compute attention; ../attention.cu chooses. */
#ifndef NEAPI_ATTENTION_H
#define NEAPI_ATTENTION_H

#include "../cuda.cuh"

/* By plain kernels: D up to 256, else NEAPI_KERNEL_MEMORY. */
template <class T> struct scalar_attention {
  static neapi_kernel_attention forward;
  static neapi_kernel_attention_backward backward;
};

/* By tensor cores, of bf16, where they fit: this D on the calling thread's GPU. */
bool neapi_tensor_attention_fits(int64_t d);
neapi_kernel_attention neapi_tensor_attention;
neapi_kernel_attention_backward neapi_tensor_attention_backward;

#endif
