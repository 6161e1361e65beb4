/* SPDX-License-Identifier: Apache-2.0 */
/* A dense Mixture-of-Experts layer on one rank, in double and in plain loops, from the definitions:
 * what the distributed layer is compared with. Shares no code with the engine. */
#ifndef NEAP_TEST_DENSE_H
#define NEAP_TEST_DENSE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DENSE_EXPERTS = 16 };

/* T tokens of H numbers, E experts of which K are chosen, F = ffn[e]. */
typedef struct {
  int64_t t, h, k, e;
  int renormalise, sigmoid;
  double aux, bias[DENSE_EXPERTS];
  int64_t ffn[DENSE_EXPERTS];
  double *x, *dy;           /* (T, H) */
  const double *sent;       /* (T, H) what experts get in x's place, with x's gradient; NULL: x */
  double *router;           /* (H, E) */
  double *w[DENSE_EXPERTS]; /* W1 (H, 2F), then W2 (F, H) */
} dense;

typedef struct {
  double *y, *dx;  /* (T, H) */
  double *drouter; /* (H, E) */
  double *dw[DENSE_EXPERTS];
  double aux_loss;
} dense_result;

static double *zeros(int64_t n)
{
  return calloc((size_t)(n > 0 ? n : 1), sizeof(double));
}

static void dense_result_open(const dense *d, dense_result *r)
{
  r->y = zeros(d->t * d->h);
  r->dx = zeros(d->t * d->h);
  r->drouter = zeros(d->h * d->e);
  for (int64_t e = 0; e < d->e; e++)
    r->dw[e] = zeros(3 * d->h * d->ffn[e]);
  r->aux_loss = 0;
}

static void dense_result_close(const dense *d, dense_result *r)
{
  free(r->y);
  free(r->dx);
  free(r->drouter);
  for (int64_t e = 0; e < d->e; e++)
    free(r->dw[e]);
}

/* Scores of one token, and its K choices in order. */
static void dense_choose(const dense *d, const double *x, double *scores, int64_t *ids)
{
  double sum = 0;
  int chosen[DENSE_EXPERTS] = {0};
  for (int64_t e = 0; e < d->e; e++) {
    double logit = 0;
    for (int64_t i = 0; i < d->h; i++)
      logit += x[i] * d->router[i * d->e + e];
    scores[e] = d->sigmoid ? 1 / (1 + exp(-logit)) : exp(logit);
    sum += scores[e];
  }
  for (int64_t e = 0; !d->sigmoid && e < d->e; e++)
    scores[e] /= sum;
  for (int64_t c = 0; c < d->k; c++) {
    int64_t best = -1;
    for (int64_t e = 0; e < d->e; e++)
      if (!chosen[e] && (best < 0 || scores[e] + d->bias[e] > scores[best] + d->bias[best]))
        best = e;
    chosen[best] = 1;
    ids[c] = best;
  }
}

/* Least relative distance of a chosen expert's score and bias from those of one not chosen. */
static double dense_margin(const dense *d, const double *x)
{
  double scores[DENSE_EXPERTS], margin = 1;
  int64_t ids[DENSE_EXPERTS];
  dense_choose(d, x, scores, ids);
  for (int64_t e = 0; e < d->e; e++) {
    int chosen = 0;
    for (int64_t c = 0; c < d->k; c++)
      chosen |= ids[c] == e;
    double last = scores[ids[d->k - 1]] + d->bias[ids[d->k - 1]];
    double distance = (last - scores[e] - d->bias[e]) / fabs(last);
    if (!chosen && distance < margin)
      margin = distance;
  }
  return margin;
}

/* One token through one expert with a weight: adds to y, dx and dw; returns dy . output. */
static double dense_expert(const dense *d, int64_t e, double weight, const double *x,
                           const double *dy, double *y, double *dx, double *dw)
{
  int64_t h = d->h, f = d->ffn[e];
  const double *w1 = d->w[e], *w2 = w1 + 2 * h * f;
  double along = 0;
  for (int64_t j = 0; j < f; j++) {
    double gate = 0, up = 0, slope = 0;
    for (int64_t i = 0; i < h; i++) {
      gate += x[i] * w1[i * 2 * f + j];
      up += x[i] * w1[i * 2 * f + f + j];
    }
    double sigmoid = 1 / (1 + exp(-gate)), act = gate * sigmoid * up;
    for (int64_t i = 0; i < h; i++) {
      y[i] += weight * act * w2[j * h + i];
      along += dy[i] * act * w2[j * h + i];
      slope += weight * dy[i] * w2[j * h + i];
      dw[2 * h * f + j * h + i] += act * weight * dy[i];
    }
    double dgate = slope * up * (sigmoid + gate * sigmoid * (1 - sigmoid));
    double dup = slope * gate * sigmoid;
    for (int64_t i = 0; i < h; i++) {
      dx[i] += dgate * w1[i * 2 * f + j] + dup * w1[i * 2 * f + f + j];
      dw[i * 2 * f + j] += x[i] * dgate;
      dw[i * 2 * f + f + j] += x[i] * dup;
    }
  }
  return along;
}

