/* SPDX-License-Identifier: Apache-2.0 */
/* Products on the GPU: against plain C, and free of a row's position to the bit. With "small" fewer
 * and smaller ones, for sanitizers. */
#include "gpu_test.h"

static bool small;

typedef struct {
  int64_t m, n, k, lda, ldb, ldc;
  int trans_a, trans_b, accumulate, acc; /* acc: into float */
} product;

/* n numbers, of which so many are drawn (a prime, so that no row is as another): drawing them all
 * would take most of the test's time. */
static twin twin_numbers(kernels *k, int64_t n, uint64_t seed)
{
  enum { DRAWN = 16411 };
  const float *drawn = normals(neapi_kernels_f32(), n < DRAWN ? n : DRAWN, seed);
  float *host = reals(neapi_kernels_f32(), n);
  for (int64_t done = 0; done < n; done += DRAWN)
    memcpy(host + done, drawn, (size_t)(n - done < DRAWN ? n - done : DRAWN) * sizeof *host);
  return twin_of(k, host, n);
}

static int64_t rows_of(int trans, int64_t rows, int64_t depth)
{
  return trans ? depth : rows;
}

static void check_product(kernels *k, const product *p, uint64_t seed)
{
  int64_t size_a = rows_of(p->trans_a, p->m, p->k) * p->lda;
  int64_t size_b = rows_of(p->trans_b, p->k, p->n) * p->ldb, size_c = p->m * p->ldc;
  twin a = twin_numbers(k, size_a, seed), b = twin_numbers(k, size_b, seed + 1000);
  kernels *out = p->acc ? neapi_kernels_cuda_f32() : k; /* c's type */
  twin c = p->accumulate ? twin_numbers(out, size_c, seed + 2000) : twin_output(out, size_c);
  float *before = fetch(out, c.device, size_c);
  int result =
      (p->acc ? k->gemm_acc : k->gemm)(p->m, p->n, p->k, a.device, p->lda, p->trans_a, b.device,
                                       p->ldb, p->trans_b, c.device, p->ldc, p->accumulate, NULL);
  neapi_kernels_f32()->gemm(p->m, p->n, p->k, a.host, p->lda, p->trans_a, b.host, p->ldb,
                            p->trans_b, c.host, p->ldc, p->accumulate, NULL);
  float *got = fetch(out, c.device, size_c);
  double worst = 0, allowed = tolerance(out) * sqrt((double)p->k + 1) * 4;
  bool outside = true;
  for (int64_t i = 0; i < size_c; i++)
    if (i % p->ldc < p->n) {
      double apart = fabs((double)got[i] - c.host[i]) / fmax(1, fabs(c.host[i]));
      worst = apart <= worst ? worst : apart;
    } else
      outside &= !memcmp(&got[i], &before[i], 4);
  check(!result && worst <= allowed, "%s m %d n %d k %d ta %d tb %d acc %d acc %d: %d, off by %g",
        k->name, (int)p->m, (int)p->n, (int)p->k, p->trans_a, p->trans_b, p->accumulate, p->acc,
        result, worst);
  check(outside, "%s: what lies between the rows of c has changed", k->name);
  release_everything();
}

/* round < 60: any sizes; else sizes that cuBLAS takes. */
static void test_sizes(kernels *k)
{
  static const int64_t odd[] = {0, 1, 17, 127, 129, 257}, even[] = {64, 128, 192, 256, 768};
  for (int round = 0; round < 120; round += small ? 6 : 1) {
    uint64_t s = (uint64_t)round;
    bool any = round < 60;
    product p = {.m = odd[pick(1, s, 0, 5)],
                 .n = any ? odd[pick(2, s, 0, 5)] : even[pick(2, s, 0, 4)],
                 .k = any ? odd[pick(3, s, 0, 5)] : even[pick(3, s, 0, 4)],
                 .trans_a = (int)pick(4, s, 0, 1),
                 .trans_b = (int)pick(5, s, 0, 1),
                 .accumulate = (int)pick(6, s, 0, 1),
                 .acc = (int)pick(10, s, 0, 1)};
    p.trans_b &= !p.trans_a;
    if (!any && p.trans_a) { /* tokens are what is summed over */
      int64_t tokens = p.m;
      p.m = p.k;
      p.k = tokens;
    }
    p.lda = (p.trans_a ? p.m : p.k) + (any ? pick(7, s, 0, 3) : 8 * pick(7, s, 0, 3));
    p.ldb = (p.trans_b ? p.k : p.n) + (any ? pick(8, s, 0, 3) : 8 * pick(8, s, 0, 3));
    p.ldc = p.n + (any ? pick(9, s, 0, 3) : 8 * pick(9, s, 0, 3));
    check_product(k, &p, s);
  }
}

