/* The tables of the CUDA launchers. */
#include "cuda.cuh"

#include <pthread.h>

template <class T> static neapi_kernels make_table(const char *name)
{
  neapi_kernels table = {};
  table.name = name;
  table.size = sizeof(T);
  table.stat_size = sizeof(float);
  neapi_cuda_gemm<T>(&table);
  neapi_cuda_experts<T>(&table);
  neapi_cuda_rows<T>(&table);
  neapi_cuda_rmsnorm<T>(&table);
  neapi_cuda_rotary<T>(&table);
  neapi_cuda_attention<T>(&table);
  neapi_cuda_elementwise<T>(&table);
  neapi_cuda_softmax_loss<T>(&table);
  neapi_cuda_router<T>(&table);
  neapi_cuda_choices<T>(&table);
  neapi_cuda_reduce<T>(&table);
  neapi_cuda_exact<T>(&table);
  return table;
}

static neapi_kernels f32_table, bf16_table;

static void make_tables(void)
{
  f32_table = make_table<float>("f32 on cuda");
  bf16_table = make_table<bf16>("bf16 on cuda");
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

extern "C" const neapi_kernels *neapi_kernels_cuda_f32(void)
{
  pthread_once(&once, make_tables);
  return &f32_table;
}

extern "C" const neapi_kernels *neapi_kernels_cuda_bf16(void)
{
  pthread_once(&once, make_tables);
  return &bf16_table;
}
