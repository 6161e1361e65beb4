/* SPDX-License-Identifier: Apache-2.0 */
/* The matrix products: right, free of a row's position and of the number of rows, to the bit. */
#include "bf16_test.h"

#include <pthread.h>

typedef struct {
  int64_t m, n, k, lda, ldb, ldc;
  int trans_a, trans_b, accumulate;
} product;

static double element(kernels *k, const product *p, const void *a, const void *b, const void *c,
                      int64_t i, int64_t j)
{
  double sum = p->accumulate ? get(k, c, i * p->ldc + j) : 0;
  for (int64_t x = 0; x < p->k; x++)
    sum += get(k, a, p->trans_a ? x * p->lda + i : i * p->lda + x) *
           get(k, b, p->trans_b ? j * p->ldb + x : x * p->ldb + j);
  return sum;
}

/* Elements of a matrix whose last row ends where its columns end. */
static int64_t extent(int64_t rows, int64_t columns, int64_t ld)
{
  return rows && columns ? (rows - 1) * ld + columns : 0;
}

static void check_product(kernels *k, const product *p, uint64_t seed)
{
  void *a = normals(k, p->trans_a ? extent(p->k, p->m, p->lda) : extent(p->m, p->k, p->lda), seed);
  void *b = normals(k, p->trans_b ? extent(p->n, p->k, p->ldb) : extent(p->k, p->n, p->ldb), ~seed);
  int64_t size = extent(p->m, p->n, p->ldc);
  void *c = p->accumulate ? normals(k, size, seed + 1) : reals(k, size);
  void *before = copy_of(c, size * k->size);
  k->gemm(p->m, p->n, p->k, a, p->lda, p->trans_a, b, p->ldb, p->trans_b, c, p->ldc, p->accumulate,
          NULL);
  double worst = 0;
  bool outside = true;
  for (int64_t i = 0; i < p->m; i++)
    for (int64_t j = 0; j < p->ldc && i * p->ldc + j < size; j++)
      if (j < p->n)
        worst = fmax(worst, fabs(get(k, c, i * p->ldc + j) - element(k, p, a, b, before, i, j)));
      else
        outside &=
            !memcmp(at(k, c, i * p->ldc + j), at(k, before, i * p->ldc + j), (size_t)k->size);
  double allowed = (k->size == 8 ? 2e-14 : 1e-5) * sqrt((double)p->k + 1);
  check(worst <= allowed, "%s m %d n %d k %d ta %d tb %d acc %d: off by %g", k->name, (int)p->m,
        (int)p->n, (int)p->k, p->trans_a, p->trans_b, p->accumulate, worst);
  check(outside, "%s: what lies between the rows of c has changed", k->name);
  release_all();
}

static void test_product(kernels *k)
{
  static const int64_t sizes[] = {0, 1, 3, 17, 127, 129, 257};
  for (int round = 0; round < 120; round++) {
    uint64_t s = (uint64_t)round;
    product p = {.m = sizes[pick(1, s, 0, 6)],
                 .n = sizes[pick(2, s, 0, 6)],
                 .k = round < 4 ? 600 : sizes[pick(3, s, 0, 6)],
                 .trans_a = (int)pick(4, s, 0, 1),
                 .trans_b = (int)pick(5, s, 0, 1),
                 .accumulate = (int)pick(6, s, 0, 1)};
    p.trans_b &= !p.trans_a;
    p.lda = (p.trans_a ? p.m : p.k) + pick(7, s, 0, 3);
    p.ldb = (p.trans_b ? p.k : p.n) + pick(8, s, 0, 3);
    p.ldc = p.n + pick(9, s, 0, 3);
    check_product(k, &p, s);
  }
}

/* Rows [first, first + count) of the product alone must be those of the whole. */
static void check_rows(kernels *k, int64_t m, int64_t n, int64_t depth, int trans_b)
{
  void *a = normals(k, m * depth, 1), *b = normals(k, depth * n, 2);
  void *whole = reals(k, m * n), *part = reals(k, m * n);
  int64_t ldb = trans_b ? depth : n;
  k->gemm(m, n, depth, a, depth, 0, b, ldb, trans_b, whole, n, 0, NULL);
  for (int round = 0; round < 40; round++) {
    int64_t first = pick(3, (uint64_t)round, 0, m - 1);
    int64_t count = round < 20 ? 1 : pick(4, (uint64_t)round, 1, m - first);
    k->gemm(count, n, depth, at(k, a, first * depth), depth, 0, b, ldb, trans_b, part, n, 0, NULL);
    check_same(part, at(k, whole, first * n), count * n * k->size,
               "%s: rows %d to %d alone differ from the same in %d (n %d, k %d, tb %d)", k->name,
               (int)first, (int)(first + count), (int)m, (int)n, (int)depth, trans_b);
  }
  release_all();
}

