/* SPDX-License-Identifier: Apache-2.0 */
/* Planner neap's forecast: the loads of the next step from those of the last ones, and its errors.
 *
 * An expert's share of all work follows the newest steps closely (exponential weights), unless a
 * regression of its logarithm on those of the last three steps, one for all experts (least squares,
 * a little ridge), would have predicted the steps that are known clearly better: where loads
 * alternate, swing or fall back to the mean. What the better one was off by is what the next step
 * may be off by. How a node
 * differs from the others is believed only as far as it persists: the correlation of one step's
 * differences with the next one's says how far (the shrinkage of an average of steps towards 0, as
 * by James and Stein 1961). */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

static const double NEWEST = 0.75;     /* weight of the newest step, of what is left, and so on */
static const double LUCK = 1.3;        /* what is off next time, to what was: the past chose it */
static const double FIT_BETTER = 0.95; /* square errors that fitted weights must stay below */

/* Adds a load by nodes to sum[nodes][experts], as work, and to share[experts], all work being as
 * much as all ranks do. */
static void sum_nodes(const neap_topology *t, const double *load, double *sum, double *share)
{
  double all = 0;
  memset(sum, 0, sizeof *sum * t->nodes * t->experts);
  for (int32_t r = 0; r < t->ranks; r++) {
    double *own = sum + (int64_t)t->node_of[r] * t->experts;
    const double *row = load + (int64_t)r * t->experts;
    for (int32_t e = 0; e < t->experts; e++)
      own[e] += row[e];
  }
  memset(share, 0, sizeof *share * t->experts);
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++)
      share[e] += sum[(int64_t)g * t->experts + e];
  for (int32_t e = 0; e < t->experts; e++)
    all += share[e] *= t->cost[e];
  double scale = all > 0 ? t->ranks / all : 0;
  for (int32_t e = 0; e < t->experts; e++)
    share[e] *= scale;
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++)
      sum[(int64_t)g * t->experts + e] *= scale * t->cost[e];
}

/* Turns node loads into differences from the nodes' parts of the shares. */
static void differ(const neap_topology *t, double *sum, const double *share)
{
  for (int32_t g = 0; g < t->nodes; g++) {
    double part = (double)(t->first_rank[g + 1] - t->first_rank[g]) / t->ranks;
    for (int32_t e = 0; e < t->experts; e++)
      sum[(int64_t)g * t->experts + e] -= part * share[e];
  }
}

static double product(const double *a, const double *b, int64_t count)
{
  double sum = 0;
  for (int64_t i = 0; i < count; i++)
    sum += a[i] * b[i];
  return sum;
}

/* How far an expert's load may be from the forecast: its largest relative change of late. */
static void watch(neapi_neap *n, const double *before, const double *after)
{
  for (int32_t e = 0; e < n->topology->experts; e++) {
    double change = fabs(log((after[e] + 0.05) / (before[e] + 0.05)));
    n->drift[e] = fmax(n->drift[e] * 0.8, change);
  }
}

/* What loads come from, step by step: shares of the last steps, how nodes differ, drift. */
static void look_back(neapi_neap *n, const neapi_plan_input *input, int32_t steps)
{
  const neap_topology *t = n->topology;
  const double *const *history = input->history + input->steps - steps;
  int64_t pairs = (int64_t)t->nodes * t->experts;
  double together = 0, square = 0;
  memset(n->drift, 0, sizeof *n->drift * t->experts);
  memset(n->load, 0, sizeof *n->load * pairs);
  for (int32_t i = 0; i < steps; i++) {
    double *now = n->recent[i % 2], *last = n->recent[(i + 1) % 2];
    double *share = n->shares + (int64_t)i * t->experts;
    sum_nodes(t, history[i], now, share);
    differ(t, now, share);
    for (int64_t k = 0; k < pairs; k++)
      n->load[k] += now[k] / steps;
    if (i) {
      together += product(now, last, pairs);
      square += product(last, last, pairs);
      watch(n, share - t->experts, share);
    }
  }
  double chance = 2 / sqrt((double)pairs * (steps - 1)); /* what unrelated steps may show */
  double persist = square > 0 ? fmin(fmax(together / square - chance, 0), 1) : 0;
  double belief = persist * steps / (1 + (steps - 1) * persist);
  for (int64_t k = 0; k < pairs; k++)
    n->load[k] *= belief;
}

