/* SPDX-License-Identifier: Apache-2.0 */
/* Router: scores of the experts, and those with the largest. */
#include "row.h"

/* What experts are chosen by. */
static real key_of(const real *scores, const double *bias, int32_t i)
{
  return bias ? scores[i] + (real)bias[i] : scores[i];
}

/* The k largest keys; of equal ones the first. Each search takes what comes after the last
 * find in that order. Of NaNs it finds none and takes id c as the c-th. */
static void select_top(int64_t e, int64_t k, const double *bias, const real *scores, int32_t *ids,
                       real *weights)
{
  real last = __builtin_inf();
  int32_t last_id = -1;
  for (int32_t c = 0; c < k; c++) {
    int32_t best = -1;
    real best_key = 0;
    for (int32_t i = 0; i < e; i++) {
      real key = key_of(scores, bias, i);
      int open = key < last || (key == last && i > last_id);
      if (open && (best < 0 || key > best_key)) {
        best = i;
        best_key = key;
      }
    }
    ids[c] = best < 0 ? c : best;
    weights[c] = scores[ids[c]];
    last = key_of(scores, bias, ids[c]);
    last_id = ids[c];
  }
}

/* Of one token, like sigmoid_scores: 0 if its logits are not fit for use. */
static int softmax_scores(int64_t e, const real *logits, real *scores)
{
  real max = row_max(e, logits);
  for (int64_t i = 0; i < e; i++)
    scores[i] = real_exp(logits[i] - max);
  real sum = row_sum(e, scores);
  int fit = sum >= 1; /* the largest gives 1; a NaN anywhere, or no finite maximum, gives NaN */
  for (int64_t i = 0; i < e; i++)
    scores[i] = fit ? scores[i] / sum : (real)__builtin_nan("");
  return fit;
}

static int sigmoid_scores(int64_t e, const real *logits, real *scores)
{
  int fit = 1;
  for (int64_t i = 0; i < e; i++) {
    scores[i] = 1 / (1 + real_exp(-logits[i]));
    fit &= magnitude(logits[i]) <= REAL_MAX;
  }
  for (int64_t i = 0; !fit && i < e; i++)
    scores[i] = (real)__builtin_nan("");
  return fit;
}

static void renormalise_weights(int64_t k, real *weights)
{
  real selected = row_sum(k, weights);
  for (int64_t c = 0; selected != 0 && c < k; c++)
    weights[c] /= selected;
}

int NAME(router)(int64_t t, int64_t e, int64_t k, int sigmoid, int renormalise, const double *bias,
                 const void *logits_, void *scores_, int32_t *ids, void *weights_, int64_t *bad,
                 STREAM)
{
  *bad = -1;
  for (int64_t i = 0; i < t; i++) {
    const real *logits = (const real *)logits_ + i * e;
    real *scores = (real *)scores_ + i * e, *weights = (real *)weights_ + i * k;
    int fit = (sigmoid ? sigmoid_scores : softmax_scores)(e, logits, scores);
    if (!fit && *bad < 0)
      *bad = i;
    select_top(e, k, bias, scores, ids + i * k, weights);
    if (renormalise)
      renormalise_weights(k, weights);
  }
  return NEAPI_KERNEL_OK;
}

int NAME(router_shares)(int64_t t, int64_t e, const void *scores_, void *shares_, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *scores = (const real *)scores_ + i * e;
    real *shares = (real *)shares_ + i * e, sum = row_sum(e, scores);
    for (int64_t j = 0; j < e; j++)
      shares[j] = sum > 0 ? scores[j] / sum : 0;
  }
  return NEAPI_KERNEL_OK;
}

int NAME(balanced_choices)(int64_t t, int64_t e, int64_t k, int renormalise, int64_t first,
                           const void *scores_, int32_t *ids, void *weights_, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *scores = (const real *)scores_ + i * e;
    real *weights = (real *)weights_ + i * k;
    for (int64_t c = 0; c < k; c++) {
      ids[i * k + c] = (int32_t)((first + i * k + c) % e);
      weights[c] = scores[ids[i * k + c]];
    }
    real selected = row_sum(k, weights);
    for (int64_t c = 0; renormalise && selected > 0 && c < k; c++)
      weights[c] /= selected;
  }
  return NEAPI_KERNEL_OK;
}

/* Adds to s ds of a token's experts what comes from the weights: of w = s / a, a the sum of the
 * selected s, s ds = w dw - w (sum of w dw); else s ds = w dw. Returns the sum of what it added. */
static real add_selected(int64_t k, int renormalise, const int32_t *ids, const real *weights,
                         const int32_t *position, const real *dlog, real *s_ds)
{
  real all = 0, added = 0;
  for (int64_t c = 0; renormalise && c < k; c++)
    all += dlog[position[c]];
  for (int64_t c = 0; c < k; c++) {
    real own = dlog[position[c]] - weights[c] * all;
    s_ds[ids[c]] += own;
    added += own;
  }
  return added;
}

/* s ds of one token from the shares' gradient, for scores that do not add up to 1: with h = s / sum
 * of s, s ds = h (dh - sum of h dh). */
static void from_shares(int64_t e, const real *scores, const real *dshares, real *s_ds)
{
  real sum = row_sum(e, scores), along = row_dot(e, scores, dshares);
  for (int64_t j = 0; j < e; j++)
    s_ds[j] = sum > 0 ? scores[j] / sum * (dshares[j] - along / sum) : 0;
}

int NAME(router_backward)(int64_t t, int64_t e, int64_t k, int sigmoid, int renormalise,
                          const void *scores_, const int32_t *ids, const void *weights,
                          const int32_t *position, const void *dlog, const void *dshares_,
                          void *dlogits, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *scores = (const real *)scores_ + i * e;
    const real *dshares = dshares_ ? (const real *)dshares_ + i * e : NULL;
    real *to = (real *)dlogits + i * e; /* at first s ds */
    if (sigmoid && dshares)
      from_shares(e, scores, dshares, to);
    else
      for (int64_t j = 0; j < e; j++)
        to[j] = dshares ? scores[j] * dshares[j] : 0;
    real sum = row_sum(e, to);
    sum += add_selected(k, renormalise, ids + i * k, (const real *)weights + i * k,
                        position + i * k, dlog, to);
    for (int64_t j = 0; j < e; j++)
      to[j] = sigmoid ? to[j] * (1 - scores[j]) : to[j] - scores[j] * sum;
  }
  return NEAPI_KERNEL_OK;
}
