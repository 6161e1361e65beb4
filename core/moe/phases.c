/* SPDX-License-Identifier: Apache-2.0 */
/* What the phases of a layer share: their order, their time, their exchanges. */
#include "moe/moe.h"

static const char *const phase_names[] = {"nothing", "route", "dispatch", "forward",
                                          "backward_dispatch"};

int neapi_moe_require(const neap_moe *m, const char *name, neapi_moe_phase last)
{
  if (m->last == last)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "moe %s: it comes after %s; the last phase was %s", name,
                    phase_names[last], phase_names[m->last]);
}

int neapi_moe_require_tokens(const neap_moe *m, const char *name, const char *argument,
                             const neap_tensor *x)
{
  return neapi_tensor_matrix(name, argument, x, m->options.dtype, m->route.tokens,
                             m->options.hidden);
}

void neapi_moe_end_span(double *since, int id)
{
  double now = neapi_timeline_now();
  neapi_timeline_span(id, -1, *since, now);
  *since = now;
}

void neapi_moe_end_experts(neap_moe *m, double *since, int id, int32_t chunk)
{
  double now = neapi_timeline_now();
  m->costs.experts += now - *since;
  neapi_timeline_span(id, m->options.chunks > 1 ? chunk : -1, *since, now);
  *since = now;
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* Of one rank no rows come from elsewhere: it makes them of its tokens when they are needed. */
static bool makes_rows(const neap_moe *m)
{
  return m->topology->ranks == 1;
}

static int pack_tokens(neap_moe *m, const char *name, const void *x)
{
  int64_t bytes = m->rows.all_rows * neapi_e4m3_bytes(m->options.hidden);
  int status = neapi_buffer_reserve(&m->received, bytes, "moe");
  m->in = NULL;
  if (status)
    return status;
  return neapi_kernel_status_of(
      name, m->kernels->scatter_e4m3(m->route.tokens, m->options.top_k, m->options.hidden,
                                     m->route.position.data, x, m->received.data, neapi_stream()));
}

int neapi_moe_unpack_tokens(neap_moe *m, const char *name, int32_t from, int32_t end)
{
  if (!m->packed || from == end)
    return NEAP_OK;
  if (!m->in)
    m->in = neapi_experts_acquire_rows(&m->experts, NEAPI_ROWS_IN, m->rows.rows * m->row_bytes);
  if (!m->in)
    return NEAP_MEMORY;
  const neapi_batch *batches = m->experts.batches;
  int64_t first = batches[from].first,
          rows = batches[end - 1].first + batches[end - 1].rows - first;
  const char *packed = (char *)m->received.data + first * neapi_e4m3_bytes(m->options.hidden);
  return neapi_kernel_status_of(
      name, m->kernels->rows_from_e4m3(rows, m->options.hidden, packed,
                                       (char *)m->in + first * m->row_bytes, neapi_stream()));
}

int neapi_moe_place_tokens(neap_moe *m, const char *name, const void *x)
{
  int64_t bytes = m->rows.all_rows * m->row_bytes;
  if (m->packed)
    return pack_tokens(m, name, x);
  if (makes_rows(m)) {
    m->in = neapi_experts_acquire_rows(&m->experts, NEAPI_ROWS_IN, bytes);
    if (!m->in)
      return NEAP_MEMORY;
  } else {
    int status = neapi_buffer_reserve(&m->received, bytes, "moe");
    if (status)
      return status;
    m->in = m->received.data;
  }
  return neapi_kernel_status_of(
      name, m->kernels->scatter(m->route.tokens, m->options.top_k, m->options.hidden, NULL,
                                m->route.position.data, x, m->in, neapi_stream()));
}

int neapi_moe_acquire_out(neap_moe *m)
{
  m->out = neapi_experts_acquire_rows(&m->experts, NEAPI_ROWS_OUT, m->rows.all_rows * m->row_bytes);
  return m->out ? NEAP_OK : NEAP_MEMORY;
}

void neapi_moe_release_rows(neap_moe *m)
{
  for (int i = 0; i < NEAPI_ROWS; i++)
    neapi_experts_release_rows(&m->experts, (neapi_rows)i);
  m->out = m->dout = NULL;
  if (makes_rows(m) || m->packed)
    m->in = NULL;
}

/* ---- exchanges ------------------------------------------------------------------------------- */

static int start(neap_moe *m, int32_t chunk, bool back, int id, int64_t row_bytes, void *rows,
                 void *marks)
{
  neapi_timeline_label(id, NEAP_TOKENS, m->options.chunks > 1 ? chunk : -1);
  return neapi_dispatch_start(&m->rows, chunk, back, row_bytes, rows, marks);
}

int neapi_moe_start_tokens(neap_moe *m)
{
  int64_t bytes = m->packed ? neapi_e4m3_bytes(m->options.hidden) : m->row_bytes;
  void *rows = m->packed ? m->received.data : m->in;
  int status = NEAP_OK;
  for (int32_t c = 0; !status && c < m->options.chunks; c++)
    status = start(m, c, false, NEAP_SPAN_DISPATCH, bytes, rows, NULL);
  return status;
}

int neapi_moe_start_chunk(neap_moe *m, int32_t chunk, bool back, int id, void *rows, void *marks)
{
  return start(m, chunk, back, id, m->row_bytes, rows, marks);
}

int neapi_moe_start_all(neap_moe *m, bool back, int id, void *rows, void *marks)
{
  int status = NEAP_OK;
  for (int32_t c = 0; !status && c < m->options.chunks; c++)
    status = neapi_moe_start_chunk(m, c, back, id, rows, marks);
  return status;
}

int neapi_moe_wait_for(neap_moe *m, int32_t chunk, bool back)
{
  return neapi_dispatch_wait(&m->rows, chunk, back);
}

int neapi_moe_wait_for_all_back(neap_moe *m)
{
  int status = NEAP_OK;
  for (int32_t c = 0; !status && c < m->options.chunks; c++)
    status = neapi_moe_wait_for(m, c, true);
  return status;
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* The parameters of a slot's expert: where they are resident, or the slot's row of a buffer. */
static const char *parameters_of(const neap_moe *m, const void *weights, int32_t slot)
{
  const void *own = m->shards ? neapi_shards_own(m->shards, m->experts.batches[slot].expert) : NULL;
  return own ? own : (const char *)weights + slot * m->experts.stride * m->kernels->size;
}

/* Slots from to end - 1, or as many of them as have their parameters one after the other. */
static int32_t end_of_run(const neap_moe *m, const void *weights, int32_t from, int32_t end)
{
  const char *next = parameters_of(m, weights, from);
  int64_t bytes = m->experts.stride * m->kernels->size;
  for (int32_t slot = from + 1; slot < end; slot++) {
    next += bytes;
    if (parameters_of(m, weights, slot) != next)
      return slot;
  }
  return end;
}

int neapi_moe_compute(neap_moe *m, neapi_moe_product *product, int id, int32_t chunk, int32_t from,
                      int32_t end, const void *weights, neap_transfer *arriving)
{
  int status = NEAP_OK;
  while (!status && from < end) {
    int32_t ready = end_of_run(m, weights, from, end);
    if (arriving)
      status = neapi_transfer_wait_slot(arriving, from, &ready);
    double since = neapi_timeline_now();
    if (!status)
      status = product(m, from, ready, parameters_of(m, weights, from));
    neapi_moe_end_experts(m, &since, id, chunk);
    from = ready;
  }
  return status;
}
