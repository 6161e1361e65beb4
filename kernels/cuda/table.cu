/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of the CUDA launchers. */
#include "cuda.cuh"

template <class T> static const neapi_kernels *table_of(const char *name)
{
#define ENTRY(op) launchers<T>::op,
  static const neapi_kernels table = {name, sizeof(T), sizeof(float), NEAPI_KERNELS(ENTRY, ENTRY)};
#undef ENTRY
  return &table;
}

extern "C" const neapi_kernels *neapi_kernels_cuda_f32(void)
{
  return table_of<float>("f32 on cuda");
}

extern "C" const neapi_kernels *neapi_kernels_cuda_bf16(void)
{
  return table_of<bf16>("bf16 on cuda");
}
