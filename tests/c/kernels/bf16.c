/* The CPU's bf16 table: rounding against the definition, every operation against f64's of the same
 * numbers within bf16's rounding, and rows alone against rows among others to the bit. */
#include "kernel_test.h"

enum { T = 13, H = 37, K = 3 };

static kernels *narrow, *wide; /* bf16, f64 */

/* The same numbers in both types. */
typedef struct {
  void *narrow;
  double *wide;
} twin;

static twin twin_output(int64_t n)
{
  return (twin){reals(narrow, n), reals(wide, n)};
}

static twin twin_normals(int64_t n, uint64_t seed)
{
  twin t = twin_output(n);
  double *drawn = normals(wide, n, seed);
  narrow->from_double(n, drawn, t.narrow, NULL);
  narrow->to_double(n, t.narrow, t.wide, NULL);
  return t;
}

/* Stats: float beside bf16. */
static twin stat_output(int64_t n)
{
  return (twin){reals(neapi_kernels_f32(), n), reals(wide, n)};
}

static twin stat_normals(int64_t n, uint64_t seed)
{
  return (twin){normals(neapi_kernels_f32(), n, seed), normals(wide, n, seed)};
}

static void check_real(twin t, int64_t n, const char *what)
{
  double *got = reals(wide, n);
  narrow->to_double(n, t.narrow, got, NULL);
  check_near(wide, got, wide, t.wide, n, 0x1p-8, what);
}

static void check_stat(twin t, int64_t n, const char *what)
{
  check_near(neapi_kernels_f32(), t.narrow, wide, t.wide, n, 1e-5, what);
}

/* ---- rounding ------------------------------------------------------------------------------ */

/* Nearest multiple of the spacing of 8 significant bits, of two the even one. */
static double nearest(double x)
{
  int exponent;
  double part = frexp(x, &exponent);
  return ldexp(rint(ldexp(part, 8)), exponent - 8);
}

static void check_rounded(double x)
{
  uint16_t bits, from_float;
  double back;
  float as_float = (float)x;
  narrow->from_double(1, &x, &bits, NULL);
  narrow->to_double(1, &bits, &back, NULL);
  check(back == nearest(x), "%a becomes %a; expected %a", x, back, nearest(x));
  narrow->from_stat(1, &as_float, &from_float, NULL);
  narrow->to_double(1, &from_float, &back, NULL);
  check(back == nearest((double)as_float), "%a becomes %a", (double)as_float, back);
}

static void test_rounding(void)
{
  for (uint64_t i = 0; i < 20000; i++) {
    double x = neap_random_normal(1, 1, i) * ldexp(1, (int)pick(2, i, -60, 60));
    check_rounded(x);
    double half = nearest(x) + ldexp(1, ilogb(nearest(x)) - 8); /* between two of them */
    check_rounded(half);
    check_rounded(nextafter(half, 1e300));
    check_rounded(nextafter(half, -1e300));
  }
  const float special[] = {0, -0.0f, INFINITY, -INFINITY, 3.4e38f};
  const uint16_t expected[] = {0, 0x8000, 0x7f80, 0xff80, 0x7f80};
  for (int i = 0; i < 5; i++) {
    uint16_t bits;
    narrow->from_stat(1, &special[i], &bits, NULL);
    check(bits == expected[i], "%g becomes %x", (double)special[i], bits);
  }
  for (uint64_t i = 0; i < 1000; i++) { /* a NaN stays one, whatever its bits */
    uint32_t bits = 0x7f800001 + (uint32_t)pick(3, i, 0, 0x7ffffe) + (i % 2 << 31);
    float nan, back;
    memcpy(&nan, &bits, 4);
    uint16_t rounded;
    narrow->from_stat(1, &nan, &rounded, NULL);
    narrow->to_stat(1, &rounded, &back, NULL);
    check(isnan(back), "a NaN becomes %g", (double)back);
  }
}

/* ---- products ------------------------------------------------------------------------------ */