/* Loads below this, in the work of a mean rank, are as good as equal. */
static const double SMALL = 0.05;

/* Logarithms of loads, less their mean. */
static void take_logs(const double *share, int32_t experts, double *log_share)
{
  double mean = 0;
  for (int32_t e = 0; e < experts; e++)
    mean += log_share[e] = log(share[e] + SMALL);
  for (int32_t e = 0; e < experts; e++)
    log_share[e] -= mean / experts;
}

/* The exponential mean of so many steps. */
static void smooth(neapi_neap *n, int32_t steps, double *mean)
{
  int32_t experts = n->topology->experts;
  for (int32_t i = 0; i < steps; i++)
    for (int32_t e = 0; e < experts; e++)
      mean[e] =
          i ? mean[e] + NEWEST * (n->shares[(int64_t)i * experts + e] - mean[e]) : n->shares[e];
}

enum { LAGS = 3 };

/* Weights of the last LAGS steps in logarithms, by least squares over all experts. */
static void fit(const double *logs, int32_t steps, int32_t experts, double *weight)
{
  static const double usual[LAGS] = {0.75, 0.19, 0.06};
  double a[LAGS][LAGS + 1] = {{0}};
  for (int32_t i = LAGS; i < steps; i++)
    for (int32_t e = 0; e < experts; e++) {
      const double *at = logs + (int64_t)i * experts + e;
      for (int32_t j = 0; j < LAGS; j++) {
        for (int32_t k = 0; k < LAGS; k++)
          a[j][k] += at[-(j + 1) * experts] * at[-(k + 1) * experts];
        a[j][LAGS] += at[-(j + 1) * experts] * at[0];
      }
    }
  double ridge = 0.02 * (a[0][0] + a[1][1] + a[2][2]) / 3 + 1e-9;
  for (int32_t j = 0; j < LAGS; j++) {
    a[j][j] += ridge;
    a[j][LAGS] += ridge * usual[j];
  }
  for (int32_t j = 0; j < LAGS; j++) /* positive definite: no pivots */
    for (int32_t k = 0; k < LAGS; k++) {
      double factor = a[k][j] / a[j][j];
      for (int32_t i = j; k != j && i <= LAGS; i++)
        a[k][i] -= factor * a[j][i];
    }
  for (int32_t j = 0; j < LAGS; j++)
    weight[j] = a[j][LAGS] / a[j][j];
}

static double weigh(const double *at, int32_t experts, const double *weight)
{
  double sum = 0;
  for (int32_t j = 0; j < LAGS; j++)
    sum += weight[j] * at[-(j + 1) * experts];
  return sum;
}

/* Errors of the exponential mean and of fitted weights, were the last steps predicted; adds up
 * squares by expert from step `from` on. */
static double miss_smooth(neapi_neap *n, int32_t from, int32_t steps, double *squares)
{
  int32_t experts = n->topology->experts;
  double sum = 0;
  memset(squares, 0, sizeof *squares * experts);
  for (int32_t i = from; i < steps; i++) {
    smooth(n, i, n->each);
    take_logs(n->each, experts, n->each);
    for (int32_t e = 0; e < experts; e++) {
      double miss = n->logs[(int64_t)i * experts + e] - n->each[e];
      squares[e] += miss * miss;
      sum += miss * miss;
    }
  }
  return sum;
}

