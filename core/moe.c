/*
 * One Mixture-of-Experts layer over the ranks.
 *
 * Three arrays of rows (dispatch.h says which row is which token) and what they hold after a phase:
 *
 *                 input            output                 slope
 *   dispatch      rows of tokens
 *   forward       read             expert outputs
 *   backward      read             gradient of input      gradient of output
 */
#include "dispatch.h"
#include "experts.h"
#include "range.h"
#include "route.h"
#include "shards.h"
#include "tensor.h"
#include "timeline.h"

#include <string.h>

typedef enum { IDLE, ROUTED, DISPATCHED, COMPUTED, SLOPES_SENT } phase;
static const char *const phase_names[] = {"nothing", "route", "dispatch", "forward",
                                          "backward_dispatch"};

struct neap_moe {
  neap_comm *comm;
  neap_topology *topology;
  neap_moe_options options;
  const neapi_kernels *kernels;
  int32_t rank, slots; /* slots: of this rank */
  phase last;
  neapi_route route;
  neapi_experts experts;
  neapi_dispatch rows;
  neap_moe_costs costs;
  int64_t *load;          /* [ranks][experts] */
  int64_t *gather_counts; /* [ranks] experts each */
  int64_t total;          /* tokens of all ranks */
  double aux_loss;
  double *slope_of_probs;            /* [experts] gradient of the auxiliary loss */
  neapi_buffer input, output, slope; /* (all_rows, H) */
  neapi_buffer maxima, grids;        /* double: see agree_on_grids */
};

/* ---- life ---------------------------------------------------------------------------------- */

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
  if (!(o->aux_loss >= 0 && o->aux_loss < 1e30))
    return neapi_fail(NEAP_ARGUMENT, "moe: aux_loss is %g; it must be 0 or more", o->aux_loss);
  for (int32_t e = 0; e < t->experts; e++)
    if (ffn[e] < 1 || ffn[e] > INT32_MAX)
      return neapi_fail(NEAP_ARGUMENT, "moe: ffn of expert %d is %lld; it must be 1 or more", e,
                        (long long)ffn[e]);
  return NEAP_OK;
}

static int allocate(neap_moe *m)
{
  const neap_topology *t = m->topology;
  const struct {
    void *where;
    int64_t bytes;
  } needs[] = {{&m->load, t->ranks * 8ll * t->experts},
               {&m->gather_counts, t->ranks * 8ll},
               {&m->slope_of_probs, t->experts * 8ll}};
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
  m->input.place = m->output.place = m->slope.place = neapi_place_of_reals();
  m->maxima.place = m->grids.place = neapi_place_of_reals();
  m->rank = neap_comm_rank(comm);
  m->slots = topology->first_slot[m->rank + 1] - topology->first_slot[m->rank];
  status = neapi_route_open(&m->route, options->dtype, options->hidden, topology->experts,
                            options->top_k, options->renormalise);
  if (!status)
    status = neapi_experts_open(&m->experts, m->kernels, options->hidden, topology->experts, ffn,
                                m->slots);
  if (!status)
    status = neapi_dispatch_open(&m->rows, comm, m->topology, options->hidden * m->kernels->size,
                                 options->chunks);
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
  free(m->slope_of_probs);
  neapi_buffer *buffers[] = {&m->input, &m->output, &m->slope, &m->maxima, &m->grids};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
    neapi_buffer_free(buffers[i]);
  neap_topology_close(m->topology);
  free(m);
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

const int64_t *neap_moe_slot_tokens(const neap_moe *m)
{
  return m->rows.slot_tokens;
}

int neap_moe_cost(const neap_moe *m, neap_moe_costs *out)
{
  *out = m->costs;
  out->flops = m->experts.flops;
  out->sent = m->rows.sent;
  out->sent_inter = m->rows.sent_inter;
  return NEAP_OK;
}

/* ---- phases and time ----------------------------------------------------------------------- */

static int require(const neap_moe *m, const char *name, phase last)
{
  if (m->last == last)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "moe %s: it comes after %s; the last phase was %s", name,
                    phase_names[last], phase_names[m->last]);
}