static void test_products(void)
{
  for (uint64_t s = 0; s < 60; s++) {
    int64_t m = pick(1, s, 0, 40), n = pick(2, s, 1, 40), k = pick(3, s, 1, 300);
    int ta = (int)pick(4, s, 0, 1), tb = (int)pick(5, s, 0, 1), add = (int)pick(6, s, 0, 1);
    int64_t lda = (ta ? m : k) + pick(7, s, 0, 3), ldb = (tb ? k : n) + pick(8, s, 0, 3);
    int64_t ldc = n + pick(9, s, 0, 3);
    twin a = twin_normals((ta ? k : m) * lda, s), b = twin_normals((tb ? n : k) * ldb, s + 100);
    twin c = twin_normals(m * ldc, s + 200), stat = stat_normals(m * ldc, s + 300);
    narrow->gemm(m, n, k, a.narrow, lda, ta, b.narrow, ldb, tb, c.narrow, ldc, add, NULL);
    wide->gemm(m, n, k, a.wide, lda, ta, b.wide, ldb, tb, c.wide, ldc, add, NULL);
    check_real(c, m * ldc, "gemm");
    narrow->gemm_stat(m, n, k, a.narrow, lda, ta, b.narrow, ldb, tb, stat.narrow, ldc, add, NULL);
    wide->gemm_stat(m, n, k, a.wide, lda, ta, b.wide, ldb, tb, stat.wide, ldc, add, NULL);
    check_stat(stat, m * ldc, "gemm_stat");
    twin dw = add ? stat_normals(k * n, s) : stat_output(k * n);
    twin x = twin_normals(m * k, s + 400), dy = twin_normals(m * n, s + 500);
    narrow->gemm_tn(m, k, n, x.narrow, k, dy.narrow, n, dw.narrow, n, add, NULL);
    wide->gemm_tn(m, k, n, x.wide, k, dy.wide, n, dw.wide, n, add, NULL);
    check_stat(dw, k * n, "gemm_tn");
  }
  release_all();
}

static void test_attention(void)
{
  enum { S = 9, HEADS = 4, KV = 2, D = 6, ROWS = 2 * S, LD = (HEADS + 2 * KV) * D };
  twin qkv = twin_normals(ROWS * LD, 1), out = twin_output(ROWS * HEADS * D);
  twin lse = stat_output(ROWS * HEADS), dout = twin_normals(ROWS * HEADS * D, 2);
  twin dqkv = twin_output(ROWS * LD);
  narrow->attention(2, S, HEADS, KV, D, qkv.narrow, out.narrow, lse.narrow, NULL);
  wide->attention(2, S, HEADS, KV, D, qkv.wide, out.wide, lse.wide, NULL);
  check_real(out, ROWS * HEADS * D, "attention");
  check_stat(lse, ROWS * HEADS, "lse");
  narrow->attention_backward(2, S, HEADS, KV, D, qkv.narrow, out.narrow, lse.narrow, dout.narrow,
                             dqkv.narrow, NULL);
  wide->attention_backward(2, S, HEADS, KV, D, qkv.wide, out.wide, lse.wide, dout.wide, dqkv.wide,
                           NULL);
  check_real(dqkv, ROWS * LD, "attention_backward");
}

/* ---- rows ---------------------------------------------------------------------------------- */

static void test_norm(void)
{
  twin x = twin_normals(T * H, 1), gain = twin_normals(H, 2), dy = twin_normals(T * H, 3);
  twin y = twin_output(T * H), rstd = stat_output(T), dx = twin_output(T * H);
  twin dgain = stat_normals(H, 4), terms = stat_output(T * H);
  narrow->rmsnorm(T, H, x.narrow, gain.narrow, 1e-5, y.narrow, rstd.narrow, NULL);
  wide->rmsnorm(T, H, x.wide, gain.wide, 1e-5, y.wide, rstd.wide, NULL);
  check_real(y, T * H, "rmsnorm");
  check_stat(rstd, T, "rstd");
  narrow->rmsnorm_backward(T, H, x.narrow, gain.narrow, rstd.narrow, dy.narrow, dx.narrow,
                           dgain.narrow, NULL);
  wide->rmsnorm_backward(T, H, x.wide, gain.wide, rstd.wide, dy.wide, dx.wide, dgain.wide, NULL);
  check_real(dx, T * H, "rmsnorm dx");
  check_stat(dgain, H, "rmsnorm dgain");
  narrow->rmsnorm_gain_terms(T, H, x.narrow, rstd.narrow, dy.narrow, terms.narrow, NULL);
  wide->rmsnorm_gain_terms(T, H, x.wide, rstd.wide, dy.wide, terms.wide, NULL);
  check_stat(terms, T * H, "gain terms");
  for (int64_t t = 0; t < T; t++) {
    void *one = reals(narrow, H), *scale = poisoned(4);
    narrow->rmsnorm(1, H, at(narrow, x.narrow, t * H), gain.narrow, 1e-5, one, scale, NULL);
    check_same(one, at(narrow, y.narrow, t * H), H * 2, "rmsnorm: row %d alone", (int)t);
  }
}

