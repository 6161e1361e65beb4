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

/* ---- exchanges ------------------------------------------------------------------------------- */

int neapi_moe_start_chunk(neap_moe *m, int32_t chunk, bool back, int id, void *rows)
{
  neapi_timeline_label(id, NEAP_TOKENS, m->options.chunks > 1 ? chunk : -1);
  return neapi_dispatch_start(&m->rows, chunk, back, rows);
}

int neapi_moe_start_all(neap_moe *m, bool back, int id, void *rows)
{
  int status = NEAP_OK;
  for (int32_t c = 0; !status && c < m->options.chunks; c++)
    status = neapi_moe_start_chunk(m, c, back, id, rows);
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

int neapi_moe_compute(neap_moe *m, neapi_moe_product *product, int id, int32_t chunk, int32_t from,
                      int32_t end, const void *weights, neap_transfer *arriving, const void *in,
                      void *out)
{
  int status = NEAP_OK;
  while (!status && from < end) {
    int32_t ready = end;
    if (arriving)
      status = neapi_transfer_wait_slot(arriving, from, &ready);
    double since = neapi_timeline_now();
    if (!status)
      status = product(&m->experts, from, ready, weights, in, out);
    neapi_moe_end_experts(m, &since, id, chunk);
    from = ready;
  }
  return status;
}
