/* SPDX-License-Identifier: Apache-2.0 */
/* One Mixture-of-Experts layer over the ranks: its life, and the way forward. */
#include "moe/moe.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "split/split.h"

#include <string.h>

/* ---- life ------------------------------------------------------------------------------------ */

static int check_options(const neap_comm *comm, const neap_topology *t, const neap_moe_options *o,
                         const int64_t *ffn)
{
  if (!comm || !t || !o || !ffn)
    return neapi_fail(NEAP_ARGUMENT, "moe: communicator, topology, options or ffn are NULL");
  if (neap_comm_size(comm) != t->ranks)
    return neapi_fail(NEAP_ARGUMENT, "moe: the communicator has %d ranks, the topology %d",
                      neap_comm_size(comm), t->ranks);
  if (o->dtype != NEAP_F32 && o->dtype != NEAP_F64 && o->dtype != NEAP_BF16)
    return neapi_fail(NEAP_ARGUMENT, "moe: dtype is %s; allowed are f32, f64 and bf16",
                      neapi_dtype_name(o->dtype));
  if (o->hidden < 1 || o->hidden > INT32_MAX)
    return neapi_fail(NEAP_ARGUMENT, "moe: hidden is %lld; it must be 1 or more",
                      (long long)o->hidden);
  if (o->top_k < 1 || o->top_k > t->experts)
    return neapi_fail(NEAP_ARGUMENT, "moe: top_k is %d; allowed are 1 to %d, the experts", o->top_k,
                      t->experts);
  if (o->chunks < 1)
    return neapi_fail(NEAP_ARGUMENT, "moe: chunks is %d; it must be 1 or more", o->chunks);
  if (o->scoring != NEAP_SOFTMAX && o->scoring != NEAP_SIGMOID)
    return neapi_fail(NEAP_ARGUMENT, "moe: scoring is %d; allowed are %d, softmax, and %d, sigmoid",
                      o->scoring, NEAP_SOFTMAX, NEAP_SIGMOID);
  if (!(o->aux_loss >= 0 && o->aux_loss < 1e30))
    return neapi_fail(NEAP_ARGUMENT, "moe: aux_loss is %g; it must be 0 or more", o->aux_loss);
  for (int32_t e = 0; e < t->experts; e++)
    if (ffn[e] < 1 || ffn[e] > INT32_MAX)
      return neapi_fail(NEAP_ARGUMENT, "moe: ffn of expert %d is %lld; it must be 1 or more", e,
                        (long long)ffn[e]);
  return neapi_travel_check("moe", o->travel);
}

static int allocate(neap_moe *m)
{
  const neap_topology *t = m->topology;
  const struct {
    void *where;
    int64_t bytes;
  } needs[] = {{&m->load, t->ranks * 8ll * t->experts},
               {&m->gather_counts, t->ranks * 8ll},
               {&m->shares_grad, t->experts * 8ll}};
  for (size_t i = 0; i < sizeof needs / sizeof *needs; i++) {
    void *memory = neapi_alloc_zero(needs[i].bytes, "moe");
    if (!memory)
      return NEAP_MEMORY;
    memcpy(needs[i].where, &memory, sizeof memory);
  }
  for (int32_t r = 0; r < t->ranks; r++)
    m->gather_counts[r] = t->experts;
  return NEAP_OK;
}

int neap_moe_open(neap_comm *comm, neap_topology *topology, const neap_moe_options *options,
                  const int64_t *ffn, neap_moe **out)
{
  int status = check_options(comm, topology, options, ffn);
  if (status)
    return status;
  const neapi_kernels *kernels = neapi_kernels_of(options->dtype);
  if (!kernels)
    return NEAP_ABSENT;
  neap_moe *m = neapi_alloc_zero(sizeof *m, "moe");
  if (!m)
    return NEAP_MEMORY;
  m->comm = comm;
  m->topology = neapi_topology_share(topology);
  m->options = *options;
  m->kernels = kernels;
  m->row_bytes = options->hidden * kernels->size;
  m->received.memory = m->dlog.memory = neapi_memory_of_reals();
  m->maxima.memory = m->quanta.memory = neapi_memory_of_reals();
  m->rank = neap_comm_rank(comm);
  m->slots = topology->first_slot[m->rank + 1] - topology->first_slot[m->rank];
  status = neapi_route_open(&m->route, options, topology->experts);
  m->route.rank = m->rank;
  if (!status)
    status = neapi_experts_open(&m->experts, m->kernels, options->hidden, topology->experts, ffn,
                                m->slots);
  if (!status)
    status =
        neapi_dispatch_open(&m->rows, comm, m->topology, m->kernels->acc_size, options->chunks);
  if (!status)
    status = allocate(m);
  if (status)
    neap_moe_close(m);
  else
    *out = m;
  return status;
}