static const int64_t token_counts[] = {0, 1, 127, 129, 1000, 9000};

/* N or K below 64, as a router's experts; aligned: sizes and rows in whole packs. */
static void test_narrow(kernels *k)
{
  for (int round = 0; round < 96; round += small ? 7 : 1) {
    uint64_t s = 500 + (uint64_t)round;
    bool aligned = round % 2, shallow = round / 2 % 2;
    int64_t narrow = aligned ? 8 * pick(1, s, 1, 7) : pick(1, s, 1, 63);
    int64_t wide = aligned ? 8 * pick(2, s, 8, 40) : pick(2, s, 64, 320);
    int64_t pad = aligned ? 8 : 1;
    product p = {.m = token_counts[round / 4 % (small ? 4 : 6)],
                 .n = shallow ? wide : narrow,
                 .k = shallow ? narrow : wide,
                 .trans_b = pick(3, s, 0, 3) > 0 ? shallow : !shallow,
                 .accumulate = (int)pick(4, s, 0, 1),
                 .acc = (int)pick(5, s, 0, 1)};
    if (aligned && pick(6, s, 0, 1)) /* rows in whole packs, but not filled by K */
      p.k -= pick(7, s, 1, 7);
    p.lda = (p.k + pad - 1) / pad * pad + pad * pick(8, s, 0, 2);
    p.ldb = ((p.trans_b ? p.k : p.n) + pad - 1) / pad * pad + pad * pick(9, s, 0, 2);
    p.ldc = p.n + pad * pick(10, s, 0, 2);
    check_product(k, &p, s);
  }
}

/* Two runs give the same bits. */
static void test_narrow_gradient(kernels *k)
{
  for (int round = 0; round < 48; round += small ? 7 : 1) {
    uint64_t s = 700 + (uint64_t)round;
    int accumulate = round / 6 % 2;
    int64_t t = token_counts[round % (small ? 4 : 6)],
            n = round % 3 ? pick(1, s, 1, 63) : 8 * pick(1, s, 1, 7);
    int64_t rows = round % 3 ? pick(2, s, 1, 400) : 8 * pick(2, s, 1, 50), size = rows * n;
    twin a = twin_numbers(k, t * rows, s), b = twin_numbers(k, t * n, s + 1);
    float *before = normals(neapi_kernels_f32(), size, s + 2);
    twin c = accumulate ? twin_acc(before, size) : twin_acc_output(size);
    void *again = accumulate ? to_device(before, size * 4) : device_poisoned(size * 4);
    int result = k->gemm_tn(t, rows, n, a.device, rows, b.device, n, c.device, n, accumulate, NULL);
    check(!result, "gemm_tn t %d, %d x %d: %d", (int)t, (int)rows, (int)n, result);
    k->gemm_tn(t, rows, n, a.device, rows, b.device, n, again, n, accumulate, NULL);
    check_equal(c.device, again, size * 4, "gemm_tn is not the same in two runs", k);
    neapi_kernels_f32()->gemm_tn(t, rows, n, a.host, rows, b.host, n, c.host, n, accumulate, NULL);
    check_acc(k, c, size, 1e-4, "gemm_tn, n narrow");
    release_everything();
  }
}

