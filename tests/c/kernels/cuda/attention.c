/* Attention and exact sums on the GPU against plain C. With "small" short sequences alone, for
 * sanitizers. */
#include "gpu_test.h"

static bool small;

/* An attention; wide and narrow: elements of a row of qkv, and of out. */
typedef struct {
  int64_t sequences, s, heads, kv, d, wide, narrow;
} shape;

/* The bits of the beginning of each sequence alone, and of the gradients of the whole of it. */
static void check_alone(kernels *k, const shape *z, twin qkv, twin out, twin lse, twin dout,
                        twin dqkv)
{
  void *alone = device_poisoned(z->s * z->narrow * k->size);
  void *norm = device_poisoned(z->s * z->heads * 4);
  void *grads = device_poisoned(z->s * z->wide * k->size);
  for (int64_t i = 0; i < z->sequences; i++) {
    int64_t shorter = z->s - i % 2 * (z->s / 3), row = i * z->s;
    const void *in = at(k, qkv.device, row * z->wide), *to = at(k, out.device, row * z->narrow);
    const float *of = (const float *)lse.device + row * z->heads;
    k->attention(1, shorter, z->heads, z->kv, z->d, in, alone, norm, NULL);
    check_equal(alone, to, shorter * z->narrow * k->size,
                "attention: a sequence's beginning alone differs", k);
    check_equal(norm, of, shorter * z->heads * 4, "lse: a sequence's beginning alone differs", k);
    k->attention_backward(1, z->s, z->heads, z->kv, z->d, in, to, of,
                          at(k, dout.device, row * z->narrow), grads, NULL);
    check_equal(grads, at(k, dqkv.device, row * z->wide), z->s * z->wide * k->size,
                "attention_backward: a sequence alone differs", k);
  }
}

/* sharpness: factor of queries, keys and values; above 1 a query sees few keys. */
static void check_attention(kernels *k, int64_t sequences, int64_t s, int64_t heads, int64_t kv,
                            int64_t d, float sharpness)
{
  if (small && s > 129)
    return;
  int64_t rows = sequences * s, wide = (heads + 2 * kv) * d, narrow = heads * d;
  shape z = {sequences, s, heads, kv, d, wide, narrow};
  kernels *plain = neapi_kernels_f32();
  float *numbers = normals(plain, rows * wide, (uint64_t)(s + d));
  for (int64_t i = 0; i < rows * wide; i++)
    numbers[i] *= sharpness;
  twin qkv = twin_of(k, numbers, rows * wide), dout = twin_normals(k, rows * narrow, 2);
  twin out = twin_output(k, rows * narrow), lse = twin_stat_output(rows * heads);
  twin dqkv = twin_output(k, rows * wide);
  int result = k->attention(sequences, s, heads, kv, d, qkv.device, out.device, lse.device, NULL);
  plain->attention(sequences, s, heads, kv, d, qkv.host, out.host, lse.host, NULL);
  check(!result, "%s: attention of s %d, d %d: %d", k->name, (int)s, (int)d, result);
  check_twin(k, out, rows * narrow, tolerance(k), "attention");
  check_stat(k, lse, rows * heads, 1e-5, "attention lse");
  result = k->attention_backward(sequences, s, heads, kv, d, qkv.device, out.device, lse.device,
                                 dout.device, dqkv.device, NULL);
  plain->attention_backward(sequences, s, heads, kv, d, qkv.host, out.host, lse.host, dout.host,
                            dqkv.host, NULL);
  check(!result, "%s: attention_backward of s %d, d %d: %d", k->name, (int)s, (int)d, result);
  check_twin(k, dqkv, rows * wide, 2 * tolerance(k), "attention_backward");
  check_alone(k, &z, qkv, out, lse, dout, dqkv);
  release_everything();
}

/* Shapes that no tile divides; d below, at and between the widths that tiles have, and of rows that
 * are no multiple of 16 bytes. */
static void test_attention(kernels *k)
{
  check_attention(k, 3, 1, 2, 1, 8, 1);
  check_attention(k, 2, 17, 2, 2, 10, 1);
  check_attention(k, 3, 64, 4, 2, 32, 1);
  check_attention(k, 2, 127, 4, 4, 64, 1);
  check_attention(k, 2, 129, 2, 1, 128, 1);
  check_attention(k, 2, 200, 2, 1, 200, 1);
  check_attention(k, 2, 63, 6, 2, 16, 1);
  check_attention(k, 3, 65, 3, 1, 40, 1);
  check_attention(k, 2, 100, 2, 2, 66, 1);
  check_attention(k, 2, 257, 4, 1, 64, 1);
  check_attention(k, 2, 257, 2, 2, 64, 3);
  check_attention(k, 1, 500, 2, 1, 32, 3);
  check_attention(k, 2, 385, 2, 2, 128, 3);
  for (uint64_t i = 0; i < 6; i++) {
    int64_t kv = pick(5, 4 * i, 1, 3), heads = kv * pick(5, 4 * i + 1, 1, 3);
    int64_t s = pick(5, 4 * i + 2, 2, 300), d = 2 * pick(5, 4 * i + 3, 1, 64);
    check_attention(k, 1 + (int64_t)i % 3, s, heads, kv, d, 1);
  }
}