static double miss_fit(neapi_neap *n, int32_t steps, const double *weight, double *squares)
{
  int32_t experts = n->topology->experts;
  double sum = 0;
  memset(squares, 0, sizeof *squares * experts);
  for (int32_t i = LAGS; i < steps; i++)
    for (int32_t e = 0; e < experts; e++) {
      const double *at = n->logs + (int64_t)i * experts + e;
      double miss = at[0] - weigh(at, experts, weight);
      squares[e] += miss * miss;
      sum += miss * miss;
    }
  return sum;
}

/* deviation: of every expert's log load, as far as so few steps tell, and as all experts'; more:
 * times what they tell. */
static void set_deviation(neapi_neap *n, const double *squares, int32_t count, double more)
{
  const double others = 12; /* steps that all experts' mean counts as */
  int32_t experts = n->topology->experts;
  double mean = 0;
  for (int32_t e = 0; e < experts; e++)
    mean += squares[e] / count / experts;
  for (int32_t e = 0; e < experts; e++)
    n->deviation[e] = more * sqrt((squares[e] + others * mean) / (count + others));
}

static void predict_fit(neapi_neap *n, int32_t steps, const double *weight)
{
  int32_t experts = n->topology->experts;
  double sum = 0, mean = 0;
  const double *newest = n->shares + (int64_t)(steps - 1) * experts;
  for (int32_t e = 0; e < experts; e++)
    mean += log(newest[e] + SMALL) / experts;
  for (int32_t e = 0; e < experts; e++) {
    double log_load = mean + weigh(n->logs + (int64_t)steps * experts + e, experts, weight);
    sum += n->total[e] = fmax(0, exp(log_load) - SMALL);
  }
  for (int32_t e = 0; e < experts && sum > 0; e++)
    n->total[e] *= n->topology->ranks / sum;
}

/* The next step's totals: the exponential mean, or fitted weights if those would have predicted the
 * last steps clearly better. */
static void predict(neapi_neap *n, int32_t steps)
{
  int32_t experts = n->topology->experts;
  double weight[LAGS], *squares = n->away;
  for (int32_t i = 0; i < steps; i++)
    take_logs(n->shares + (int64_t)i * experts, experts, n->logs + (int64_t)i * experts);
  if (steps > LAGS + 1) {
    fit(n->logs, steps, experts, weight);
    double usual = miss_smooth(n, LAGS, steps, squares);
    double fitted = miss_fit(n, steps, weight, squares);
    int32_t equations = (steps - LAGS) * experts;
    if (fitted * (1 + 6.0 / equations) < FIT_BETTER * usual) {
      set_deviation(n, squares, steps - LAGS, LUCK);
      predict_fit(n, steps, weight);
      return;
    }
  }
  miss_smooth(n, 1, steps, squares);
  set_deviation(n, squares, steps - 1, n->topology->slots < 1.5 * experts ? 1 : LUCK);
  smooth(n, steps, n->total);
}

void neapi_neap_forecast(neapi_neap *n, const neapi_plan_input *input)
{
  const neap_topology *t = n->topology;
  if (input->steps < 2) {
    for (int32_t e = 0; e < t->experts; e++) {
      n->drift[e] = 1.4 * n->spread;
      n->deviation[e] = n->spread;
    }
    sum_nodes(t, input->load, n->load, n->total);
    return;
  }
  int32_t steps = input->steps < NEAPI_PAST ? input->steps : NEAPI_PAST;
  look_back(n, input, steps);
  predict(n, steps);
  for (int32_t g = 0; g < t->nodes; g++) {
    double part = (double)(t->first_rank[g + 1] - t->first_rank[g]) / t->ranks;
    for (int32_t e = 0; e < t->experts; e++) {
      double *load = &n->load[(int64_t)g * t->experts + e];
      *load = fmax(0, *load + part * n->total[e]);
    }
  }
  memset(n->total, 0, sizeof *n->total * t->experts);
  for (int32_t g = 0; g < t->nodes; g++)
    for (int32_t e = 0; e < t->experts; e++)
      n->total[e] += n->load[(int64_t)g * t->experts + e];
}
