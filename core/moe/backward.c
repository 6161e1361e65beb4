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
  m->dout = neapi_experts_acquire_dout(&m->experts, m->rows.all_rows * m->rows.row_bytes);
  if (!m->dout)
    return NEAP_MEMORY;
  status = neapi_kernel_status_of(
      "moe backward_dispatch",
      m->kernels->combine_backward(m->route.tokens, m->options.top_k, m->options.hidden,
                                   m->route.weights.data, m->route.position.data, m->output.data,
                                   neap_tensor_data(dy), m->dout, m->route.dweights.data,
                                   neapi_stream()));
  if (!status)
    status = neapi_moe_start_all(m, false, NEAP_SPAN_DISPATCH_BACK, m->dout);
  neapi_moe_end_span(&since, NEAP_SPAN_FINISH_BACK);
  m->last = status ? NEAPI_MOE_IDLE : NEAPI_MOE_GRADS_SENT;
  return status;
}

/* neapi_experts_recompute as a neapi_moe_product. */
static int recompute(neapi_experts *experts, int32_t from, int32_t end, const void *weights,
                     const void *in, void *out)
{
  (void)out;
  return neapi_experts_recompute(experts, from, end, weights, in);
}

/* Gradients of the experts' inputs, which overwrite their outputs. Hidden values that are
 * computed again are so while the gradients are on their way. */
static int compute_backward(neap_moe *m, const void *weights, neap_transfer *arriving)
{
  int status = NEAP_OK;
  for (int32_t c = 0, from, end; !status && c < m->options.chunks; c++) {
    neapi_dispatch_slots(&m->rows, c, &from, &end);
    if (m->options.recompute)
      status = neapi_moe_compute(m, recompute, NEAP_SPAN_EXPERT, c, from, end, weights, arriving,
                                 m->input.data, NULL);
    if (!status)
      status = neapi_moe_wait_for(m, c, false);
    if (!status)
      status = neapi_moe_compute(m, neapi_experts_backward, NEAP_SPAN_EXPERT_BACK, c, from, end,
                                 weights, arriving, m->dout, m->output.data);
    if (!status && !m->options.hold_combine)
      status = neapi_moe_start_chunk(m, c, true, NEAP_SPAN_COMBINE_BACK, m->output.data);
  }
  return status;
}

/* Grids that all ranks agree on, for all sums over tokens of this layer: columns of the experts,
 * then those of the router. */
static int agree_on_quanta(neap_moe *m, const void *x)
{
  int64_t columns = m->experts.columns_at[m->topology->experts];
  int64_t count = columns + m->options.hidden + m->topology->experts;
  double since = neapi_timeline_now();
  int status = neapi_buffer_reserve(&m->maxima, count * 8, "moe");
  if (!status)
    status = neapi_buffer_reserve(&m->quanta, count * 8, "moe");
  if (status)
    return status;
  double *max = m->maxima.data;
  neapi_memory_zero(m->maxima.memory, max, count * 8);
  status = neapi_experts_maxima(&m->experts, m->input.data, m->dout, max);
  if (!status)
    status = neapi_route_maxima(&m->route, x, max + columns);
  neapi_moe_end_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = neap_comm_all_reduce(m->comm, max, count, NEAP_F64, NEAP_MAX);
  int bits = 26;
  while (m->total > 1ll << (53 - 2 * bits))
    bits--;
  if (status)
    return status;
  return neapi_kernel_status_of(
      "moe backward", m->kernels->exact_quantum(count, bits, max, m->quanta.data, neapi_stream()));
}

/* All sums over tokens. */
static int exact_gradients(neap_moe *m, const void *x, void *gradients, void *drouter)
{
  int status = agree_on_quanta(m, x);
  const double *quanta = m->quanta.data;
  double since = neapi_timeline_now();
  if (!status)
    status = neapi_experts_exact_gradients(&m->experts, m->input.data, m->dout, quanta, gradients);
  neapi_moe_end_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = neapi_route_exact_gradient(
        &m->route, x, quanta + m->experts.columns_at[m->topology->experts], drouter);
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE_BACK);
  return status;
}

static int plain_gradients(neap_moe *m, const void *x, void *gradients, void *drouter)
{
  double since = neapi_timeline_now();
  int status = neapi_experts_gradients(&m->experts, m->input.data, m->dout, gradients);
  neapi_moe_end_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = neapi_route_gradient(&m->route, x, drouter);
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE_BACK);
  return status;
}

/* dx = what the experts sent back, in the order of k, and what went through the router. */
static int input_gradient(neap_moe *m, const void *router, void *dx)
{
  const neapi_kernels *k = m->kernels;
  int64_t t = m->route.tokens, h = m->options.hidden, e = m->topology->experts;
  int result = k->combine(t, m->options.top_k, h, NULL, m->route.position.data, m->output.data, dx,
                          neapi_stream());
  if (!result)
    result = k->gemm(t, h, e, m->route.logits.data, e, 0, router, e, 1, dx, h, 1, neapi_stream());
  return neapi_kernel_status_of("moe backward", result);
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
    status = neapi_tensor_matrix(name, "router", router, dtype, hidden, experts);
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
  double since = neapi_timeline_now();
  bool balances = m->options.aux_loss && m->total;
  status = neapi_route_backward(&m->route, balances ? m->probs_grad : NULL);
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE_BACK);
  if (!status)
    status = compute_backward(m, neap_tensor_data(weights), arriving);
  if (!status)
    status = (m->options.exact ? exact_gradients : plain_gradients)(
        m, neap_tensor_data(x), neap_tensor_data(gradients), neap_tensor_data(drouter));
  if (!status && m->options.hold_combine)
    status = neapi_moe_start_all(m, true, NEAP_SPAN_COMBINE_BACK, m->output.data);
  if (!status)
    status = neapi_moe_wait_for_all_back(m);
  since = neapi_timeline_now();
  if (!status)
    status = input_gradient(m, neap_tensor_data(router), neap_tensor_data(dx));
  if (m->options.recompute)
    neapi_experts_release(&m->experts);
  if (!status) /* else gradients may still be on their way */
    neapi_experts_release_dout(&m->experts);
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE_BACK);
  return status;
}