/* The bits of the CPU's exact sums of the same numbers. */
static void test_exact(kernels *k)
{
  enum { T = 321, K = 40, N = 70, ROWS = 9, BITS = 22 };
  kernels *plain = neapi_kernels_f32();
  twin a = twin_normals(k, T * K, 1), b = twin_normals(k, T * N, 2);
  double *max = poisoned((K + N) * 8), *grid = poisoned((K + N) * 8);
  double *max_gpu = device_poisoned((K + N) * 8), *grid_gpu = device_poisoned((K + N) * 8);
  k->exact_column_max(T, K, a.device, K, 0, max_gpu, NULL);
  k->exact_column_max(T / 2, N, b.device, N, 0, max_gpu + K, NULL);
  k->exact_column_max(T, N, b.device, N, 1, max_gpu + K, NULL);
  plain->exact_column_max(T, K, a.host, K, 0, max, NULL);
  plain->exact_column_max(T, N, b.host, N, 0, max + K, NULL);
  check_same(to_host(max_gpu, (K + N) * 8), max, (K + N) * 8, "%s: exact_column_max", k->name);
  k->exact_grid(K + N, BITS, max_gpu, grid_gpu, NULL);
  plain->exact_grid(K + N, BITS, max, grid, NULL);
  check_same(to_host(grid_gpu, (K + N) * 8), grid, (K + N) * 8, "%s: exact_grid", k->name);
  double *qa = poisoned(T * K * 8), *qb = poisoned(T * N * 8), *sum = poisoned(K * N * 8);
  double *qa_gpu = device_poisoned(T * K * 8), *qb_gpu = device_poisoned(T * N * 8);
  memset(sum, 0, K * N * 8);
  double *sum_gpu = to_device(sum, K * N * 8);
  k->exact_quantise(T, K, a.device, K, grid_gpu, qa_gpu, NULL);
  k->exact_quantise(T, N, b.device, N, grid_gpu + K, qb_gpu, NULL);
  plain->exact_quantise(T, K, a.host, K, grid, qa, NULL);
  plain->exact_quantise(T, N, b.host, N, grid + K, qb, NULL);
  check_same(to_host(qa_gpu, T * K * 8), qa, T * K * 8, "%s: exact_quantise", k->name);
  k->exact_gemm_tn(T, K, N, qa_gpu, grid_gpu, qb_gpu, grid_gpu + K, sum_gpu, NULL);
  plain->exact_gemm_tn(T, K, N, qa, grid, qb, grid + K, sum, NULL);
  check_same(to_host(sum_gpu, K * N * 8), sum, K * N * 8, "%s: exact_gemm_tn", k->name);
  memset(sum, 0, K * N * 8);
  sum_gpu = to_device(sum, K * N * 8);
  int32_t *ids = random_ids(T, ROWS, 3);
  k->exact_column_sum(T, N, b.device, N, grid_gpu + K, sum_gpu, NULL);
  k->exact_scatter_add(T, N, to_device(ids, T * 4), b.device, grid_gpu + K, sum_gpu + N, NULL);
  plain->exact_column_sum(T, N, b.host, N, grid + K, sum, NULL);
  plain->exact_scatter_add(T, N, ids, b.host, grid + K, sum + N, NULL);
  check_same(to_host(sum_gpu, (ROWS + 1) * N * 8), sum, (ROWS + 1) * N * 8,
             "%s: exact_column_sum, exact_scatter_add", k->name);
  double pair[2] = {0, 0}, *pair_gpu = to_device(pair, 16);
  k->exact_square_sum(T * N, b.device, 10, T * N, pair_gpu, NULL);
  plain->exact_square_sum(T * N, b.host, 10, T * N, pair, NULL);
  check_same(to_host(pair_gpu, 16), pair, 16, "%s: exact_square_sum", k->name);
}

int main(int argc, char **argv)
{
  if (gpu_absent())
    return 0;
  small = argc > 1 && !strcmp(argv[1], "small");
  FOR_TABLES(test_attention);
  FOR_TABLES(test_exact);
  return check_done();
}