/* Columns too: a column's value does not depend on the columns beside it. */
static void check_columns(kernels *k, int64_t m, int64_t n, int64_t depth)
{
  void *a = normals(k, m * depth, 5), *b = normals(k, n * depth, 6);
  void *whole = reals(k, m * n), *part = reals(k, m);
  k->gemm(m, n, depth, a, depth, 0, b, depth, 1, whole, n, 0, NULL);
  for (int64_t j = 0; j < n; j++) {
    bool same = true;
    k->gemm(m, 1, depth, a, depth, 0, at(k, b, j * depth), depth, 1, part, 1, 0, NULL);
    for (int64_t i = 0; i < m; i++)
      same &= get(k, part, i) == get(k, whole, i * n + j);
    check(same, "%s: column %d alone differs", k->name, (int)j);
  }
  release_all();
}

static void test_position(kernels *k)
{
  check_rows(k, 1, 17, 129, 0);
  check_rows(k, 7, 33, 64, 1);
  check_rows(k, 129, 127, 300, 0);
  check_rows(k, 301, 48, 513, 1);
  check_columns(k, 13, 37, 270);
}

static void test_gemm_tn(kernels *k)
{
  for (int round = 0; round < 60; round++) {
    int64_t t = round % 6 ? odd_sizes[round % 5] : 0;
    int64_t rows = odd_sizes[round / 5 % 5], n = odd_sizes[round / 12];
    product p = {rows, n, t, rows + 1, n + 2, n + 3, 1, 0, round % 2};
    void *a = normals(k, extent(t, rows, p.lda), 1), *b = normals(k, extent(t, n, p.ldb), 2);
    void *c = p.accumulate ? normals(k, rows * p.ldc, 3) : reals(k, rows * p.ldc);
    void *before = copy_of(c, rows * p.ldc * k->size);
    k->gemm_tn(t, rows, n, a, p.lda, b, p.ldb, c, p.ldc, p.accumulate, NULL);
    double worst = 0;
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < n; j++)
        worst = fmax(worst, fabs(get(k, c, i * p.ldc + j) - element(k, &p, a, b, before, i, j)));
    check(worst <= (k->size == 8 ? 1e-13 : 1e-4), "%s gemm_tn: off by %g", k->name, worst);
    release_all();
  }
}

enum { THREADS = 4, SIDE = 130 };

typedef struct {
  kernels *k;
  const void *a, *b;
  void *c;
} job;

static void *multiply(void *of_thread)
{
  job *j = of_thread;
  for (int round = 0; round < 5; round++)
    j->k->gemm(SIDE, SIDE, SIDE, j->a, SIDE, 0, j->b, SIDE, 0, j->c, SIDE, 0, NULL);
  return NULL;
}

/* Threads do not disturb each other's scratch memory, and give it back. */
static void test_threads(kernels *k)
{
  void *a = normals(k, SIDE * SIDE, 1), *b = normals(k, SIDE * SIDE, 2);
  job jobs[THREADS];
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    jobs[i] = (job){k, a, b, reals(k, SIDE * SIDE)};
  for (int i = 1; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, multiply, &jobs[i]))
      exit(1);
  multiply(&jobs[0]);
  for (int i = 1; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    check_same(jobs[i].c, jobs[0].c, SIDE * SIDE * k->size, "%s: thread %d differs", k->name, i);
  }
}

static void test_bf16(void)
{
  for (uint64_t s = 0; s < 60; s++) {
    int64_t m = pick(1, s, 0, 40), n = pick(2, s, 1, 40), k = pick(3, s, 1, 300);
    int ta = (int)pick(4, s, 0, 1), tb = !ta && pick(5, s, 0, 1), add = (int)pick(6, s, 0, 1);
    int64_t lda = (ta ? m : k) + pick(7, s, 0, 3), ldb = (tb ? k : n) + pick(8, s, 0, 3);
    int64_t ldc = n + pick(9, s, 0, 3);
    twin a = twin_normals((ta ? k : m) * lda, s), b = twin_normals((tb ? n : k) * ldb, s + 100);
    twin c = twin_normals(m * ldc, s + 200), acc = acc_normals(m * ldc, s + 300);
    narrow->gemm(m, n, k, a.narrow, lda, ta, b.narrow, ldb, tb, c.narrow, ldc, add, NULL);
    wide->gemm(m, n, k, a.wide, lda, ta, b.wide, ldb, tb, c.wide, ldc, add, NULL);
    check_real(c, m * ldc, "gemm");
    narrow->gemm_acc(m, n, k, a.narrow, lda, ta, b.narrow, ldb, tb, acc.narrow, ldc, add, NULL);
    wide->gemm_acc(m, n, k, a.wide, lda, ta, b.wide, ldb, tb, acc.wide, ldc, add, NULL);
    check_acc(acc, m * ldc, "gemm_acc");
    twin dw = add ? acc_normals(k * n, s) : acc_output(k * n);
    twin x = twin_normals(m * k, s + 400), dy = twin_normals(m * n, s + 500);
    narrow->gemm_tn(m, k, n, x.narrow, k, dy.narrow, n, dw.narrow, n, add, NULL);
    wide->gemm_tn(m, k, n, x.wide, k, dy.wide, n, dw.wide, n, add, NULL);
    check_acc(dw, k * n, "gemm_tn");
  }
}

int main(void)
{
  FOR_BOTH(test_product);
  FOR_BOTH(test_position);
  FOR_BOTH(test_gemm_tn);
  FOR_BOTH(test_threads);
  FOR_BF16(test_bf16);
  return check_done();
}
