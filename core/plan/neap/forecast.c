/* Planner neap's forecast: the loads of the next step from those of the last ones.
 *
 * An expert's share of all work follows the newest steps closely (exponential weights). How a node
 * differs from the others is believed only as far as it persists: the correlation of one step's
 * differences with the next one's says how far (the shrinkage of an average of steps towards 0, as
 * by James and Stein 1961). */
#include "plan/neap/state.h"

#include <math.h>
#include <string.h>

static const double NEWEST = 0.75; /* weight of the newest step, of what is left, and so on */

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

static void look_back(neapi_neap *n, const neapi_plan_input *input)
{
  const neap_topology *t = n->topology;
  int64_t pairs = (int64_t)t->nodes * t->experts;
  double together = 0, square = 0;
  memset(n->total, 0, sizeof *n->total * t->experts);
  memset(n->drift, 0, sizeof *n->drift * t->experts);
  memset(n->load, 0, sizeof *n->load * pairs);
  for (int32_t i = 0; i < input->steps; i++) {
    double *now = n->recent[i % 2], *last = n->recent[(i + 1) % 2];
    double *share = n->shares[i % 2], *old = n->shares[(i + 1) % 2];
    sum_nodes(t, input->history[i], now, share);
    differ(t, now, share);
    for (int32_t e = 0; e < t->experts; e++)
      n->total[e] += (i ? NEWEST : 1) * (share[e] - n->total[e]);
    for (int64_t k = 0; k < pairs; k++)
      n->load[k] += now[k] / input->steps;
    if (i) {
      together += product(now, last, pairs);
      square += product(last, last, pairs);
      watch(n, old, share);
    }
  }
  double persist = square > 0 && together > 0 ? fmin(together / square, 1) : 0;
  double belief = persist * input->steps / (1 + (input->steps - 1) * persist);
  for (int64_t k = 0; k < pairs; k++)
    n->load[k] *= belief;
}

void neapi_neap_forecast(neapi_neap *n, const neapi_plan_input *input)
{
  const neap_topology *t = n->topology;
  if (input->steps < 2) {
    for (int32_t e = 0; e < t->experts; e++)
      n->drift[e] = 0.35;
    sum_nodes(t, input->load, n->load, n->total);
    return;
  }
  look_back(n, input);
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