/* A (T, H) tensor of this step's tokens. */
static int require_tokens(const neap_moe *m, const char *name, const char *argument,
                          const neap_tensor *x)
{
  return neapi_tensor_matrix(name, argument, x, m->options.dtype, m->route.tokens,
                             m->options.hidden);
}

/* Adds the time since *since to an account, and a span to the timeline. */
static void lap(double *since, double *account, int id)
{
  double now = neapi_timeline_now();
  *account += now - *since;
  neapi_timeline_span(id, -1, *since, now);
  *since = now;
}

/* The same for the experts' products of a chunk. */
static void lap_experts(neap_moe *m, double *since, int id, int32_t chunk)
{
  double now = neapi_timeline_now();
  m->costs.experts += now - *since;
  neapi_timeline_span(id, m->options.chunks > 1 ? chunk : -1, *since, now);
  *since = now;
}

/* Adds time to what has been waited; the request has put it on the timeline. */
static void lap_wait(neap_moe *m, double *since)
{
  double now = neapi_timeline_now();
  m->costs.waited += now - *since;
  *since = now;
}

/* ---- route --------------------------------------------------------------------------------- */

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

/* The auxiliary loss and its gradient by probability. */
static int balance_loss(neap_moe *m)
{
  int32_t experts = m->topology->experts;
  double *sums = m->slope_of_probs, tokens = (double)m->total, loss = 0;
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
    double slope = m->options.aux_loss * experts * share / tokens;
    loss += slope * sums[e];
    m->slope_of_probs[e] = slope;
  }
  m->aux_loss = loss;
  return status;
}

int neap_moe_route(neap_moe *m, const neap_tensor *x, const neap_tensor *router)
{
  NEAPI_RANGE("moe route");
  int64_t hidden = m->options.hidden, bad = -1;
  int status = neapi_tensor_matrix("moe route", "x", x, m->options.dtype, NEAPI_ANY, hidden);
  if (!status)
    status = neapi_tensor_matrix("moe route", "router", router, m->options.dtype, hidden,
                                 m->topology->experts);
  if (status)
    return status;
  double since = neapi_timeline_now();
  neapi_dispatch_drain(&m->rows); /* what a step without its backward has left */
  m->last = IDLE;
  status = neapi_route_choose(&m->route, neap_tensor_dim(x, 0), neap_tensor_data(x),
                              neap_tensor_data(router), &bad);
  if (status)
    return status;
  if (bad >= 0)
    m->route.counts[0] = -1 - bad;
  lap(&since, &m->costs.route, NEAP_SPAN_ROUTE);
  neapi_timeline_purpose(NEAP_SPAN_COUNTS, NEAP_TOKENS, -1);
  status = neap_comm_all_gather(m->comm, m->route.counts, m->load, m->gather_counts, NEAP_I64);
  lap_wait(m, &since);
  if (!status)
    status = check_load(m);
  if (!status)
    status = balance_loss(m);
  lap(&since, &m->costs.route, NEAP_SPAN_ROUTE);
  if (!status)
    m->last = ROUTED;
  return status;
}

/* ---- exchanges -------------------------------------------------------------------- */

/* Starts to send a chunk's rows; id: of the span. */
static int start_chunk(neap_moe *m, int32_t chunk, bool back, int id, void *rows)
{
  neapi_timeline_purpose(id, NEAP_TOKENS, m->options.chunks > 1 ? chunk : -1);
  return neapi_dispatch_start(&m->rows, chunk, back, rows);
}

static int start_all(neap_moe *m, bool back, int id, void *rows)
{
  int status = NEAP_OK;
  for (int32_t c = 0; !status && c < m->options.chunks; c++)
    status = start_chunk(m, c, back, id, rows);
  return status;
}

/* Waits for a chunk's rows; adds the time to what has been waited. */
static int wait_for(neap_moe *m, int32_t chunk, bool back)
{
  double since = neap_clock();
  int status = neapi_dispatch_wait(&m->rows, chunk, back);
  lap_wait(m, &since);
  return status;
}

static int wait_for_all_back(neap_moe *m)
{
  int status = NEAP_OK;
  for (int32_t c = 0; !status && c < m->options.chunks; c++)
    status = wait_for(m, c, true);
  return status;
}

/* ---- dispatch ------------------------------------------------------------------------------ */