void neap_moe_close(neap_moe *m)
{
  if (!m)
    return;
  neapi_dispatch_close(&m->rows);
  neapi_route_close(&m->route);
  neapi_experts_close(&m->experts);
  free(m->load);
  free(m->gather_counts);
  free(m->shares_grad);
  neapi_buffer *buffers[] = {&m->received, &m->dlog, &m->maxima, &m->quanta};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    neapi_buffer_free(buffers[i]);
  neap_topology_close(m->topology);
  free(m);
}

int neap_moe_set_travel(neap_moe *m, int travel)
{
  int status = neapi_travel_check("moe", travel);
  if (!status)
    m->options.travel = travel;
  return status;
}

const int64_t *neap_moe_load(const neap_moe *m)
{
  return m->load;
}

const int32_t *neap_moe_choices(neap_moe *m)
{
  return neapi_route_ids(&m->route);
}

double neap_moe_aux_loss(const neap_moe *m)
{
  return m->aux_loss;
}

double *neap_moe_bias(neap_moe *m)
{
  return m->route.bias;
}

int neap_moe_adapt_bias(neap_moe *m, double speed)
{
  int32_t experts = m->topology->experts;
  if (!(speed >= 0 && speed < 1e30))
    return neapi_fail(NEAP_ARGUMENT, "moe: the bias's speed is %g; it must be 0 or more", speed);
  for (int32_t e = 0; e < experts; e++) {
    int64_t choices = 0, mean = m->total * m->options.top_k; /* both times E */
    for (int32_t r = 0; r < m->topology->ranks; r++)
      choices += m->load[(int64_t)r * experts + e] * experts;
    m->route.bias[e] += speed * ((mean > choices) - (mean < choices));
  }
  return NEAP_OK;
}

const int64_t *neap_moe_slot_tokens(const neap_moe *m)
{
  return m->rows.slot_tokens;
}

int neap_moe_cost(const neap_moe *m, neap_moe_costs *out)
{
  *out = m->costs;
  out->sent = m->rows.sent;
  return NEAP_OK;
}

int neapi_moe_router_dtype(const neap_moe *m)
{
  return m->options.router_acc ? neapi_acc_of(m->options.dtype) : m->options.dtype;
}

/* ---- route ----------------------------------------------------------------------------------- */

/* A rank with bad logits says so in its counts, so that all ranks fail together. */
static int check_load(neap_moe *m)
{
  int64_t choices = 0;
  for (int32_t r = 0; r < m->topology->ranks; r++) {
    const int64_t *counts = m->load + (int64_t)r * m->topology->experts;
    if (counts[0] < 0)
      return neapi_fail(NEAP_ARGUMENT,
                        "moe route: token %lld of rank %d has router logits that are not finite",
                        (long long)(-1 - counts[0]), r);
    for (int32_t e = 0; e < m->topology->experts; e++)
      choices += counts[e];
  }
  m->total = choices / m->options.top_k;
  return NEAP_OK;
}

/* The auxiliary loss and its gradient by share of the scores. */
static int balance_loss(neap_moe *m)
{
  int32_t experts = m->topology->experts;
  double *sums = m->shares_grad, tokens = (double)m->total, loss = 0;
  m->aux_loss = 0;
  if (!m->options.aux_loss || !m->total)
    return NEAP_OK;
  int status = neapi_route_probability(&m->route, m->total, sums);
  if (!status)
    status = neap_comm_all_reduce(m->comm, sums, experts, NEAP_F64, NEAP_SUM);
  for (int32_t e = 0; !status && e < experts; e++) {
    int64_t choices = 0;
    for (int32_t r = 0; r < m->topology->ranks; r++)
      choices += m->load[(int64_t)r * experts + e];
    double share = (double)choices / (tokens * m->options.top_k);
    double grad = m->options.aux_loss * experts * share / tokens;
    loss += grad * sums[e];
    m->shares_grad[e] = grad;
  }
  m->aux_loss = loss;
  return status;
}

int neap_moe_set_shards(neap_moe *m, const neap_shards *shards)
{
  if (shards && (shards->topology != m->topology || shards->dtype != m->options.dtype ||
                 shards->slot_size != m->experts.stride))
    return neapi_fail(NEAP_ARGUMENT,
                      "moe: the store has %d experts of up to %lld parameters in "
                      "another topology, type or size than the layer's",
                      shards->experts, (long long)shards->slot_size);
  m->shards = shards;
  return NEAP_OK;
}

