/* SPDX-License-Identifier: Apache-2.0 */
/* Causal attention, a block of queries of one head at a time: scores against all keys up to the
 * block's end, softmax over what is not in the future, product with the values. Backward recomputes
 * the probabilities from the saved log-sum-exp (after Dao et al. 2022). Probabilities in the future
 * are zeros that add nothing, so a row does not depend on what comes after it. */
#include "row.h"

#include <math.h>

enum { BLOCK = 64 }; /* queries at a time */

/* One head of one sequence: where its rows start, and their leading dimensions. */
typedef struct {
  int64_t s, d;
  const real *q, *k, *v;  /* (S, D), ld */
  real *dq, *dk, *dv;     /* (S, D), ld */
  const real *out, *dout; /* (S, D), ld_out */
  int64_t ld, ld_out;
  real scale;
} head;

/* scores (rows, columns) = q[first...] times the transpose of x, both (., D). */
static int against(const head *h, int64_t first, int64_t rows, const real *rows_of, int64_t ld_rows,
                   const real *x, real *scores, int64_t columns)
{
  return NAME(gemm)(rows, columns, h->d, rows_of + first * ld_rows, ld_rows, 0, x, h->ld, 1, scores,
                    columns, 0, NULL);
}

/* Softmax of scale * x[0..valid); 0 after it up to n. Returns the log-sum-exp. */
static real causal_softmax(int64_t valid, int64_t n, real scale, real *x)
{
  real max = row_max(valid, x) * scale;
  for (int64_t i = 0; i < valid; i++)
    x[i] = real_exp(x[i] * scale - max);
  real sum = row_sum(valid, x);
  for (int64_t i = 0; i < valid; i++)
    x[i] /= sum;
  memset(x + valid, 0, (size_t)(n - valid) * sizeof(real));
  return (real)((double)max + log((double)sum));
}

static int forward(const head *h, real *out, real *lse, int64_t ld_lse, real *scores)
{
  for (int64_t first = 0; first < h->s; first += BLOCK) {
    int64_t rows = h->s - first < BLOCK ? h->s - first : BLOCK, columns = first + rows;
    int status = against(h, first, rows, h->q, h->ld, h->k, scores, columns);
    if (status)
      return status;
    for (int64_t i = 0; i < rows; i++)
      lse[(first + i) * ld_lse] =
          causal_softmax(first + i + 1, columns, h->scale, scores + i * columns);
    status = NAME(gemm)(rows, h->d, columns, scores, columns, 0, h->v, h->ld, 0,
                        out + first * h->ld_out, h->ld_out, 0, NULL);
    if (status)
      return status;
  }
  return NEAPI_KERNEL_OK;
}

/* A query's scores become its probabilities p, and its dp the gradient of its scores:
 * p (dp - sum over columns of p dp) scale, where the sum is that of out dout. */
static void score_gradient(int64_t valid, int64_t n, real scale, real lse, real along, real *p,
                           real *dp)
{
  for (int64_t i = 0; i < valid; i++) {
    p[i] = real_exp(p[i] * scale - lse);
    dp[i] = p[i] * (dp[i] - along) * scale;
  }
  memset(p + valid, 0, (size_t)(n - valid) * sizeof(real));
  memset(dp + valid, 0, (size_t)(n - valid) * sizeof(real));
}

/* The products of a block: dq = ds k; dk += ds^T q; dv += p^T dout. */
static int block_gradients(const head *h, int64_t first, int64_t rows, int64_t columns,
                           const real *p, const real *ds)
{
  int64_t ld = h->ld, d = h->d;
  int status =
      NAME(gemm)(rows, d, columns, ds, columns, 0, h->k, ld, 0, h->dq + first * ld, ld, 0, NULL);
  if (!status)
    status =
        NAME(gemm)(columns, d, rows, ds, columns, 1, h->q + first * ld, ld, 0, h->dk, ld, 1, NULL);
  if (!status)
    status = NAME(gemm)(columns, d, rows, p, columns, 1, h->dout + first * h->ld_out, h->ld_out, 0,
                        h->dv, ld, 1, NULL);
  return status;
}

static int backward(const head *h, const real *lse, int64_t ld_lse, real *p, real *dp)
{
  for (int64_t first = 0; first < h->s; first += BLOCK) {
    int64_t rows = h->s - first < BLOCK ? h->s - first : BLOCK, columns = first + rows;
    int status = against(h, first, rows, h->q, h->ld, h->k, p, columns);
    if (!status)
      status = against(h, first, rows, h->dout, h->ld_out, h->v, dp, columns);
    if (status)
      return status;
    for (int64_t i = 0; i < rows; i++) {
      int64_t at = (first + i) * h->ld_out;
      score_gradient(first + i + 1, columns, h->scale, lse[(first + i) * ld_lse],
                     row_dot(h->d, h->out + at, h->dout + at), p + i * columns, dp + i * columns);
    }
    status = block_gradients(h, first, rows, columns, p, dp);
    if (status)
      return status;
  }
  return NEAPI_KERNEL_OK;
}

/* Head i of the sequence whose first token is at row `first`. */
static head locate(int64_t first, int64_t i, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                   const real *qkv)
{
  int64_t ld = (heads + 2 * kv_heads) * d;
  const real *q = qkv + first * ld;
  const real *k = q + (heads + i / (heads / kv_heads)) * d;
  return (head){.s = s,
                .d = d,
                .q = q + i * d,
                .k = k,
                .v = k + kv_heads * d,
                .ld = ld,
                .ld_out = heads * d,
                .scale = (real)(1 / sqrt((double)d))};
}

int NAME(attention)(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads, int64_t d,
                    const void *qkv, void *out, void *lse, STREAM)
{
  real *scores = NAME(scratch)(SCRATCH_ATTENTION, BLOCK * s * (int64_t)sizeof(real));
  if (!scores)
    return NEAPI_KERNEL_MEMORY;
  for (int64_t i = 0; i < sequences * heads; i++) {
    int64_t first = i / heads * s, at = i % heads;
    head h = locate(first, at, s, heads, kv_heads, d, qkv);
    int status = forward(&h, (real *)out + first * h.ld_out + at * d,
                         (real *)lse + first * heads + at, heads, scores);
    if (status)
      return status;
  }
  return NEAPI_KERNEL_OK;
}

int NAME(attention_backward)(int64_t sequences, int64_t s, int64_t heads, int64_t kv_heads,
                             int64_t d, const void *qkv, const void *out, const void *lse,
                             const void *dout, void *dqkv, STREAM)
{
  real *p = NAME(scratch)(SCRATCH_ATTENTION, 2 * BLOCK * s * (int64_t)sizeof(real));
  if (!p)
    return NEAPI_KERNEL_MEMORY;
  memset(dqkv, 0, (size_t)(sequences * s * (heads + 2 * kv_heads) * d) * sizeof(real));
  for (int64_t i = 0; i < sequences * heads; i++) {
    int64_t first = i / heads * s, at = i % heads;
    head h = locate(first, at, s, heads, kv_heads, d, qkv);
    h.dq = (real *)dqkv + (h.q - (const real *)qkv);
    h.dk = (real *)dqkv + (h.k - (const real *)qkv);
    h.dv = (real *)dqkv + (h.v - (const real *)qkv);
    h.out = (const real *)out + first * h.ld_out + at * d;
    h.dout = (const real *)dout + first * h.ld_out + at * d;
    int status = backward(&h, (const real *)lse + first * heads + at, heads, p, p + BLOCK * s);
    if (status)
      return status;
  }
  return NEAPI_KERNEL_OK;
}