static int place_tokens(neap_moe *m, const neap_layout *layout, const neap_split *split)
{
  double begin = neapi_host_begin();
  int status = neapi_dispatch_plan(&m->rows, split);
  if (!status)
    status = neapi_route_place(&m->route, layout, m->rows.amount, m->rows.start);
  if (!status)
    status = neapi_experts_plan(&m->experts, layout->expert_of + m->topology->first_slot[m->rank],
                                m->rows.batch);
  neapi_host_end(begin);
  return status;
}

static int reserve_rows(neap_moe *m)
{
  int64_t bytes = m->rows.all_rows * m->rows.row_bytes;
  int status = neapi_buffer_reserve(&m->input, bytes, "moe");
  if (!status)
    status = neapi_buffer_reserve(&m->output, bytes, "moe");
  if (!status)
    status = neapi_buffer_reserve(&m->slope, bytes, "moe");
  return status;
}

/* Copies this rank's tokens to the rows that they were given; slots whose rows follow each other
 * together. */
static int fill_input(neap_moe *m, const char *x)
{
  const int32_t *source = m->route.source.data;
  const int64_t *amount = m->rows.amount, *start = m->rows.start;
  int32_t slots = m->topology->slots;
  int result = 0;
  for (int32_t s = 0, next; !result && s < slots; s = next) {
    int64_t rows = amount[s];
    for (next = s + 1; rows && next < slots && start[next] == start[s] + rows; next++)
      rows += amount[next];
    if (rows)
      result =
          m->kernels->gather(rows, m->options.hidden, source, x,
                             (char *)m->input.data + start[s] * m->rows.row_bytes, neapi_stream());
    source += rows;
  }
  return neapi_kernel_status_of("moe dispatch", result);
}

int neap_moe_dispatch(neap_moe *m, const neap_tensor *x, const neap_layout *layout,
                      const neap_split *split)
{
  NEAPI_RANGE("moe dispatch");
  int status = require(m, "dispatch", ROUTED);
  if (!status)
    status = require_tokens(m, "moe dispatch", "x", x);
  if (!status)
    status = neapi_layout_require(layout, m->topology, "moe dispatch");
  if (status)
    return status;
  double since = neapi_timeline_now();
  status = place_tokens(m, layout, split);
  if (!status)
    status = reserve_rows(m);
  if (!status)
    status = fill_input(m, neap_tensor_data(x));
  if (!status)
    status = start_all(m, false, NEAP_SPAN_DISPATCH, m->input.data);
  lap(&since, &m->costs.route, NEAP_SPAN_DISPATCH);
  if (!status)
    m->last = DISPATCHED;
  return status;
}

/* ---- forward ------------------------------------------------------------------------------- */

/* neapi_experts_forward or neapi_experts_backward. */
typedef int compute(neapi_experts *experts, int32_t from, int32_t end, const void *weights,
                    const void *in, void *out);

/* Slots from to end - 1, each when its parameters have arrived. id, chunk: of the spans. */
static int compute_slots(neap_moe *m, compute *experts, int id, int32_t chunk, int32_t from,
                         int32_t end, const void *weights, neap_transfer *arriving, const void *in,
                         void *out)
{
  int status = NEAP_OK;
  while (!status && from < end) {
    double since = neapi_timeline_now();
    int32_t ready = end;
    if (arriving)
      status = neapi_transfer_need(arriving, from, &ready);
    lap_wait(m, &since);
    if (!status)
      status = experts(&m->experts, from, ready, weights, in, out);
    lap_experts(m, &since, id, chunk);
    from = ready;
  }
  return status;
}

static int compute_forward(neap_moe *m, const void *weights, neap_transfer *arriving)
{
  int status = NEAP_OK;
  for (int32_t c = 0, from, end; !status && c < m->options.chunks; c++) {
    neapi_dispatch_slots(&m->rows, c, &from, &end);
    status = wait_for(m, c, false);
    if (!status)
      status = compute_slots(m, neapi_experts_forward, NEAP_SPAN_EXPERT, c, from, end, weights,
                             arriving, m->input.data, m->output.data);
    if (!status)
      status = start_chunk(m, c, true, NEAP_SPAN_COMBINE, m->output.data);
  }
  return status;
}