int neap_moe_route(neap_moe *m, const neap_tensor *x, const neap_tensor *router)
{
  NEAPI_NVTX("moe route");
  int64_t hidden = m->options.hidden, bad = -1;
  int status = neapi_tensor_matrix("moe route", "x", x, m->options.dtype, NEAPI_ANY, hidden);
  if (!status)
    status = neapi_tensor_matrix("moe route", "router", router, neapi_moe_router_dtype(m), hidden,
                                 m->topology->experts);
  if (status)
    return status;
  double since = neapi_timeline_now();
  neapi_dispatch_drain(&m->rows); /* what a step without its backward has left */
  neapi_moe_release_rows(m);
  m->last = NEAPI_MOE_IDLE;
  status = neapi_route_choose(&m->route, neap_tensor_dim(x, 0), neap_tensor_data(x),
                              neap_tensor_data(router), &bad);
  if (status)
    return status;
  if (bad >= 0)
    m->route.counts[0] = -1 - bad;
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE);
  neapi_timeline_label(NEAP_SPAN_COUNTS, NEAP_TOKENS, -1);
  status = neap_comm_all_gather(m->comm, m->route.counts, m->load, m->gather_counts, NEAP_I64);
  since = neapi_timeline_now();
  if (!status)
    status = check_load(m);
  if (!status)
    status = balance_loss(m);
  neapi_moe_end_span(&since, NEAP_SPAN_ROUTE);
  if (!status)
    m->last = NEAPI_MOE_ROUTED;
  return status;
}

/* ---- dispatch -------------------------------------------------------------------------------- */

static int assign_rows(neap_moe *m, const neap_layout *layout, const neap_split *split)
{
  double begin = neapi_host_begin();
  int status = neapi_dispatch_plan(&m->rows, split);
  if (!status)
    status = neapi_route_assign(&m->route, layout, m->rows.tokens, m->rows.start);
  if (!status)
    status = neapi_experts_plan(&m->experts, layout->expert_of + m->topology->first_slot[m->rank],
                                m->rows.batch);
  neapi_host_end(begin);
  return status;
}

int neap_moe_dispatch(neap_moe *m, const neap_tensor *x, const neap_layout *layout,
                      const neap_split *split)
{
  NEAPI_NVTX("moe dispatch");
  int status = neapi_moe_require(m, "dispatch", NEAPI_MOE_ROUTED);
  if (!status)
    status = neapi_moe_require_tokens(m, "moe dispatch", "x", x);
  if (!status)
    status = neapi_layout_require(layout, m->topology, "moe dispatch");
  if (status)
    return status;
  status = neapi_layout_same("moe dispatch", "the split is", split->layout->hash, layout->hash);
  if (status)
    return status;
  m->layout = layout->hash;
  m->packed = m->options.travel == NEAP_TRAVEL_E4M3;
  double since = neapi_timeline_now();
  status = assign_rows(m, layout, split);
  if (!status)
    status = neapi_moe_place_tokens(m, "moe dispatch", neap_tensor_data(x));
  if (!status)
    status = neapi_moe_start_tokens(m);
  neapi_moe_end_span(&since, NEAP_SPAN_DISPATCH);
  if (!status)
    m->last = NEAPI_MOE_DISPATCHED;
  return status;
}

/* ---- forward --------------------------------------------------------------------------------- */

static int forward(neap_moe *m, int32_t from, int32_t end, const void *weights)
{
  return neapi_experts_forward(&m->experts, from, end, weights, m->in, m->out);
}

static int compute_forward(neap_moe *m, const void *weights, neap_transfer *arriving)
{
  int status = neapi_moe_acquire_out(m);
  for (int32_t c = 0, from, end; !status && c < m->options.chunks; c++) {
    neapi_dispatch_slots(&m->rows, c, &from, &end);
    status = neapi_moe_wait_for(m, c, false);
    if (!status)
      status = neapi_moe_unpack_tokens(m, "moe forward", from, end);
    if (!status)
      status = neapi_moe_compute(m, forward, NEAP_SPAN_EXPERT, c, from, end, weights, arriving);
    if (!status)
      status = neapi_moe_start_chunk(m, c, true, NEAP_SPAN_COMBINE, m->out, NULL);
  }
  return status;
}

int neap_moe_forward(neap_moe *m, const neap_tensor *weights, neap_transfer *arriving,
                     neap_tensor *y)
{
  NEAPI_NVTX("moe forward");
  int status = neapi_moe_require(m, "forward", NEAPI_MOE_DISPATCHED);
  if (!status)
    status = neapi_moe_require_tokens(m, "moe forward", "y", y);
  if (!status)
    status = neapi_tensor_matrix("moe forward", "weights", weights, m->options.dtype, m->slots,
                                 m->experts.stride);
  if (!status)
    status = neapi_layout_same("moe forward", "weights are", weights->layout, m->layout);
  if (status)
    return status;
  m->last = NEAPI_MOE_IDLE;
  status = compute_forward(m, neap_tensor_data(weights), arriving);
  if (!status)
    status = neapi_moe_wait_for_all_back(m);
  if (status)
    return status;
  double since = neapi_timeline_now();
  status = neapi_kernel_status_of(
      "moe forward", m->kernels->combine(m->route.tokens, m->options.top_k, m->options.hidden,
                                         m->route.weights.data, m->route.position.data, m->out,
                                         neap_tensor_data(y), neapi_stream()));
  neapi_moe_end_span(&since, NEAP_SPAN_FINISH);
  neapi_moe_release_rows(m);
  if (m->options.recompute)
    neapi_experts_release(&m->experts);
  if (!status)
    m->last = NEAPI_MOE_COMPUTED;
  return status;
}
