/* SPDX-License-Identifier: Apache-2.0 */
/* What the two halves of tensor cores' backward share. */
#ifndef NEAPI_TENSOR_BACKWARD_CUH
#define NEAPI_TENSOR_BACKWARD_CUH

#include "tensor.cuh"

/* Of a query, for the gradients: its log-sum-exp in units of log 2, and the sum of out dout. */
typedef struct alignas(8) {
  float norm, mean;
} statistic;

/* out = own strips times the transpose of tile (N, D). */
template <int D, int N, int M>
__device__ static inline void products(float (&out)[M][N / 8][4], const bf16 *strips,
                                       const bf16 *tile, int lane)
{
  clear(out);
#pragma unroll
  for (int c = 0; c < D; c += 16) {
    uint32_t a[M][4];
    load_rows<D, M>(a, strips, c, lane);
    against<D, N, M>(out, a, tile, c, lane);
  }
}

/* The gradients of keys and values, into dqkv. */
void neapi_tensor_key_gradients(int64_t sequences, const dimensions &z, const bf16 *qkv,
                                const bf16 *dout, const statistic *of, bf16 *dqkv,
                                cudaStream_t stream);

#endif