int neap_moe_forward(neap_moe *m, const neap_tensor *weights, neap_transfer *arriving,
                     neap_tensor *y)
{
  NEAPI_RANGE("moe forward");
  int status = require(m, "forward", DISPATCHED);
  if (!status)
    status = require_tokens(m, "moe forward", "y", y);
  if (!status)
    status = neapi_tensor_matrix("moe forward", "weights", weights, m->options.dtype, m->slots,
                                 m->experts.stride);
  if (status)
    return status;
  m->last = IDLE;
  status = compute_forward(m, neap_tensor_data(weights), arriving);
  if (!status)
    status = wait_for_all_back(m);
  if (status)
    return status;
  double since = neapi_timeline_now();
  status = neapi_kernel_status_of(
      "moe forward", m->kernels->combine(m->route.tokens, m->options.top_k, m->options.hidden,
                                         m->route.weights.data, m->route.position.data,
                                         m->output.data, neap_tensor_data(y), neapi_stream()));
  lap(&since, &m->costs.route, NEAP_SPAN_FINISH);
  m->costs.rows += m->rows.rows;
  if (m->options.recompute)
    neapi_experts_release(&m->experts);
  if (!status)
    m->last = COMPUTED;
  return status;
}

/* ---- backward ------------------------------------------------------------------------------ */

int neap_moe_backward_dispatch(neap_moe *m, const neap_tensor *dy)
{
  NEAPI_RANGE("moe backward_dispatch");
  int status = require(m, "backward_dispatch", COMPUTED);
  if (!status)
    status = require_tokens(m, "moe backward_dispatch", "dy", dy);
  if (status)
    return status;
  double since = neapi_timeline_now();
  status = neapi_kernel_status_of(
      "moe backward_dispatch",
      m->kernels->combine_backward(m->route.tokens, m->options.top_k, m->options.hidden,
                                   m->route.weights.data, m->route.position.data, m->output.data,
                                   neap_tensor_data(dy), m->slope.data, m->route.dweights.data,
                                   neapi_stream()));
  if (!status)
    status = start_all(m, false, NEAP_SPAN_DISPATCH_BACK, m->slope.data);
  lap(&since, &m->costs.route, NEAP_SPAN_FINISH_BACK);
  m->last = status ? IDLE : SLOPES_SENT;
  return status;
}

/* neapi_experts_recall as a compute. */
static int recall(neapi_experts *experts, int32_t from, int32_t end, const void *weights,
                  const void *in, void *out)
{
  (void)out;
  return neapi_experts_recall(experts, from, end, weights, in);
}

/* Gradients of the experts' inputs, which take the place of their outputs. Hidden values that are
 * computed again are so while the gradients are on their way. */
static int compute_backward(neap_moe *m, const void *weights, neap_transfer *arriving)
{
  int status = NEAP_OK;
  for (int32_t c = 0, from, end; !status && c < m->options.chunks; c++) {
    neapi_dispatch_slots(&m->rows, c, &from, &end);
    if (m->options.recompute)
      status = compute_slots(m, recall, NEAP_SPAN_EXPERT, c, from, end, weights, arriving,
                             m->input.data, NULL);
    if (!status)
      status = wait_for(m, c, false);
    if (!status)
      status = compute_slots(m, neapi_experts_backward, NEAP_SPAN_EXPERT_BACK, c, from, end,
                             weights, arriving, m->slope.data, m->output.data);
    if (!status && !m->options.hold_combine)
      status = start_chunk(m, c, true, NEAP_SPAN_COMBINE_BACK, m->output.data);
  }
  return status;
}

/* Grids that all ranks agree on, for all sums over tokens of this layer: columns of the experts,
 * then those of the router. */