/* Gradients of x and of the router's parameters, for dscores[e]. */
static void dense_router(const dense *d, const double *x, const double *scores,
                         const double *dscores, double *dx, double *drouter)
{
  for (int64_t j = 0; j < d->e; j++) {
    double dlogit = 0;
    for (int64_t i = 0; i < d->e && !d->sigmoid; i++)
      dlogit += dscores[i] * scores[i] * ((i == j) - scores[j]);
    if (d->sigmoid)
      dlogit = dscores[j] * scores[j] * (1 - scores[j]);
    for (int64_t i = 0; i < d->h; i++) {
      dx[i] += dlogit * d->router[i * d->e + j];
      drouter[i * d->e + j] += dlogit * x[i];
    }
  }
}

/* Gradient of the scores for that of their shares, share e being score e over the sum of all. */
static void dense_shares(const dense *d, const double *scores, const double *slope, double *dscores)
{
  double sum = 0;
  for (int64_t e = 0; e < d->e; e++)
    sum += scores[e];
  for (int64_t i = 0; i < d->e; i++) {
    dscores[i] = slope[i] / sum;
    for (int64_t e = 0; e < d->e; e++)
      dscores[i] -= slope[e] * scores[e] / (sum * sum);
  }
}

static void dense_token(const dense *d, int64_t t, const double *slope_of_shares, dense_result *r)
{
  double scores[DENSE_EXPERTS], dscores[DENSE_EXPERTS], weights[DENSE_EXPERTS], sum = 0;
  double dweights[DENSE_EXPERTS];
  int64_t ids[DENSE_EXPERTS];
  const double *x = d->x + t * d->h, *sent = (d->sent ? d->sent : d->x) + t * d->h;
  double *dx = r->dx + t * d->h;
  dense_choose(d, x, scores, ids);
  for (int64_t c = 0; c < d->k; c++)
    sum += scores[ids[c]];
  for (int64_t c = 0; c < d->k; c++) {
    weights[c] = d->renormalise ? scores[ids[c]] / sum : scores[ids[c]];
    dweights[c] = dense_expert(d, ids[c], weights[c], sent, d->dy + t * d->h, r->y + t * d->h, dx,
                               r->dw[ids[c]]);
  }
  dense_shares(d, scores, slope_of_shares, dscores);
  for (int64_t c = 0; c < d->k; c++)
    for (int64_t o = 0; o < d->k; o++) {
      double derivative = (c == o) / sum - scores[ids[o]] / (sum * sum);
      dscores[ids[c]] += d->renormalise ? dweights[o] * derivative : (c == o) * dweights[o];
    }
  dense_router(d, x, scores, dscores, dx, r->drouter);
}

/* y, all gradients for dy, and the auxiliary loss with its gradient. */
static void dense_run(const dense *d, dense_result *r)
{
  double count[DENSE_EXPERTS] = {0}, mean[DENSE_EXPERTS] = {0}, slope[DENSE_EXPERTS] = {0};
  double scores[DENSE_EXPERTS];
  int64_t ids[DENSE_EXPERTS];
  dense_result_open(d, r);
  for (int64_t t = 0; t < d->t; t++) {
    double sum = 0;
    dense_choose(d, d->x + t * d->h, scores, ids);
    for (int64_t c = 0; c < d->k; c++)
      count[ids[c]]++;
    for (int64_t e = 0; e < d->e; e++)
      sum += scores[e];
    for (int64_t e = 0; e < d->e; e++)
      mean[e] += scores[e] / sum / (double)d->t;
  }
  for (int64_t e = 0; e < d->e && d->t; e++) {
    double share = count[e] / (double)(d->t * d->k);
    r->aux_loss += d->aux * (double)d->e * share * mean[e];
    slope[e] = d->aux * (double)d->e * share / (double)d->t;
  }
  for (int64_t t = 0; t < d->t; t++)
    dense_token(d, t, slope, r);
}

#endif
