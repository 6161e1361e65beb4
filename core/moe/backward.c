/* SPDX-License-Identifier: Apache-2.0 */
/* The way back through a layer: gradients out, gradients back, sums over tokens. */
#include "moe/moe.h"

#include "base/dtype.h"

int neap_moe_backward_dispatch(neap_moe *m, const neap_tensor *dy)
{
  NEAPI_NVTX("moe backward_dispatch");
  int status = neapi_moe_require(m, "backward_dispatch", NEAPI_MOE_COMPUTED);
  if (!status)
    status = neapi_moe_require_tokens(m, "moe backward_dispatch", "dy", dy);
  if (status)
    return status;
  double since = neapi_timeline_now();
  m->dout =
      neapi_experts_acquire_rows(&m->experts, NEAPI_ROWS_DOUT, m->rows.all_rows * m->row_bytes);
  if (!m->dout)
    return NEAP_MEMORY;
  status = neapi_kernel_status_of("moe backward_dispatch",
                                  m->kernels->scatter(m->route.tokens, m->options.top_k,
                                                      m->options.hidden, m->route.weights.data,
                                                      m->route.position.data, neap_tensor_data(dy),
                                                      m->dout, neapi_stream()));
  if (!status)
    status = neapi_moe_start_all(m, false, NEAP_SPAN_DISPATCH_BACK, m->dout, NULL);
  neapi_moe_end_span(&since, NEAP_SPAN_FINISH_BACK);
  m->last = status ? NEAPI_MOE_IDLE : NEAPI_MOE_GRADS_SENT;
  return status;
}

/* ---- experts --------------------------------------------------------------------------------- */

static int recompute(neap_moe *m, int32_t from, int32_t end, const void *weights)
{
  return neapi_experts_recompute(&m->experts, from, end, weights, m->in);
}

static int backward(neap_moe *m, int32_t from, int32_t end, const void *weights)
{
  return neapi_experts_backward(&m->experts, from, end, weights, m->dout, m->out, m->dlog.data);
}

/* Memory for what the experts' backward writes, and, where it was not kept, what it reads. */
static int acquire_rows(neap_moe *m, const void *x)
{
  int status = neapi_moe_acquire_out(m);
  if (!status)
    status = neapi_buffer_reserve(&m->dlog, m->rows.all_rows * m->kernels->acc_size, "moe");
  if (!status && m->packed)
    return neapi_moe_unpack_tokens(m, "moe backward", 0, m->slots);
  return status || m->in ? status : neapi_moe_place_tokens(m, "moe backward", x);
}

/* Gradients of the experts' inputs, and of the logarithms of their weights. Hidden values that are
 * computed again are so while the gradients are on their way. */
static int compute_backward(neap_moe *m, const void *weights, neap_transfer *arriving)
{
  int status = NEAP_OK;
  for (int32_t c = 0, from, end; !status && c < m->options.chunks; c++) {
    neapi_dispatch_slots(&m->rows, c, &from, &end);
    if (m->options.recompute)
      status = neapi_moe_compute(m, recompute, NEAP_SPAN_EXPERT, c, from, end, weights, arriving);
    if (!status)
      status = neapi_moe_wait_for(m, c, false);
    if (!status)
      status =
          neapi_moe_compute(m, backward, NEAP_SPAN_EXPERT_BACK, c, from, end, weights, arriving);
    if (!status && !m->options.hold_combine)
      status = neapi_moe_start_chunk(m, c, true, NEAP_SPAN_COMBINE_BACK, m->out, m->dlog.data);
  }
  return status;
}

/* ---- sums over tokens ------------------------------------------------------------------------ */

/* Columns whose maxima and quanta the layer has: first the experts', then x's and the logits'. */
static int64_t expert_columns(const neap_moe *m)
{
  return m->experts.columns_at[m->topology->experts];
}

static int64_t router_columns(const neap_moe *m)
{
  return m->options.hidden + m->topology->experts;
}

static int reserve_quanta(neap_moe *m)
{
  int64_t bytes = (expert_columns(m) + router_columns(m)) * 8;
  int status = neapi_buffer_reserve(&m->maxima, bytes, "moe");
  if (!status)
    status = neapi_buffer_reserve(&m->quanta, bytes, "moe");
  if (!status)
    neapi_memory_zero(m->maxima.memory, m->maxima.data, bytes);
  return status;
}

/* Grids that all ranks agree on, for sums over tokens, from the maxima of columns from `from`
 * on. */
static int agree_on_quanta(neap_moe *m, int64_t from, int64_t columns)
{
  double *max = (double *)m->maxima.data + from, *quanta = (double *)m->quanta.data + from;
  int status = neap_comm_all_reduce(m->comm, max, columns, NEAP_F64, NEAP_MAX);
  int bits = 26;
  while (m->total > 1ll << (53 - 2 * bits))
    bits--;
  if (status)
    return status;
  return neapi_kernel_status_of(
      "moe backward", m->kernels->exact_quantum(columns, bits, max, quanta, neapi_stream()));
}

