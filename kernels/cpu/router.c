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

/* Adds to dprobs what comes from the weights: of w = p / s, s the sum of the selected p,
 * dp = (dw - sum of dw w) / s; else dp = dw. */
static void add_selected(int64_t k, int renormalise, const real *probs, const int32_t *ids,
                         const real *weights, const real *dweights, real *dprobs)
{
  real sum = 1, along = 0;
  if (renormalise) {
    sum = 0;
    for (int64_t c = 0; c < k; c++)
      sum += probs[ids[c]];
    along = row_dot(k, dweights, weights);
  }
  for (int64_t c = 0; c < k; c++)
    dprobs[ids[c]] += (dweights[c] - along) / sum;
}

int NAME(router_backward)(int64_t t, int64_t e, int64_t k, int renormalise, const void *probs_,
                          const int32_t *ids, const void *weights, const void *dweights,
                          const void *dprobs, void *dlogits, STREAM)
{
  for (int64_t i = 0; i < t; i++) {
    const real *probs = (const real *)probs_ + i * e;
    real *to = (real *)dlogits + i * e; /* at first dprobs of both origins */
    for (int64_t j = 0; j < e; j++)
      to[j] = dprobs ? ((const real *)dprobs)[i * e + j] : 0;
    add_selected(k, renormalise, probs, ids + i * k, (const real *)weights + i * k,
                 (const real *)dweights + i * k, to);
    real along = row_dot(e, probs, to);
    for (int64_t j = 0; j < e; j++)
      to[j] = probs[j] * (to[j] - along);
  }
  return NEAPI_KERNEL_OK;
}