static void test_rotary(void)
{
  enum { S = 5, HEADS = 3, D = 10, LD = 34 };
  twin table = stat_output(S * D), x = twin_normals(T * LD, 1);
  for (int inverse = 0; inverse < 2; inverse++) {
    narrow->rotary_table(S, D, 100, table.narrow, NULL);
    wide->rotary_table(S, D, 100, table.wide, NULL);
    narrow->rotary(T, S, HEADS, D, inverse, table.narrow, x.narrow, LD, NULL);
    wide->rotary(T, S, HEADS, D, inverse, table.wide, x.wide, LD, NULL);
    check_real(x, T * LD, "rotary");
    narrow->to_double(T * LD, x.narrow, x.wide, NULL);
  }
}

static void test_rows(void)
{
  twin x = twin_normals(T * K * H, 1), y = twin_output(T * H), dy = twin_normals(T * H, 2);
  twin weights = stat_normals(T * K, 3), dx = twin_output(T * K * H), dweights = stat_output(T * K);
  twin moved = twin_output(T * K * H), sum = stat_normals(7 * H, 4);
  int32_t *position = random_order(T * K, 5), *ids = random_ids(T, 7, 6);
  for (int weighted = 0; weighted < 2; weighted++) {
    narrow->combine(T, K, H, weighted ? weights.narrow : NULL, position, x.narrow, y.narrow, NULL);
    wide->combine(T, K, H, weighted ? weights.wide : NULL, position, x.wide, y.wide, NULL);
    check_real(y, T * H, "combine");
  }
  narrow->combine_backward(T, K, H, weights.narrow, position, x.narrow, dy.narrow, dx.narrow,
                           dweights.narrow, NULL);
  wide->combine_backward(T, K, H, weights.wide, position, x.wide, dy.wide, dx.wide, dweights.wide,
                         NULL);
  check_real(dx, T * K * H, "combine_backward dx");
  check_stat(dweights, T * K, "combine_backward dweights");
  narrow->gather(T * K, H, position, x.narrow, moved.narrow, NULL);
  for (int64_t i = 0; i < T * K; i++)
    check_same(at(narrow, moved.narrow, i * H), at(narrow, x.narrow, position[i] * H), H * 2,
               "gather: row %d", (int)i);
  void *dealt = reals(narrow, T * K * H);
  narrow->scatter(T, K, H, position, dy.narrow, dealt, NULL);
  for (int64_t i = 0; i < T * K; i++)
    check_same(at(narrow, dealt, position[i] * H), at(narrow, dy.narrow, i / K * H), H * 2,
               "scatter: choice %d", (int)i);
  narrow->scatter_add(T, H, ids, dy.narrow, sum.narrow, NULL);
  wide->scatter_add(T, H, ids, dy.wide, sum.wide, NULL);
  check_stat(sum, 7 * H, "scatter_add");
}

/* ---- elementwise, loss, router ------------------------------------------------------------- */

static void test_elementwise(void)
{
  int64_t n = T * H;
  twin a = twin_normals(n, 1), b = twin_normals(n, 2), c = twin_normals(n, 3), out = twin_output(n);
  narrow->add(n, a.narrow, b.narrow, out.narrow, NULL);
  wide->add(n, a.wide, b.wide, out.wide, NULL);
  check_real(out, n, "add");
  narrow->scale(n, -0.7, a.narrow, out.narrow, NULL);
  wide->scale(n, -0.7, a.wide, out.wide, NULL);
  check_real(out, n, "scale");
  const void *parts[] = {a.narrow, b.narrow, c.narrow}, *same[] = {a.wide, b.wide, c.wide};
  narrow->sum(n, 3, parts, out.narrow, NULL);
  wide->sum(n, 3, same, out.wide, NULL);
  check_real(out, n, "sum");
  narrow->axpy(n, 0.3, a.narrow, b.narrow, NULL);
  wide->axpy(n, 0.3, a.wide, b.wide, NULL);
  check_real(b, n, "axpy");
  narrow->fill(n, 0.1, out.narrow, NULL);
  wide->fill(n, nearest(0.1), out.wide, NULL);
  check_real(out, n, "fill");
  twin gu = twin_normals(2 * n, 4), dh = twin_normals(n, 5);
  narrow->swiglu(T, H, gu.narrow, out.narrow, NULL);
  wide->swiglu(T, H, gu.wide, out.wide, NULL);
  check_real(out, n, "swiglu");
  narrow->swiglu_backward(T, H, gu.narrow, dh.narrow, gu.narrow, NULL); /* in place */
  wide->swiglu_backward(T, H, gu.wide, dh.wide, gu.wide, NULL);
  check_real(gu, 2 * n, "swiglu_backward");
}