static int exact_expert_gradients(neap_moe *m, void *gradients)
{
  double since = neapi_timeline_now();
  int status = reserve_quanta(m);
  if (!status)
    status = neapi_experts_maxima(&m->experts, m->in, m->dout, m->maxima.data);
  neapi_moe_end_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = agree_on_quanta(m, 0, expert_columns(m));
  since = neapi_timeline_now();
  if (!status)
    status = neapi_experts_exact_gradients(&m->experts, m->in, m->dout, m->quanta.data, gradients);
  neapi_moe_end_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  return status;
}

static int expert_gradients(neap_moe *m, void *gradients)
{
  if (m->options.exact)
    return exact_expert_gradients(m, gradients);
  double since = neapi_timeline_now();
  int status = neapi_experts_gradients(&m->experts, m->in, m->dout, gradients);
  neapi_moe_end_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  return status;
}

/* After expert_gradients, which has reserved the quanta. */
static int exact_router_gradient(neap_moe *m, const void *x, void *drouter)
{
  int64_t from = expert_columns(m);
  int status = neapi_route_maxima(&m->route, x, (double *)m->maxima.data + from);
  if (!status)
    status = agree_on_quanta(m, from, router_columns(m));
  if (!status)
    status = neapi_route_exact_gradient(&m->route, x, (double *)m->quanta.data + from, drouter);
  return status;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* The router's gradients, when all rows are back. */
static int router_backward(neap_moe *m, const void *x, void *drouter)
{
  bool balances = m->options.aux_loss && m->total;
  int status = neapi_route_backward(&m->route, m->dlog.data, balances ? m->shares_grad : NULL);
  if (status)
    return status;
  return m->options.exact ? exact_router_gradient(m, x, drouter)
                          : neapi_route_gradient(&m->route, x, drouter);
}

/* dx = what the experts sent back, in the order of k, and what went through the router. */
static int input_gradient(neap_moe *m, const void *router, void *dx)
{
  int result = m->kernels->combine(m->route.tokens, m->options.top_k, m->options.hidden, NULL,
                                   m->route.position.data, m->out, dx, neapi_stream());
  int status = neapi_kernel_status_of("moe backward", result);
  return status ? status : neapi_route_input_gradient(&m->route, router, dx);
}

static int check_backward(const neap_moe *m, const neap_tensor *x, const neap_tensor *router,
                          const neap_tensor *weights, const neap_tensor *gradients,
                          const neap_tensor *dx, const neap_tensor *drouter)
{
  const char *name = "moe backward";
  int dtype = m->options.dtype, sum_dtype = m->options.exact ? NEAP_F64 : neapi_acc_of(dtype);
  int64_t hidden = m->options.hidden, experts = m->topology->experts, stride = m->experts.stride;
  int status = neapi_moe_require(m, "backward", NEAPI_MOE_GRADS_SENT);
  if (!status)
    status = neapi_moe_require_tokens(m, name, "x", x);
  if (!status)
    status = neapi_moe_require_tokens(m, name, "dx", dx);
  if (!status)
    status =
        neapi_tensor_matrix(name, "router", router, neapi_moe_router_dtype(m), hidden, experts);
  if (!status)
    status = neapi_tensor_matrix(name, "drouter", drouter, sum_dtype, hidden, experts);
  if (!status)
    status = neapi_tensor_matrix(name, "weights", weights, dtype, m->slots, stride);
  if (!status)
    status = neapi_tensor_matrix(name, "gradients", gradients, sum_dtype, m->slots, stride);
  if (!status)
    status = neapi_layout_same(name, "weights are", weights->layout, m->layout);
  return status;
}

int neap_moe_backward(neap_moe *m, const neap_tensor *x, const neap_tensor *router,
                      const neap_tensor *weights, neap_transfer *arriving, neap_tensor *gradients,
                      neap_tensor *dx, neap_tensor *drouter)
{
  NEAPI_NVTX("moe backward");
  int status = check_backward(m, x, router, weights, gradients, dx, drouter);
  if (status)
    return status;
  m->last = NEAPI_MOE_IDLE;
  gradients->layout = m->layout;
  status = acquire_rows(m, neap_tensor_data(x));
  if (!status)
    status = compute_backward(m, neap_tensor_data(weights), arriving);
  if (!status)
    status = expert_gradients(m, neap_tensor_data(gradients));
  if (!status && m->options.hold_combine)
    status = neapi_moe_start_all(m, true, NEAP_SPAN_COMBINE_BACK, m->out, m->dlog.data);
  if (!status)
    status = neapi_moe_wait_for_all_back(m);
  double since = neapi_timeline_now();
  if (!status)
    status = router_backward(m, neap_tensor_data(x), neap_tensor_data(drouter));
  if (!status)
    status = input_gradient(m, neap_tensor_data(router), neap_tensor_data(dx));
  if (m->options.recompute)
    neapi_experts_release(&m->experts);
  if (!status) /* else gradients may still be on their way */
    neapi_moe_release_rows(m);
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE_BACK);
  return status;
}
