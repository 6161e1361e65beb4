/* SPDX-License-Identifier: Apache-2.0 */
/* Routing: router product, choices, and the rows that tokens are sent to. */
#include "moe/route.h"

#include "base/dtype.h"
#include "device/timeline.h"
#include "tensor/tensor.h"

#include <string.h>

int neapi_route_open(neapi_route *r, const neap_moe_options *o, int32_t experts)
{
  *r = (neapi_route){.kernels = neapi_kernels_of(o->dtype),
                     .acc_kernels = neapi_kernels_of(neapi_acc_of(o->dtype)),
                     .hidden = o->hidden,
                     .experts = experts,
                     .top_k = o->top_k,
                     .renormalise = o->renormalise,
                     .sigmoid = o->scoring == NEAP_SIGMOID,
                     .balanced = o->balanced};
  r->own_kernels = o->router_acc ? r->acc_kernels : r->kernels;
  neapi_buffer *reals[] = {&r->logits,  &r->scores,  &r->weights, &r->ids,  &r->position,
                           &r->quantum, &r->factors, &r->shares,  &r->wide, &r->near_bias};
  for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
    reals[i]->memory = neapi_memory_of_reals();
  r->integers = r->host_ids.memory = r->sums.memory = neapi_memory_of_integers();
  r->counts = neapi_memory_alloc_zero(r->integers, experts * 8ll, "route");
  r->bias = neapi_memory_alloc_zero(r->integers, experts * 8ll, "route");
  return r->counts && r->bias ? NEAP_OK : NEAP_MEMORY;
}

void neapi_route_close(neapi_route *r)
{
  neapi_buffer *buffers[] = {&r->logits,   &r->scores,   &r->shares,   &r->ids,     &r->weights,
                             &r->position, &r->segments, &r->host_ids, &r->quantum, &r->sums,
                             &r->factors,  &r->wide,     &r->near_bias};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    neapi_buffer_free(buffers[i]);
  neapi_memory_free(r->integers, r->counts);
  neapi_memory_free(r->integers, r->bias);
}

static int reserve(neapi_route *r)
{
  int64_t wide = r->tokens * r->experts * r->kernels->acc_size;
  int64_t narrow = r->tokens * r->top_k * r->kernels->acc_size, ids = r->tokens * r->top_k * 4;
  const struct {
    neapi_buffer *buffer;
    int64_t bytes;
  } needs[] = {{&r->logits, wide},
               {&r->scores, wide},
               {&r->ids, ids},
               {&r->weights, narrow},
               {&r->position, ids}};
  for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
    if (neapi_buffer_reserve(needs[i].buffer, needs[i].bytes, "route"))
      return NEAP_MEMORY;
  return NEAP_OK;
}

const int32_t *neapi_route_ids(neapi_route *r)
{
  int64_t bytes = r->tokens * r->top_k * 4;
  if (r->ids.memory != NEAPI_GPU)
    return r->ids.data;
  int status = neapi_buffer_reserve(&r->host_ids, bytes, "route");
  if (!status)
    status = neapi_copy(r->host_ids.data, r->ids.data, bytes);
  if (!status)
    status = neapi_stream_wait();
  return status ? NULL : r->host_ids.data;
}

/* x as the router's products take it; NULL: reported. */
static const void *own_x(neapi_route *r, const void *x)
{
  int64_t count = r->tokens * r->hidden;
  if (r->own_kernels == r->kernels)
    return x;
  if (neapi_buffer_reserve(&r->wide, count * r->acc_kernels->size, "route"))
    return NULL;
  int result = r->kernels->to_acc(count, x, r->wide.data, neapi_stream());
  return neapi_kernel_status_of("moe route", result) ? NULL : r->wide.data;
}

/* The biases where kernels reach them, NULL if all are 0; *status: of copying them there. */
static const double *reached_bias(neapi_route *r, int *status)
{
  int32_t e = 0;
  *status = NEAP_OK;
  while (e < r->experts && r->bias[e] == 0)
    e++;
  if (e == r->experts || r->near_bias.memory != NEAPI_GPU)
    return e < r->experts ? r->bias : NULL;
  *status = neapi_buffer_reserve(&r->near_bias, r->experts * 8ll, "route");
  if (!*status)
    *status = neapi_copy(r->near_bias.data, r->bias, r->experts * 8ll);
  return r->near_bias.data;
}