static void test_choices(void)
{
  enum { E = 11 };
  twin logits = stat_normals(T * E, 1), slopes = twin_output(T * E), loss = stat_output(T);
  int32_t *target = random_ids(T, E, 2), *ids = poisoned(T * K * 4), *same = poisoned(T * K * 4);
  target[3] = -1;
  narrow->cross_entropy(T, E, 0.5, logits.narrow, target, loss.narrow, slopes.narrow, NULL);
  wide->cross_entropy(T, E, 0.5, logits.wide, target, loss.wide, slopes.wide, NULL);
  check_stat(loss, T, "cross_entropy");
  check_real(slopes, T * E, "cross_entropy slopes");
  narrow->cross_entropy(T, E, 0.5, logits.narrow, target, loss.narrow, NULL, NULL);
  check_stat(loss, T, "cross_entropy without slopes");
  twin probs = stat_output(T * E), weights = stat_output(T * K);
  twin dweights = stat_normals(T * K, 3), dprobs = stat_normals(T * E, 4);
  int64_t bad;
  narrow->router(T, E, K, 1, logits.narrow, probs.narrow, ids, weights.narrow, &bad, NULL);
  wide->router(T, E, K, 1, logits.wide, probs.wide, same, weights.wide, &bad, NULL);
  check_stat(probs, T * E, "router probs");
  check_same(ids, same, T * K * 4, "router ids");
  narrow->router_backward(T, E, K, 1, probs.narrow, ids, weights.narrow, dweights.narrow,
                          dprobs.narrow, slopes.narrow, NULL);
  wide->router_backward(T, E, K, 1, probs.wide, same, weights.wide, dweights.wide, dprobs.wide,
                        slopes.wide, NULL);
  check_real(slopes, T * E, "router_backward");
}

/* ---- sums: of numbers that both types hold, so that results are equal ------------------------ */

static void test_sums(void)
{
  int64_t n = T * H;
  twin x = twin_normals(n, 1);
  double a, b, max_a[H], max_b[H], grid[H], sum_a[2 * H] = {0}, sum_b[2 * H] = {0};
  narrow->square_sum(n, x.narrow, &a, NULL);
  wide->square_sum(n, x.wide, &b, NULL);
  check(a == b, "square_sum is %.17g; expected %.17g", a, b);
  narrow->max_abs(n, x.narrow, &a, NULL);
  wide->max_abs(n, x.wide, &b, NULL);
  check(a == b, "max_abs is %g; expected %g", a, b);
  narrow->exact_square_sum(n, x.narrow, a, n, sum_a, NULL);
  wide->exact_square_sum(n, x.wide, b, n, sum_b, NULL);
  check_same(sum_a, sum_b, 16, "exact_square_sum");
  narrow->exact_column_max(T, H - 1, x.narrow, H, 0, max_a, NULL);
  wide->exact_column_max(T, H - 1, x.wide, H, 0, max_b, NULL);
  check_same(max_a, max_b, (H - 1) * 8, "exact_column_max");
  narrow->exact_grid(H - 1, 20, max_a, grid, NULL);
  double *q = reals(wide, n), *expected = reals(wide, n);
  narrow->exact_quantise(T, H - 1, x.narrow, H, grid, q, NULL);
  wide->exact_quantise(T, H - 1, x.wide, H, grid, expected, NULL);
  check_same(q, expected, T * (H - 1) * 8, "exact_quantise");
  narrow->exact_column_sum(T, H - 1, x.narrow, H, grid, sum_a, NULL);
  wide->exact_column_sum(T, H - 1, x.wide, H, grid, sum_b, NULL);
  check_same(sum_a, sum_b, H * 8, "exact_column_sum");
  grid[H - 1] = grid[0];
  int32_t *ids = random_ids(T, 2, 3);
  narrow->exact_scatter_add(T, H, ids, x.narrow, grid, sum_a, NULL);
  wide->exact_scatter_add(T, H, ids, x.wide, grid, sum_b, NULL);
  check_same(sum_a, sum_b, 2 * H * 8, "exact_scatter_add");
}

int main(void)
{
  narrow = neapi_kernels_bf16();
  wide = neapi_kernels_f64();
  test_rounding();
  test_products();
  test_attention();
  test_norm();
  test_rotary();
  test_rows();
  test_elementwise();
  test_choices();
  test_sums();
  release_all();
  return check_done();
}
