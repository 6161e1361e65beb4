/* SPDX-License-Identifier: Apache-2.0 */
/* Exact sums: the same to the bit for any order and any partition of the tokens, and near to what
 * they stand for. */
#include "bf16_test.h"

enum { T = 150, K = 37, N = 21, VOCABULARY = 11, PARTS = 6, ROUNDS = 8 };

/* Bits that a factor of a product may have for t tokens, and an element of a sum. */
static int sum_bits(int64_t t)
{
  int bits = 53;
  while (t > (int64_t)1 << (53 - bits))
    bits--;
  return bits;
}

/* Columns of very different sizes, one of them zero. */
static void *columns(kernels *k, int64_t rows, int64_t h, uint64_t seed)
{
  void *x = normals(k, rows * h, seed);
  for (int64_t i = 0; i < rows * h; i++)
    put(k, x, i, i % h == 1 ? 0 : ldexp(get(k, x, i), (int)(i % h % 7) * 6 - 20));
  return x;
}

static double *quantum_of(kernels *k, int64_t rows, int64_t h, const void *x, int bits)
{
  double *max = poisoned(h * 8), *quantum = poisoned(h * 8);
  k->exact_column_max(rows, h, x, h, 0, max, NULL);
  k->exact_quantum(h, bits, max, quantum, NULL);
  return quantum;
}

static double *zeros(int64_t n)
{
  return memset(poisoned(n * 8), 0, (size_t)n * 8);
}

/* A random order of the tokens cut into PARTS pieces, some maybe empty: piece p is
 * order[cut[p]..cut[p + 1]). */
static const int32_t *cut_up(uint64_t seed, int64_t *cut)
{
  for (int p = 0; p <= PARTS; p++)
    cut[p] = p == 0 ? 0 : p == PARTS ? T : pick(seed, (uint64_t)p, cut[p - 1], T);
  return random_order(T, seed);
}

static void *rows_of(kernels *k, const void *x, int64_t h, const int32_t *order, int64_t from,
                     int64_t to)
{
  void *piece = reals(k, (to - from) * h);
  for (int64_t i = from; i < to; i++)
    memcpy(at(k, piece, (i - from) * h), at(k, x, order[i] * h), (size_t)(h * k->size));
  return piece;
}

static void test_quantise(kernels *k)
{
  enum { BITS = 20 };
  void *x = columns(k, T, K, 1);
  put(k, x, 5 * K + 3, 1e-38);
  double *quantum = quantum_of(k, T, K, x, BITS), *q = poisoned(T * K * 8);
  k->exact_quantise(T, K, x, K, quantum, q, NULL);
  for (int64_t i = 0; i < T * K; i++) {
    double g = quantum[i % K], value = get(k, x, i);
    int exponent;
    check(g == 0 ? i % K == 1 : frexp(g, &exponent) == 0.5, "quantum %g is no power of two", g);
    check(q[i] == rint(q[i]) && fabs(q[i]) <= 1 << BITS, "%g is not a %d bit integer", q[i], BITS);
    check(fabs(q[i] * g - value) <= g / 2, "%g became %g with quantum %g", value, q[i] * g, g);
  }
  double *max = poisoned(K * 8), *all = poisoned(K * 8), largest;
  k->exact_column_max(T, K, x, K, 0, all, NULL);
  k->exact_column_max(50, K, x, K, 0, max, NULL);
  k->exact_column_max(T - 50, K, at(k, x, 50 * K), K, 1, max, NULL);
  check_same(max, all, K * 8, "column maxima in two pieces");
  k->exact_column_max(T * K, 1, x, 1, 0, max, NULL);
  k->max_abs(T * K, x, &largest, NULL);
  check(max[0] == largest, "column maximum %g, maximum %g", max[0], largest);
}

