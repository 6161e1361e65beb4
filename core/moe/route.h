/* SPDX-License-Identifier: Apache-2.0 */
/* Routing of one rank's tokens: which experts, with which weights, and where they are sent. */
#ifndef NEAP_ROUTE_H
#define NEAP_ROUTE_H

#include "device/buffer.h"
#include "layout/layout.h"

#include <kernels.h>

typedef struct {
  const neapi_kernels *kernels;
  const neapi_kernels *acc_kernels; /* those of kernels' acc */
  const neapi_kernels *own_kernels; /* of the router's parameters and gradients: one of the two */
  int64_t tokens, hidden;           /* T, H */
  int32_t experts, top_k;           /* E, K */
  bool renormalise, sigmoid;
  bool balanced;              /* choices are replaced: see the kernel balanced_choices */
  int64_t rank;               /* whose tokens these are, for balanced */
  neapi_memory_kind integers; /* of counts: what both sides reach */
  int64_t *counts;            /* [E] choices of this rank's tokens */
  double *bias;               /* [E] added to scores where experts are chosen; integers */
  neapi_buffer near_bias;     /* [E] double: bias as a GPU's kernels read it */
  neapi_buffer logits;        /* (T, E) acc, from backward on their gradient, own */
  neapi_buffer scores;        /* (T, E) acc */
  neapi_buffer shares;        /* (T, E) acc, of an auxiliary loss: scores' shares, then gradients */
  neapi_buffer wide;          /* (T, H) acc: x, then its gradient, where own is not kernels */
  neapi_buffer ids;           /* (T, K) int32_t, the first choice first */
  neapi_buffer weights;       /* (T, K) acc */
  neapi_buffer position;      /* (T, K) int32_t: row that assign gave the choice */
  neapi_buffer host_ids;      /* (T, K) int32_t: ids for the host, where they are not there */
  neapi_buffer segments;      /* of assign */
  neapi_buffer quantum;       /* [2][E] double, of probability: quanta, then sums */
  neapi_buffer sums;    /* [2][E] double on the host: what goes to quantum and comes from it */
  neapi_buffer factors; /* (T, H), (T, E) double, of exact_gradient */
} neapi_route;

/* Of options that have been checked. */
int neapi_route_open(neapi_route *route, const neap_moe_options *options, int32_t experts);
void neapi_route_close(neapi_route *route);

/* Fills scores, ids, weights and counts. x (T, H), router (H, E) own. bad: the first token whose
 * logits are not finite, or -1. */
int neapi_route_choose(neapi_route *route, int64_t tokens, const void *x, const void *router,
                       int64_t *bad);

/* ids where the host can read them; on a GPU it waits for a copy. NULL: reported. */
const int32_t *neapi_route_ids(neapi_route *route);

/* Gives every choice a row: of the tokens for an expert the first slot_tokens[s] go to the rows
 * from start[s] on of the expert's first slot s, and so on; fills position. slot_tokens[S] and
 * start[S] for this rank. Errors: SPLIT if slot_tokens do not add up to the counts. */
int neapi_route_assign(neapi_route *route, const neap_layout *layout, const int64_t *slot_tokens,
                       const int64_t *start);

/* sums[E] = sum of each expert's share of the scores over this rank's tokens, rounded so that sums
 * over up to total tokens are exact. */
int neapi_route_probability(neapi_route *route, int64_t total, double *sums);

/* Makes logits the gradient of logits, from dlog (rows) acc, of a choice's row its weight times
 * the gradient of that, and, unless NULL, the gradient shares_grad[E] of every token's shares. */
int neapi_route_backward(neapi_route *route, const void *dlog, const double *shares_grad);

/* After backward, with choose's x: drouter (H, E) acc += x^T times the gradient of logits. */
int neapi_route_gradient(neapi_route *route, const void *x, void *drouter);
/* The same exactly: the factors' column maxima, H of x and E of the logits' gradient; then, with
 * quanta made of the maxima over all ranks, the product. */
int neapi_route_maxima(neapi_route *route, const void *x, double *max);
int neapi_route_exact_gradient(neapi_route *route, const void *x, const double *quanta,
                               double *drouter);

/* After the router's gradient: dx (T, H) += the gradient of logits times router^T. */
int neapi_route_input_gradient(neapi_route *route, const void *router, void *dx);

#endif