static int choose(neapi_route *r, const void *x, const void *router, int64_t *first_bad)
{
  int status;
  const double *bias = reached_bias(r, &status);
  if (status)
    return status;
  const neapi_kernels *k = r->kernels;
  int64_t tokens = r->tokens;
  int result =
      r->own_kernels->gemm_acc(tokens, r->experts, r->hidden, x, r->hidden, 0, router, r->experts,
                               0, r->logits.data, r->experts, 0, neapi_stream());
  if (!result)
    result =
        k->router(tokens, r->experts, r->top_k, r->sigmoid, r->renormalise, bias, r->logits.data,
                  r->scores.data, r->ids.data, r->weights.data, first_bad, neapi_stream());
  if (!result && r->balanced)
    result = k->balanced_choices(tokens, r->experts, r->top_k, r->renormalise,
                                 r->rank * tokens * r->top_k % r->experts, r->scores.data,
                                 r->ids.data, r->weights.data, neapi_stream());
  if (!result)
    result =
        k->count_choices(tokens * r->top_k, r->experts, r->ids.data, r->counts, neapi_stream());
  return neapi_kernel_status_of("moe route", result);
}

int neapi_route_choose(neapi_route *r, int64_t tokens, const void *x, const void *router,
                       int64_t *bad)
{
  r->tokens = tokens;
  if (reserve(r))
    return NEAP_MEMORY;
  int64_t *first_bad = (int64_t *)neapi_results();
  const void *own = own_x(r, x);
  if (!first_bad || !own)
    return NEAP_MEMORY;
  int chosen = choose(r, own, router, first_bad);
  double begin = neapi_host_begin();
  int status = neapi_stream_wait(); /* the one wait of a layer: the load matrix needs the counts */
  neapi_host_end(begin);
  *bad = *first_bad;
  return chosen ? chosen : status;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static int check_tokens(const neapi_route *r, const neap_layout *layout, const int64_t *slot_tokens)
{
  for (int32_t e = 0; e < r->experts; e++) {
    int64_t sum = 0;
    for (int32_t i = layout->first[e]; i < layout->first[e + 1]; i++) {
      int64_t tokens = slot_tokens[layout->by_expert[i]];
      if (tokens < 0)
        return neapi_fail(NEAP_SPLIT, "moe dispatch: the split gives slot %d %lld tokens",
                          layout->by_expert[i], (long long)tokens);
      sum += tokens;
    }
    if (sum != r->counts[e])
      return neapi_fail(NEAP_SPLIT,
                        "moe dispatch: the split places %lld tokens for expert %d; this rank has "
                        "%lld; compute it from the load of this step",
                        (long long)sum, e, (long long)r->counts[e]);
  }
  return NEAP_OK;
}

/* The slots' rows, expert by expert; NULL: reported. */
static const neapi_segment *set_segments(neapi_route *r, const neap_layout *layout,
                                         const int64_t *slot_tokens, const int64_t *start)
{
  int32_t slots = layout->topology->slots;
  if (neapi_buffer_reserve(&r->segments, slots * (int64_t)sizeof(neapi_segment), "route"))
    return NULL;
  neapi_segment *segments = r->segments.data;
  for (int32_t i = 0; i < layout->first[r->experts]; i++) {
    int32_t slot = layout->by_expert[i];
    segments[i] = (neapi_segment){(int32_t)slot_tokens[slot], (int32_t)start[slot]};
  }
  return segments;
}

int neapi_route_assign(neapi_route *r, const neap_layout *layout, const int64_t *slot_tokens,
                       const int64_t *start)
{
  int status = check_tokens(r, layout, slot_tokens);
  const neapi_segment *segments = status ? NULL : set_segments(r, layout, slot_tokens, start);
  if (!segments)
    return status ? status : NEAP_MEMORY;
  return neapi_kernel_status_of("moe dispatch",
                                r->kernels->assign_choices(r->tokens * r->top_k, r->experts,
                                                           r->ids.data, layout->first, segments,
                                                           r->position.data, neapi_stream()));
}

/* ---- gradients ------------------------------------------------------------------------------- */

int neapi_route_probability(neapi_route *r, int64_t total, double *sums)
{
  const neapi_kernels *k = r->acc_kernels;
  int bits = 53;
  while (total > 1ll << (53 - bits))
    bits--;
  int64_t experts = r->experts, bytes = 2 * experts * 8;
  if (neapi_buffer_reserve(&r->quantum, bytes, "route") ||
      neapi_buffer_reserve(&r->sums, bytes, "route") ||
      neapi_buffer_reserve(&r->shares, r->tokens * experts * k->size, "route"))
    return NEAP_MEMORY;
  double *quantum = r->quantum.data, *host = r->sums.data;
  for (int64_t e = 0; e < experts; e++) {
    host[e] = 1.0; /* no share is larger */
    host[experts + e] = 0;
  }
  int status = neapi_copy(quantum, host, bytes);
  int result = k->exact_quantum(experts, bits, quantum, quantum, neapi_stream());
  if (!result && r->sigmoid)
    result = k->router_shares(r->tokens, experts, r->scores.data, r->shares.data, neapi_stream());
  if (!result)
    result = k->exact_column_sum(r->tokens, experts, r->sigmoid ? r->shares.data : r->scores.data,
                                 experts, quantum, quantum + experts, neapi_stream());
  if (!status)
    status = neapi_kernel_status_of("moe route", result);
  if (!status)
    status = neapi_copy(host, quantum + experts, experts * 8);
  if (!status)
    status = neapi_stream_wait();
  if (!status)
    memcpy(sums, host, (size_t)experts * 8);
  return status;
}

/* shares[t] = shares_grad for every token. */
static int fill_shares(neapi_route *r, const double *shares_grad)
{
  int64_t row = r->experts * r->acc_kernels->size;
  char *rows = r->shares.data;
  void *first = r->sums.data; /* like shares from probability, which comes before */
  for (int32_t e = 0; e < r->experts; e++)
    if (r->acc_kernels->size == sizeof *shares_grad)
      ((double *)first)[e] = shares_grad[e];
    else
      ((float *)first)[e] = (float)shares_grad[e];
  int status = r->tokens ? neapi_copy(rows, first, row) : NEAP_OK;
  for (int64_t done = 1, more; !status && done < r->tokens; done += more) {
    more = done < r->tokens - done ? done : r->tokens - done;
    status = neapi_copy(rows + done * row, rows, more * row);
  }
  return status;
}

int neapi_route_backward(neapi_route *r, const void *dlog, const double *shares_grad)
{
  int status = shares_grad ? fill_shares(r, shares_grad) : NEAP_OK;
  if (status)
    return status;
  return neapi_kernel_status_of(
      "moe backward", r->own_kernels->router_backward(
                          r->tokens, r->experts, r->top_k, r->sigmoid, r->renormalise,
                          r->scores.data, r->ids.data, r->weights.data, r->position.data, dlog,
                          shares_grad ? r->shares.data : NULL, r->logits.data, neapi_stream()));
}

int neapi_route_gradient(neapi_route *r, const void *x, void *drouter)
{
  const void *own = own_x(r, x);
  if (!own)
    return NEAP_MEMORY;
  return neapi_kernel_status_of("moe backward",
                                r->own_kernels->gemm_tn(r->tokens, r->hidden, r->experts, own,
                                                        r->hidden, r->logits.data, r->experts,
                                                        drouter, r->experts, 1, neapi_stream()));
}

int neapi_route_maxima(neapi_route *r, const void *x, double *max)
{
  const neapi_kernels *k = r->kernels;
  int64_t t = r->tokens, h = r->hidden, e = r->experts;
  int result = k->exact_column_max(t, h, x, h, 0, max, neapi_stream());
  if (!result)
    result = r->own_kernels->exact_column_max(t, e, r->logits.data, e, 0, max + h, neapi_stream());
  return neapi_kernel_status_of("moe backward", result);
}

int neapi_route_exact_gradient(neapi_route *r, const void *x, const double *quanta, double *drouter)
{
  const neapi_kernels *k = r->kernels;
  int64_t t = r->tokens, h = r->hidden, e = r->experts;
  if (neapi_buffer_reserve(&r->factors, t * (h + e) * 8, "route"))
    return NEAP_MEMORY;
  double *left = r->factors.data, *right = left + t * h;
  int result = k->exact_quantise(t, h, x, h, quanta, left, neapi_stream());
  if (!result)
    result =
        r->own_kernels->exact_quantise(t, e, r->logits.data, e, quanta + h, right, neapi_stream());
  if (!result)
    result = k->exact_gemm_tn(t, h, e, left, quanta, right, quanta + h, drouter, neapi_stream());
  return neapi_kernel_status_of("moe backward", result);
}

/* own += the gradient of logits times router^T. */
static int add_input_gradient(neapi_route *r, const void *router, void *own)
{
  int64_t h = r->hidden, e = r->experts;
  return r->own_kernels->gemm(r->tokens, h, e, r->logits.data, e, 0, router, e, 1, own, h, 1,
                              neapi_stream());
}

int neapi_route_input_gradient(neapi_route *r, const void *router, void *dx)
{
  if (r->own_kernels == r->kernels)
    return neapi_kernel_status_of("moe backward", add_input_gradient(r, router, dx));
  int64_t count = r->tokens * r->hidden;
  int result = r->kernels->to_acc(count, dx, r->wide.data, neapi_stream());
  if (!result)
    result = add_input_gradient(r, router, r->wide.data);
  if (!result)
    result = r->kernels->from_acc(count, r->wide.data, dx, neapi_stream());
  return neapi_kernel_status_of("moe backward", result);
}