static int agree_on_grids(neap_moe *m, const void *x)
{
  int64_t columns = m->experts.columns_at[m->topology->experts];
  int64_t count = columns + m->options.hidden + m->topology->experts;
  double since = neapi_timeline_now();
  int status = neapi_buffer_reserve(&m->maxima, count * 8, "moe");
  if (!status)
    status = neapi_buffer_reserve(&m->grids, count * 8, "moe");
  if (status)
    return status;
  double *max = m->maxima.data;
  neapi_place_zero(m->maxima.place, max, count * 8);
  status = neapi_experts_maxima(&m->experts, m->input.data, m->slope.data, max);
  if (!status)
    status = neapi_route_maxima(&m->route, x, max + columns);
  lap_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = neap_comm_all_reduce(m->comm, max, count, NEAP_F64, NEAP_MAX);
  lap_wait(m, &since);
  int bits = 26;
  while (m->total > 1ll << (53 - 2 * bits))
    bits--;
  if (status)
    return status;
  return neapi_kernel_status_of(
      "moe backward", m->kernels->exact_grid(count, bits, max, m->grids.data, neapi_stream()));
}

/* All sums over tokens. */
static int exact_gradients(neap_moe *m, const void *x, void *gradients, void *drouter)
{
  int status = agree_on_grids(m, x);
  const double *grids = m->grids.data;
  double since = neapi_timeline_now();
  if (!status)
    status =
        neapi_experts_exact_gradients(&m->experts, m->input.data, m->slope.data, grids, gradients);
  lap_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = neapi_route_exact_gradient(
        &m->route, x, grids + m->experts.columns_at[m->topology->experts], drouter);
  lap(&since, &m->costs.route, NEAP_SPAN_ROUTE_BACK);
  return status;
}

static int plain_gradients(neap_moe *m, const void *x, void *gradients, void *drouter)
{
  double since = neapi_timeline_now();
  int status = neapi_experts_gradients(&m->experts, m->input.data, m->slope.data, gradients);
  lap_experts(m, &since, NEAP_SPAN_EXPERT_BACK, -1);
  if (!status)
    status = neapi_route_gradient(&m->route, x, drouter);
  lap(&since, &m->costs.route, NEAP_SPAN_ROUTE_BACK);
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
  int dtype = m->options.dtype, sum_dtype = m->options.exact ? NEAP_F64 : neapi_stat_of(dtype);
  int64_t hidden = m->options.hidden, experts = m->topology->experts, stride = m->experts.stride;
  int status = require(m, "backward", SLOPES_SENT);
  if (!status)
    status = require_tokens(m, name, "x", x);
  if (!status)
    status = require_tokens(m, name, "dx", dx);
  if (!status)
    status = neapi_tensor_matrix(name, "router", router, dtype, hidden, experts);
  if (!status)
    status = neapi_tensor_matrix(name, "drouter", drouter, sum_dtype, hidden, experts);
  if (!status)
    status = neapi_tensor_matrix(name, "weights", weights, dtype, m->slots, stride);
  if (!status)
    status = neapi_tensor_matrix(name, "gradients", gradients, sum_dtype, m->slots, stride);
  return status;
}

int neap_moe_backward(neap_moe *m, const neap_tensor *x, const neap_tensor *router,
                      const neap_tensor *weights, neap_transfer *arriving, neap_tensor *gradients,
                      neap_tensor *dx, neap_tensor *drouter)
{
  NEAPI_RANGE("moe backward");
  int status = check_backward(m, x, router, weights, gradients, dx, drouter);
  if (status)
    return status;
  m->last = IDLE;
  double since = neapi_timeline_now();
  bool balances = m->options.aux_loss && m->total;
  status = neapi_route_backward(&m->route, balances ? m->slope_of_probs : NULL);
  lap(&since, &m->costs.route, NEAP_SPAN_ROUTE_BACK);
  if (!status)
    status = compute_backward(m, neap_tensor_data(weights), arriving);
  if (!status)
    status = (m->options.exact ? exact_gradients : plain_gradients)(
        m, neap_tensor_data(x), neap_tensor_data(gradients), neap_tensor_data(drouter));
  if (!status && m->options.hold_combine)
    status = start_all(m, true, NEAP_SPAN_COMBINE_BACK, m->output.data);
  if (!status)
    status = wait_for_all_back(m);
  since = neapi_timeline_now();
  if (!status)
    status = input_gradient(m, neap_tensor_data(router), neap_tensor_data(dx));
  if (m->options.recompute)
    neapi_experts_release(&m->experts);
  lap(&since, &m->costs.route, NEAP_SPAN_ROUTE_BACK);
  return status;
}
