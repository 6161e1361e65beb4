/* SPDX-License-Identifier: Apache-2.0 */
/* Exact sums on the GPU: the bits of the CPU's. */
#include "gpu_test.h"

static void test_exact(kernels *k)
{
  enum { T = 321, K = 40, N = 70, ROWS = 9, BITS = 22 };
  kernels *plain = neapi_kernels_f32();
  twin a = twin_normals(k, T * K, 1), b = twin_normals(k, T * N, 2);
  double *max = poisoned((K + N) * 8), *quantum = poisoned((K + N) * 8);
  double *max_gpu = device_poisoned((K + N) * 8), *quantum_gpu = device_poisoned((K + N) * 8);
  k->exact_column_max(T, K, a.device, K, 0, max_gpu, NULL);
  k->exact_column_max(T / 2, N, b.device, N, 0, max_gpu + K, NULL);
  k->exact_column_max(T, N, b.device, N, 1, max_gpu + K, NULL);
  plain->exact_column_max(T, K, a.host, K, 0, max, NULL);
  plain->exact_column_max(T, N, b.host, N, 0, max + K, NULL);
  check_same(to_host(max_gpu, (K + N) * 8), max, (K + N) * 8, "%s: exact_column_max", k->name);
  k->exact_quantum(K + N, BITS, max_gpu, quantum_gpu, NULL);
  plain->exact_quantum(K + N, BITS, max, quantum, NULL);
  check_same(to_host(quantum_gpu, (K + N) * 8), quantum, (K + N) * 8, "%s: exact_quantum", k->name);
  double *qa = poisoned(T * K * 8), *qb = poisoned(T * N * 8), *sum = poisoned(K * N * 8);
  double *qa_gpu = device_poisoned(T * K * 8), *qb_gpu = device_poisoned(T * N * 8);
  memset(sum, 0, K * N * 8);
  double *sum_gpu = to_device(sum, K * N * 8);
  k->exact_quantise(T, K, a.device, K, quantum_gpu, qa_gpu, NULL);
  k->exact_quantise(T, N, b.device, N, quantum_gpu + K, qb_gpu, NULL);
  plain->exact_quantise(T, K, a.host, K, quantum, qa, NULL);
  plain->exact_quantise(T, N, b.host, N, quantum + K, qb, NULL);
  check_same(to_host(qa_gpu, T * K * 8), qa, T * K * 8, "%s: exact_quantise", k->name);
  k->exact_gemm_tn(T, K, N, qa_gpu, quantum_gpu, qb_gpu, quantum_gpu + K, sum_gpu, NULL);
  plain->exact_gemm_tn(T, K, N, qa, quantum, qb, quantum + K, sum, NULL);
  check_same(to_host(sum_gpu, K * N * 8), sum, K * N * 8, "%s: exact_gemm_tn", k->name);
  memset(sum, 0, K * N * 8);
  sum_gpu = to_device(sum, K * N * 8);
  int32_t *ids = random_ids(T, ROWS, 3);
  k->exact_column_sum(T, N, b.device, N, quantum_gpu + K, sum_gpu, NULL);
  k->exact_scatter_add(T, N, to_device(ids, T * 4), b.device, quantum_gpu + K, sum_gpu + N, NULL);
  plain->exact_column_sum(T, N, b.host, N, quantum + K, sum, NULL);
  plain->exact_scatter_add(T, N, ids, b.host, quantum + K, sum + N, NULL);
  check_same(to_host(sum_gpu, (ROWS + 1) * N * 8), sum, (ROWS + 1) * N * 8,
             "%s: exact_column_sum, exact_scatter_add", k->name);
  double pair[2] = {0, 0}, *pair_gpu = to_device(pair, 16);
  k->exact_square_sum(T * N, b.device, 10, T * N, pair_gpu, NULL);
  plain->exact_square_sum(T * N, b.host, 10, T * N, pair, NULL);
  check_same(to_host(pair_gpu, 16), pair, 16, "%s: exact_square_sum", k->name);
}

int main(void)
{
  if (gpu_absent())
    return 0;
  FOR_TABLES(test_exact);
  return check_done();
}
