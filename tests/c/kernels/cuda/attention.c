/* SPDX-License-Identifier: Apache-2.0 */
/* Attention on the GPU against plain C. With "small" short sequences alone, for
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
  twin out = twin_output(k, rows * narrow), lse = twin_acc_output(rows * heads);
  twin dqkv = twin_output(k, rows * wide);
  int result = k->attention(sequences, s, heads, kv, d, qkv.device, out.device, lse.device, NULL);
  plain->attention(sequences, s, heads, kv, d, qkv.host, out.host, lse.host, NULL);
  check(!result, "%s: attention of s %d, d %d: %d", k->name, (int)s, (int)d, result);
  check_twin(k, out, rows * narrow, tolerance(k), "attention");
  check_acc(k, lse, rows * heads, 1e-5, "attention lse");
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

int main(int argc, char **argv)
{
  if (gpu_absent())
    return 0;
  small = argc > 1 && !strcmp(argv[1], "small");
  FOR_TABLES(test_attention);
  return check_done();
}