/* Any rows alone give the bits that they have in the whole. */
static void check_rows(kernels *k, int64_t m, int64_t n, int64_t depth, int trans_b, int acc)
{
  if (small && m * depth * n > 5000000)
    return;
  int64_t size = acc ? k->acc_size : k->size;
  __typeof__(k->gemm) gemm = acc ? k->gemm_acc : k->gemm;
  twin a = twin_numbers(k, m * depth, 1), b = twin_numbers(k, depth * n, 2);
  void *whole = device_poisoned(m * n * size), *part = device_poisoned(m * n * size);
  int64_t ldb = trans_b ? depth : n;
  gemm(m, n, depth, a.device, depth, 0, b.device, ldb, trans_b, whole, n, 0, NULL);
  char *expected = to_host(whole, m * n * size), *got = poisoned(m * n * size);
  for (int round = 0; round < 60; round += small ? 12 : 1) {
    uint64_t s = (uint64_t)round;
    int64_t first = pick(3, s, 0, m - 1), count = round < 10 ? 1 : pick(4, s, 1, m - first);
    if (round >= 40)
      count = pick(5, s, 1, m - first < 64 ? m - first : 64);
    gemm(count, n, depth, at(k, a.device, first * depth), depth, 0, b.device, ldb, trans_b, part, n,
         0, NULL);
    must(cudaMemcpy(got, part, (size_t)(count * n * size), cudaMemcpyDeviceToHost));
    check(!memcmp(got, expected + first * n * size, (size_t)(count * n * size)),
          "%s: rows %d to %d alone differ (of %d, n %d, k %d, tb %d, acc %d)", k->name, (int)first,
          (int)(first + count), (int)m, (int)n, (int)depth, trans_b, acc);
  }
  release_everything();
}

static void test_position(kernels *k)
{
  check_rows(k, 300, 33, 130, 0, 0);
  check_rows(k, 300, 100, 65, 1, 0);
  check_rows(k, 300, 16, 128, 0, 1);
  check_rows(k, 1000, 64, 512, 0, 1);
  check_rows(k, 1000, 16, 4096, 0, 1);
  check_rows(k, 500, 60, 1000, 0, 1);
  check_rows(k, 500, 7, 300, 1, 0);
  check_rows(k, 700, 4096, 16, 1, 0);
  check_rows(k, 300, 130, 60, 1, 0);
  check_rows(k, 300, 136, 33, 0, 0);
  for (int trans_b = 0; trans_b < 2; trans_b++) {
    check_rows(k, 129, 64, 64, trans_b, 0);
    check_rows(k, 700, 256, 128, trans_b, 0);
    if (k->size == 4) /* those below are for cuBLAS, which may choose by all sizes */
      continue;
    check_rows(k, 5000, 1536, 2048, trans_b, 0);
    check_rows(k, 3000, 2048, 768, trans_b, 0);
    check_rows(k, 9000, 512, 4096, trans_b, 0);
    check_rows(k, 2500, 4096, 1024, trans_b, 0);
  }
}

static void test_gemm_tn(kernels *k)
{
  for (int round = 0; round < 30; round += small ? 7 : 1) {
    int64_t t = round % 6 ? odd_sizes[round % 5] : 0, rows = round % 2 ? 128 : 17,
            n = round % 3 ? 256 : 127;
    twin a = twin_numbers(k, t * rows, 1), b = twin_numbers(k, t * n, 2);
    twin c = round % 2 ? twin_acc(normals(neapi_kernels_f32(), rows * n, 3), rows * n)
                       : twin_acc_output(rows * n);
    k->gemm_tn(t, rows, n, a.device, rows, b.device, n, c.device, n, round % 2, NULL);
    neapi_kernels_f32()->gemm_tn(t, rows, n, a.host, rows, b.host, n, c.host, n, round % 2, NULL);
    check_acc(k, c, rows * n, 1e-4, "gemm_tn");
    release_everything();
  }
}

int main(int argc, char **argv)
{
  if (gpu_absent())
    return 0;
  small = argc > 1 && !strcmp(argv[1], "small");
  FOR_TABLES(test_sizes);
  FOR_TABLES(test_position);
  FOR_TABLES(test_gemm_tn);
  test_narrow(neapi_kernels_cuda_bf16());
  test_narrow_gradient(neapi_kernels_cuda_bf16());
  return check_done();
}