static void test_product(kernels *k)
{
  int bits = sum_bits(T);
  void *a = columns(k, T, K, 1), *b = columns(k, T, N, 2);
  double *quantum_a = quantum_of(k, T, K, a, bits / 2),
         *quantum_b = quantum_of(k, T, N, b, bits - bits / 2);
  double *first = NULL;
  for (uint64_t round = 1; round <= ROUNDS; round++) {
    int64_t cut[PARTS + 1];
    const int32_t *order = cut_up(round, cut);
    double *sum = zeros(K * N);
    for (int p = 0; p < PARTS; p++) {
      int64_t t = cut[p + 1] - cut[p];
      double *qa = poisoned(t * K * 8), *qb = poisoned(t * N * 8), *part = zeros(K * N);
      k->exact_quantise(t, K, rows_of(k, a, K, order, cut[p], cut[p + 1]), K, quantum_a, qa, NULL);
      k->exact_quantise(t, N, rows_of(k, b, N, order, cut[p], cut[p + 1]), N, quantum_b, qb, NULL);
      k->exact_gemm_tn(t, K, N, qa, quantum_a, qb, quantum_b, round % 2 ? part : sum, NULL);
      const double *both[2] = {sum, part};
      k->sum_double(K * N, 2, both, sum, NULL);
    }
    if (first)
      check_same(sum, first, K * N * 8, "%s: exact product depends on the partition", k->name);
    first = sum;
  }
  double error = 0, norm = 0;
  for (int64_t i = 0; i < K * N; i++) {
    double exact = 0, scale = 0; /* relative to the columns' norms: columns differ in size */
    for (int64_t t = 0; t < T; t++) {
      double x = get(k, a, t * K + i / N), y = get(k, b, t * N + i % N);
      exact += x * y;
      scale += x * x;
    }
    if (scale == 0 || i % N == 1)
      continue;
    error = fmax(error, fabs(first[i] - exact) / sqrt(scale) / ldexp(1, (int)(i % N % 7) * 6 - 20));
    norm = fmax(norm, fabs(exact) / sqrt(scale) / ldexp(1, (int)(i % N % 7) * 6 - 20));
  }
  check(error <= 1e-6 * norm, "%s: exact product is off by %g of %g", k->name, error, norm);
}

static void test_column_sum(kernels *k)
{
  void *x = columns(k, T, K, 1);
  int32_t *ids = random_ids(T, VOCABULARY, 3);
  double *quantum = quantum_of(k, T, K, x, sum_bits(T)), *first = NULL, *first_table = NULL;
  for (uint64_t round = 1; round <= ROUNDS; round++) {
    int64_t cut[PARTS + 1];
    const int32_t *order = cut_up(round, cut);
    double *sum = zeros(K), *table = zeros(VOCABULARY * K);
    for (int p = PARTS - 1; p >= 0; p--) {
      int64_t t = cut[p + 1] - cut[p];
      void *rows = rows_of(k, x, K, order, cut[p], cut[p + 1]);
      int32_t *to = poisoned(t * 4);
      for (int64_t i = 0; i < t; i++)
        to[i] = ids[order[cut[p] + i]];
      k->exact_column_sum(t, K, rows, K, quantum, sum, NULL);
      k->exact_scatter_add(t, K, to, rows, quantum, table, NULL);
    }
    if (first) {
      check_same(sum, first, K * 8, "%s: column sum depends on the partition", k->name);
      check_same(table, first_table, VOCABULARY * K * 8, "%s: scatter depends on it", k->name);
    }
    first = sum, first_table = table;
  }
  double *plain = zeros(VOCABULARY * K), *plain_sum = zeros(K);
  for (int64_t i = 0; i < T * K; i++) {
    plain[ids[i / K] * K + i % K] += get(k, x, i);
    plain_sum[i % K] += get(k, x, i);
  }
  for (int64_t i = 0; i < VOCABULARY * K; i++)
    check(fabs(first_table[i] - plain[i]) <= T * quantum[i % K], "exact scatter-add");
  for (int64_t i = 0; i < K; i++)
    check(fabs(first[i] - plain_sum[i]) <= T * quantum[i], "exact column sum");
}

/* Gradients are like this: a few large ones and very many small ones. */
static void test_square_sum(kernels *k)
{
  enum { COUNT = 20000 };
  void *x = normals(k, COUNT, 1), *mixed = reals(k, COUNT);
  for (int64_t i = 0; i < COUNT; i++)
    put(k, x, i, get(k, x, i) * (i % 1000 ? 1e-5 : 1e3));
  double max, plain, sum[2], first[2] = {0}, cut[2];
  k->max_abs(COUNT, x, &max, NULL);
  k->square_sum(COUNT, x, &plain, NULL);
  for (uint64_t round = 1; round <= ROUNDS; round++) {
    const int32_t *order = random_order(COUNT, round);
    k->gather(COUNT, 1, order, x, mixed, NULL);
    memset(sum, 0, sizeof sum);
    for (int64_t from = 0, size; from < COUNT; from += size) {
      size = pick(round, (uint64_t)from, 1, COUNT - from);
      memset(cut, 0, sizeof cut);
      k->exact_square_sum(size, at(k, mixed, from), max, COUNT, cut, NULL);
      sum[0] += cut[0], sum[1] += cut[1];
    }
    if (round > 1)
      check_same(sum, first, sizeof sum, "%s: sum of squares depends on the partition", k->name);
    memcpy(first, sum, sizeof sum);
  }
  check(fabs(sum[0] + sum[1] - plain) <= 1e-13 * plain, "%s: sum of squares %.17g, plain %.17g",
        k->name, sum[0] + sum[1], plain);
  double small = 0;
  for (int64_t i = 0; i < COUNT; i++)
    small += i % 1000 ? get(k, x, i) * get(k, x, i) : 0;
  check(small > 0 && sum[1] != 0, "the small squares are in the low half");
}

