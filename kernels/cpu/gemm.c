/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix product from packed panels and one micro-kernel (the scheme of Goto and van de Geijn 2008
 * and of BLIS, Van Zee and van de Geijn 2015), made so that an element of c is the same to the bit
 * wherever it stands: K is cut at multiples of KC whatever the other sizes are; within a cut the
 * micro-kernel adds the products one by one in the order of k; tiles at the edges are computed by
 * the same micro-kernel on panels that are filled up with zeros. */
#include "real.h"

#if defined(__AVX512F__) || (defined(__AVX2__) && defined(__FMA__))
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64, MR = 12 };
#elif defined(__AVX2__) && defined(__FMA__)
enum { VECTOR_BYTES = 32, MR = 6 };
#else
enum { VECTOR_BYTES = 16, MR = 4 };
#endif
enum { LANES = VECTOR_BYTES / sizeof(real), NV = 2, NR = NV * LANES }; /* a tile is (MR, NR) */
enum { KC = 256, MC = 24 * MR, NC = 2048 };

/* A vector that may lie anywhere in an array of reals. */
typedef real vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

/* a * b + c: fused where the machine can, in two roundings else; the same in every tile. */
static inline __attribute__((always_inline)) vector multiply_add(vector a, vector b, vector c)
{
#if defined(__AVX512F__) && defined(NEAP_REAL_f64)
  return (vector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX512F__)
  return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__) && defined(NEAP_REAL_f64)
  return (vector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

/* c = panel_a panel_b over kc, or added to c. a: (kc, MR) packed; b: (kc, NR), row p at b + p ldb;
 * c: (MR, NR). */
static void multiply_tile(int64_t kc, const real *a, const real *b, int64_t ldb, real *c,
                          int64_t ldc, int accumulate)
{
  vector tile[MR][NV] = {0};
  for (int i = 0; i < MR; i++)
    __builtin_prefetch(c + i * ldc, 1);
  for (int64_t p = 0; p < kc; p++, a += MR, b += ldb) {
    vector row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++)
      row[v] = *(const vector *)(b + v * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
      vector left = a[i] - (vector){0};
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++)
        tile[i][v] = multiply_add(left, row[v], tile[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++)
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++) {
      vector *to = (vector *)(c + i * ldc + v * LANES);
      if (accumulate)
        tile[i][v] = *to + tile[i][v];
      *to = tile[i][v];
    }
}

/* A tile of fewer than MR rows or NR columns, by way of a full one. */
static void multiply_edge(int64_t mr, int64_t nr, int64_t kc, const real *a, const real *b, real *c,
                          int64_t ldc, int accumulate)
{
  real full[MR * NR];
  multiply_tile(kc, a, b, NR, full, NR, 0);
  for (int64_t i = 0; i < mr; i++)
    for (int64_t j = 0; j < nr; j++)
      c[i * ldc + j] = accumulate ? c[i * ldc + j] + full[i * NR + j] : full[i * NR + j];
}

/* The packers below are inlined, so that width is a constant. */
#define INLINE static inline __attribute__((always_inline))

/* Transposes a (LANES, LANES) square: log2(LANES) times, row i and row i + LANES / 2 are
 * interleaved into rows 2i and 2i + 1. */
INLINE void transpose(vector *square)
{
  typedef real_bits mask __attribute__((vector_size(VECTOR_BYTES)));
  mask low, high;
#pragma GCC unroll 16
  for (int l = 0; l < LANES; l++) {
    low[l] = l / 2 + l % 2 * LANES;
    high[l] = low[l] + LANES / 2;
  }
#pragma GCC unroll 4
  for (int step = 1; step < LANES; step *= 2) {
    vector next[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES / 2; i++) {
      next[2 * i] = __builtin_shuffle(square[i], square[i + LANES / 2], low);
      next[2 * i + 1] = __builtin_shuffle(square[i], square[i + LANES / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
      square[i] = next[i];
  }
}

/* LANES rows of x into columns of a panel: packed[p * width + i] = x[i * ldx + p]. */
INLINE void pack_square(int64_t width, int64_t kc, const real *x, int64_t ldx, real *packed)
{
  int64_t p = 0;
  for (; p + LANES <= kc; p += LANES) {
    vector square[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
      square[i] = *(const vector *)(x + i * ldx + p);
    transpose(square);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++)
      *(vector *)(packed + (p + i) * width) = square[i];
  }
  for (; p < kc; p++)
    for (int64_t i = 0; i < LANES; i++)
      packed[p * width + i] = x[i * ldx + p];
}

/* packed[p * width + i] = x[i * ldx + p] for i < rows; 0 for rows <= i < width. */
INLINE void pack_rows(int64_t rows, int64_t width, int64_t kc, const real *x, int64_t ldx,
                      real *packed)
{
  int64_t i = 0;
  for (; i + LANES <= rows; i += LANES)
    pack_square(width, kc, x + i * ldx, ldx, packed + i);
  for (; i < rows; i++)
    for (int64_t p = 0; p < kc; p++)
      packed[p * width + i] = x[i * ldx + p];
  for (; i < width; i++)
    for (int64_t p = 0; p < kc; p++)
      packed[p * width + i] = 0;
}

/* packed[p * width + i] = x[p * ldx + i] for i < columns; 0 for columns <= i < width. */
INLINE void pack_columns(int64_t columns, int64_t width, int64_t kc, const real *x, int64_t ldx,
                         real *packed)
{
  for (int64_t p = 0; p < kc; p++, x += ldx, packed += width)
    if (columns == width)
      memcpy(packed, x, (size_t)width * sizeof(real));
    else
      for (int64_t i = 0; i < width; i++)
        packed[i] = i < columns ? x[i] : 0;
}

/* A block (size, kc) as panels of width; by_rows if k runs along the rows of its storage. */
INLINE void pack(int64_t size, int64_t width, int64_t kc, const real *x, int64_t ldx, int by_rows,
                 real *packed)
{
  for (int64_t i = 0; i < size; i += width, packed += width * kc) {
    int64_t count = size - i < width ? size - i : width;
    if (by_rows)
      pack_rows(count, width, kc, x + i * ldx, ldx, packed);
    else
      pack_columns(count, width, kc, x + i, ldx, packed);
  }
}

/* c (mc, nc) from packed blocks. */
static void multiply_block(int64_t mc, int64_t nc, int64_t kc, const real *a, const real *b,
                           real *c, int64_t ldc, int accumulate)
{
  for (int64_t j = 0; j < nc; j += NR)
    for (int64_t i = 0; i < mc; i += MR) {
      int64_t mr = mc - i, nr = nc - j;
      if (mr >= MR && nr >= NR)
        multiply_tile(kc, a + i * kc, b + j * kc, NR, c + i * ldc + j, ldc, accumulate);
      else
        multiply_edge(mr < MR ? mr : MR, nr < NR ? nr : NR, kc, a + i * kc, b + j * kc,
                      c + i * ldc + j, ldc, accumulate);
    }
}

static int64_t least(int64_t a, int64_t b)
{
  return a < b ? a : b;
}

/* Size in reals of a packed block. */
static int64_t packed_size(int64_t size, int64_t width, int64_t kc)
{
  return (size + width - 1) / width * width * kc;
}

static int clear(int64_t m, int64_t n, real *c, int64_t ldc)
{
  for (int64_t i = 0; i < m; i++)
    memset(c + i * ldc, 0, (size_t)n * sizeof(real));
  return NEAPI_KERNEL_OK;
}

int NAME(gemm)(int64_t m, int64_t n, int64_t k, const void *a_, int64_t lda, int trans_a,
               const void *b_, int64_t ldb, int trans_b, void *c_, int64_t ldc, int accumulate,
               STREAM)
{
  const real *a = a_, *b = b_;
  real *c = c_;
  if (m <= 0 || n <= 0)
    return NEAPI_KERNEL_OK;
  if (k <= 0)
    return accumulate ? NEAPI_KERNEL_OK : clear(m, n, c, ldc);
  int64_t bytes = least(k, KC) * (int64_t)sizeof(real);
  real *packed_a = NAME(scratch)(SCRATCH_GEMM_A, packed_size(least(m, MC), MR, bytes));
  real *packed_b = NAME(scratch)(SCRATCH_GEMM_B, packed_size(least(n, NC), NR, bytes));
  if (!packed_a || !packed_b)
    return NEAPI_KERNEL_MEMORY;
  for (int64_t j = 0; j < n; j += NC)
    for (int64_t p = 0; p < k; p += KC) {
      int64_t nc = least(n - j, NC), kc = least(k - p, KC);
      pack(nc, NR, kc, trans_b ? b + j * ldb + p : b + p * ldb + j, ldb, trans_b, packed_b);
      for (int64_t i = 0; i < m; i += MC) {
        int64_t mc = least(m - i, MC);
        pack(mc, MR, kc, trans_a ? a + p * lda + i : a + i * lda + p, lda, !trans_a, packed_a);
        multiply_block(mc, nc, kc, packed_a, packed_b, c + i * ldc + j, ldc, accumulate || p);
      }
    }
  return NEAPI_KERNEL_OK;
}

int NAME(gemm_acc)(int64_t m, int64_t n, int64_t k, const void *a, int64_t lda, int trans_a,
                   const void *b, int64_t ldb, int trans_b, void *c, int64_t ldc, int accumulate,
                   STREAM)
{
  return NAME(gemm)(m, n, k, a, lda, trans_a, b, ldb, trans_b, c, ldc, accumulate, NULL);
}
