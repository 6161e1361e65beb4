/* Router: softmax and the most probable experts. */
#include "row.h"

/* The k largest of probs; of equal ones the first. Each search takes what comes after the last
 * find in that order. Of NaNs it finds none and takes id c as the c-th. */
static void select_top(int64_t e, int64_t k, const real *probs, int32_t *ids, real *weights)
{
  real last = __builtin_inf();
  int32_t last_id = -1;
  for (int32_t c = 0; c < k; c++) {
    int32_t best = -1;
    for (int32_t i = 0; i < e; i++) {
      int open = probs[i] < last || (probs[i] == last && i > last_id);
      if (open && (best < 0 || probs[i] > probs[best]))
        best = i;
    }
    ids[c] = best < 0 ? c : best;
    weights[c] = last = probs[ids[c]];
    last_id = ids[c];
  }
}

/* One token; 0 if its logits are not fit for use. */
static int route(int64_t e, int64_t k, int renormalise, const real *logits, real *probs,
                 int32_t *ids, real *weights)
{
  real max = row_max(e, logits);
  for (int64_t i = 0; i < e; i++)
    probs[i] = real_exp(logits[i] - max);
  real sum = row_sum(e, probs);
  int fit = sum >= 1; /* the largest gives 1; a NaN anywhere, or no finite maximum, gives NaN */
  for (int64_t i = 0; i < e; i++)
    probs[i] = fit ? probs[i] / sum : (real)__builtin_nan("");
  select_top(e, k, probs, ids, weights);
  real selected = row_sum(k, weights);
  for (int64_t c = 0; renormalise && c < k; c++)
    weights[c] /= selected;
  return fit;
}

int NAME(router)(int64_t t, int64_t e, int64_t k, int renormalise, const void *logits, void *probs,
                 int32_t *ids, void *weights, int64_t *bad, STREAM)
{
  *bad = -1;
  for (int64_t i = 0; i < t; i++)
    if (!route(e, k, renormalise, (const real *)logits + i * e, (real *)probs + i * e, ids + i * k,
               (real *)weights + i * k) &&
        *bad < 0)
      *bad = i;
  return NEAPI_KERNEL_OK;
}

int NAME(balanced_choices)(int64_t t, int64_t e, int64_t k, int renormalise, int64_t first,
                           const void *probs_, int32_t *ids, void *weights_, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *probs = (const real *)probs_ + i * e;
    real *weights = (real *)weights_ + i * k;
    for (int64_t c = 0; c < k; c++) {
      ids[i * k + c] = (int32_t)((first + i * k + c) % e);
      weights[c] = probs[ids[i * k + c]];
    }
    real selected = row_sum(k, weights);
    for (int64_t c = 0; renormalise && selected > 0 && c < k; c++)
      weights[c] /= selected;
  }
  return NEAPI_KERNEL_OK;
}

/* Adds to p dp of a token's experts what comes from the weights: of w = p / s, s the sum of the
 * selected p, p dp = w dw - w (sum of w dw); else p dp = w dw. Returns the sum of what it added. */
static real add_selected(int64_t k, int renormalise, const int32_t *ids, const real *weights,
                         const int32_t *position, const real *dlog, real *p_dp)
{
  real all = 0, added = 0;
  for (int64_t c = 0; renormalise && c < k; c++)
    all += dlog[position[c]];
  for (int64_t c = 0; c < k; c++) {
    real own = dlog[position[c]] - weights[c] * all;
    p_dp[ids[c]] += own;
    added += own;
  }
  return added;
}

int NAME(router_backward)(int64_t t, int64_t e, int64_t k, int renormalise, const void *probs_,
                          const int32_t *ids, const void *weights, const int32_t *position,
                          const void *dlog, const void *dprobs, void *dlogits, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *probs = (const real *)probs_ + i * e;
    const real *others = dprobs ? (const real *)dprobs + i * e : NULL;
    real *to = (real *)dlogits + i * e; /* at first p dp */
    for (int64_t j = 0; j < e; j++)
      to[j] = others ? probs[j] * others[j] : 0;
    real sum = row_sum(e, to);
    sum += add_selected(k, renormalise, ids + i * k, (const real *)weights + i * k,
                        position + i * k, dlog, to);
    for (int64_t j = 0; j < e; j++)
      to[j] -= probs[j] * sum;
  }
  return NEAPI_KERNEL_OK;
}