/* What is not finite shows, in the column that it is in and nowhere else. */
static void test_not_finite(kernels *k)
{
  static const double poison[] = {NAN, INFINITY, -INFINITY};
  for (int what = 0; what < 3; what++) {
    void *x = columns(k, T, K, 1);
    put(k, x, 17 * K + 5, poison[what]);
    double *quantum = quantum_of(k, T, K, x, 20), *q = poisoned(T * K * 8), *sum = zeros(K);
    double *square = zeros(K * K), squares[2] = {0}, max;
    k->exact_quantise(T, K, x, K, quantum, q, NULL);
    k->exact_gemm_tn(T, K, K, q, quantum, q, quantum, square, NULL);
    k->exact_column_sum(T, K, x, K, quantum, sum, NULL);
    for (int64_t i = 0; i < K; i++) {
      check(isnan(sum[i]) == (i == 5), "column sum %d is %g", (int)i, sum[i]);
      for (int64_t j = 0; j < K; j++)
        check(isnan(square[i * K + j]) == (i == 5 || j == 5), "product %d, %d", (int)i, (int)j);
    }
    k->max_abs(T * K, x, &max, NULL);
    k->exact_square_sum(T * K, x, max, T * K, squares, NULL);
    check(isnan(squares[0] + squares[1]), "sum of squares is %g", squares[0] + squares[1]);
  }
}

static void test_zero(kernels *k)
{
  double max, squares[2] = {0}, sum[3] = {0};
  void *x = reals(k, 6);
  k->fill(6, 0, x, NULL);
  k->max_abs(6, x, &max, NULL);
  k->exact_square_sum(6, x, max, 6, squares, NULL);
  k->exact_column_sum(2, 3, x, 3, quantum_of(k, 2, 3, x, 20), sum, NULL);
  check(max == 0 && squares[0] == 0 && squares[1] == 0, "zeros: squares");
  check(sum[0] == 0 && sum[1] == 0 && sum[2] == 0, "zeros: column sum");
}

/* Of numbers that both types hold, so that results are equal. */
static void test_bf16(void)
{
  enum { T = 13, H = 37 };
  int64_t n = T * H;
  twin x = twin_normals(n, 1);
  double max, max_a[H], max_b[H], quantum[H], sum_a[2 * H] = {0}, sum_b[2 * H] = {0};
  wide->max_abs(n, x.wide, &max, NULL);
  narrow->exact_square_sum(n, x.narrow, max, n, sum_a, NULL);
  wide->exact_square_sum(n, x.wide, max, n, sum_b, NULL);
  check_same(sum_a, sum_b, 16, "exact_square_sum");
  narrow->exact_column_max(T, H - 1, x.narrow, H, 0, max_a, NULL);
  wide->exact_column_max(T, H - 1, x.wide, H, 0, max_b, NULL);
  check_same(max_a, max_b, (H - 1) * 8, "exact_column_max");
  narrow->exact_quantum(H - 1, 20, max_a, quantum, NULL);
  double *q = reals(wide, n), *expected = reals(wide, n);
  narrow->exact_quantise(T, H - 1, x.narrow, H, quantum, q, NULL);
  wide->exact_quantise(T, H - 1, x.wide, H, quantum, expected, NULL);
  check_same(q, expected, T * (H - 1) * 8, "exact_quantise");
  narrow->exact_column_sum(T, H - 1, x.narrow, H, quantum, sum_a, NULL);
  wide->exact_column_sum(T, H - 1, x.wide, H, quantum, sum_b, NULL);
  check_same(sum_a, sum_b, H * 8, "exact_column_sum");
  quantum[H - 1] = quantum[0];
  int32_t *ids = random_ids(T, 2, 3);
  narrow->exact_scatter_add(T, H, ids, x.narrow, quantum, sum_a, NULL);
  wide->exact_scatter_add(T, H, ids, x.wide, quantum, sum_b, NULL);
  check_same(sum_a, sum_b, 2 * H * 8, "exact_scatter_add");
}

int main(void)
{
  FOR_BOTH(test_quantise);
  FOR_BOTH(test_product);
  FOR_BOTH(test_column_sum);
  FOR_BOTH(test_square_sum);
  FOR_BOTH(test_not_finite);
  FOR_BOTH(test_zero);
  FOR_BF16(test_bf16);
  return check_done();
}
