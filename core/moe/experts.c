/* SPDX-License-Identifier: Apache-2.0 */
/* The experts of one rank's slots: two products forward, two for inputs and two for weights
 * back. */
#include "moe/experts.h"

#include "base/memory.h"
#include "tensor/tensor.h"

#include <per_expert.h>
#include <string.h>

/* By kind of memory: layers of one thread may be on different devices. */
static _Thread_local neapi_experts_workspace *workspaces[NEAPI_PINNED + 1];

static neapi_experts_workspace *share_workspace(void)
{
  neapi_memory_kind kind = neapi_memory_of_reals();
  neapi_experts_workspace **workspace = &workspaces[kind];
  if (!*workspace)
    *workspace = neapi_alloc_zero(sizeof **workspace, "experts");
  if (!*workspace)
    return NULL;
  (*workspace)->activation.memory = (*workspace)->dactivation.memory = kind;
  for (int i = 0; i < NEAPI_ROWS; i++)
    (*workspace)->rows[i].memory = kind;
  (*workspace)->users++;
  return *workspace;
}

static void leave_workspace(neapi_experts_workspace *workspace)
{
  if (!workspace || --workspace->users)
    return;
  if (workspaces[workspace->dactivation.memory] == workspace)
    workspaces[workspace->dactivation.memory] = NULL;
  neapi_buffer_free(&workspace->activation);
  neapi_buffer_free(&workspace->dactivation);
  for (int i = 0; i < NEAPI_ROWS; i++)
    neapi_buffer_free(&workspace->rows[i]);
  free(workspace);
}

int neapi_experts_open(neapi_experts *x, const neapi_kernels *kernels, int64_t hidden,
                       int32_t count, const int64_t *ffn, int32_t slots)
{
  *x = (neapi_experts){.kernels = kernels, .hidden = hidden, .experts = count, .slots = slots};
  x->gate_up.memory = neapi_memory_of_reals();
  for (int i = 0; i < NEAPI_ROWS; i++)
    x->spare[i].memory = neapi_memory_of_reals();
  x->left.memory = x->right.memory = neapi_memory_of_reals();
  x->ffn = neapi_alloc(count * 8ll, "experts");
  x->columns_at = neapi_alloc(count * 8ll + 8, "experts");
  x->batches = neapi_alloc_zero(slots * (int64_t)sizeof *x->batches, "experts");
  x->workspace = share_workspace();
  if (!x->ffn || !x->columns_at || !x->batches || !x->workspace)
    return NEAP_MEMORY;
  x->one_ffn = count ? ffn[0] : 0;
  x->columns_at[0] = 0;
  for (int32_t e = 0; e < count; e++) {
    x->ffn[e] = ffn[e];
    x->one_ffn = ffn[e] == x->one_ffn ? x->one_ffn : 0;
    x->columns_at[e + 1] = x->columns_at[e] + 2 * hidden + 3 * ffn[e];
    int64_t size = 3 * hidden * ffn[e];
    x->stride = size > x->stride ? size : x->stride;
  }
  return NEAP_OK;
}

void neapi_experts_close(neapi_experts *x)
{
  for (int i = 0; i < NEAPI_ROWS; i++) {
    neapi_experts_release_rows(x, (neapi_rows)i);
    neapi_buffer_free(&x->spare[i]);
  }
  neapi_buffer_free(&x->gate_up);
  leave_workspace(x->workspace);
  neapi_buffer_free(&x->left);
  neapi_buffer_free(&x->right);
  free(x->ffn);
  free(x->columns_at);
  free(x->batches);
}

static int reserve_gate_up(neapi_experts *x)
{
  return neapi_buffer_reserve(&x->gate_up, 2 * x->hidden_values * x->kernels->size, "experts");
}

void neapi_experts_release(neapi_experts *x)
{
  neapi_buffer_free(&x->gate_up);
}

void *neapi_experts_acquire_rows(neapi_experts *x, neapi_rows which, int64_t bytes)
{
  neapi_experts_release_rows(x, which);
  neapi_buffer *shared = &x->workspace->rows[which], *buffer = &x->spare[which];
  if (!x->workspace->taken[which])
    buffer = shared;
  if (neapi_buffer_reserve(buffer, bytes, "experts"))
    return NULL;
  x->workspace->taken[which] = true;
  x->rows[which] = buffer;
  return buffer->data;
}

void neapi_experts_release_rows(neapi_experts *x, neapi_rows which)
{
  if (x->rows[which] && x->rows[which] != &x->spare[which])
    x->workspace->taken[which] = false;
  x->rows[which] = NULL;
}

int neapi_experts_plan(neapi_experts *x, const int32_t *expert_of, const int64_t *rows)
{
  int64_t row = 0, largest = 0;
  for (int32_t i = 0; i < x->slots; i++) {
    int64_t ffn = x->ffn[expert_of[i]], size = rows[i] * ffn;
    x->batches[i] = (neapi_batch){expert_of[i], row, rows[i], ffn, 0};
    row += rows[i];
    largest = size > largest ? size : largest;
  }
  int64_t at = neapi_place_hidden(x->slots, x->batches);
  int64_t element = x->kernels->size;
  x->hidden_values = at;
  int status = reserve_gate_up(x);
  if (!status)
    status = neapi_buffer_reserve(&x->workspace->activation, at * element, "experts");
  if (!status)
    status = neapi_buffer_reserve(&x->workspace->dactivation, largest * element, "experts");
  return status;
}

/* ---- one slot -------------------------------------------------------------------------------- */

static neapi_slot slot_of(const neapi_experts *x, int32_t i, const void *in, const void *out)
{
  neapi_slots slots = {x->slots, x->hidden, x->stride, x->one_ffn, x->batches};
  return neapi_slot_of(x->kernels->size, &slots, i, NULL, in, x->gate_up.data,
                       x->workspace->activation.data, out);
}

static int maxima(const neapi_kernels *kernels, const neapi_slot *s, double *max)
{
  int64_t h = s->h, f = s->f;
  int result = kernels->exact_column_max(s->rows, h, s->in, h, 1, max, neapi_stream());
  if (!result)
    result =
        kernels->exact_column_max(s->rows, 2 * f, s->gate_up, 2 * f, 1, max + h, neapi_stream());
  if (!result)
    result =
        kernels->exact_column_max(s->rows, f, s->activation, f, 1, max + h + 2 * f, neapi_stream());
  if (!result)
    result = kernels->exact_column_max(s->rows, h, s->out, h, 1, max + h + 3 * f, neapi_stream());
  return result;
}

/* product (K, N) = a^T b of a (rows, K) and b (rows, N), exactly. */
static int exact_product(const neapi_kernels *kernels, const neapi_slot *s, int64_t k,
                         const void *a, const double *quantum_a, int64_t n, const void *b,
                         const double *quantum_b, double *left, double *right, double *product)
{
  neapi_memory_zero(neapi_memory_of_reals(), product, k * n * 8);
  int result = kernels->exact_quantise(s->rows, k, a, k, quantum_a, left, neapi_stream());
  if (!result)
    result = kernels->exact_quantise(s->rows, n, b, n, quantum_b, right, neapi_stream());
  if (!result)
    result = kernels->exact_gemm_tn(s->rows, k, n, left, quantum_a, right, quantum_b, product,
                                    neapi_stream());
  return result;
}

static int exact_gradients(const neapi_kernels *kernels, const neapi_slot *s, const double *quantum,
                           double *left, double *right, double *row)
{
  int64_t h = s->h, f = s->f;
  int result = exact_product(kernels, s, h, s->in, quantum, 2 * f, s->gate_up, quantum + h, left,
                             right, row);
  if (!result)
    result = exact_product(kernels, s, f, s->activation, quantum + h + 2 * f, h, s->out,
                           quantum + h + 3 * f, left, right, row + 2 * h * f);
  return result;
}

/* ---- all slots ------------------------------------------------------------------------------- */

/* Slots from to end - 1. */
static neapi_slots take_slots(const neapi_experts *x, int32_t from, int32_t end)
{
  return (neapi_slots){end - from, x->hidden, x->stride, x->one_ffn, x->batches + from};
}

int neapi_experts_forward(neapi_experts *x, int32_t from, int32_t end, const void *weights,
                          const void *in, void *out)
{
  neapi_slots slots = take_slots(x, from, end);
  return neapi_kernel_status_of("moe forward",
                                x->kernels->experts_forward(&slots, weights, in, x->gate_up.data,
                                                            x->workspace->activation.data, out,
                                                            neapi_stream()));
}

int neapi_experts_recompute(neapi_experts *x, int32_t from, int32_t end, const void *weights,
                            const void *in)
{
  int status = reserve_gate_up(x);
  if (status)
    return status;
  neapi_slots slots = take_slots(x, from, end);
  return neapi_kernel_status_of("moe backward",
                                x->kernels->experts_forward(&slots, weights, in, x->gate_up.data,
                                                            x->workspace->activation.data, NULL,
                                                            neapi_stream()));
}

int neapi_experts_backward(neapi_experts *x, int32_t from, int32_t end, const void *weights,
                           const void *dout, void *din, void *dlog)
{
  neapi_slots slots = take_slots(x, from, end);
  return neapi_kernel_status_of(
      "moe backward", x->kernels->experts_backward(
                          &slots, weights, dout, x->gate_up.data, x->workspace->activation.data,
                          x->workspace->dactivation.data, din, dlog, neapi_stream()));
}

int neapi_experts_gradients(neapi_experts *x, const void *in, const void *dout, void *rows)
{
  neapi_slots slots = take_slots(x, 0, x->slots);
  return neapi_kernel_status_of("moe backward",
                                x->kernels->experts_gradients(&slots, in, x->gate_up.data,
                                                              x->workspace->activation.data, dout,
                                                              rows, neapi_stream()));
}

int neapi_experts_maxima(neapi_experts *x, const void *in, const void *dout, double *max)
{
  int result = 0;
  for (int32_t i = 0; !result && i < x->slots; i++) {
    neapi_slot s = slot_of(x, i, in, dout);
    result = s.rows ? maxima(x->kernels, &s, max + x->columns_at[x->batches[i].expert]) : 0;
  }
  return neapi_kernel_status_of("moe backward", result);
}

/* Memory for the quantised factors of the largest batch. */
static int reserve_factors(neapi_experts *x)
{
  int64_t left = 0, right = 0;
  for (int32_t i = 0; i < x->slots; i++) {
    const neapi_batch *b = &x->batches[i];
    int64_t wide = 2 * b->ffn > x->hidden ? 2 * b->ffn : x->hidden;
    int64_t narrow = b->ffn > x->hidden ? b->ffn : x->hidden;
    left = b->rows * narrow > left ? b->rows * narrow : left;
    right = b->rows * wide > right ? b->rows * wide : right;
  }
  int status = neapi_buffer_reserve(&x->left, left * 8, "experts");
  return status ? status : neapi_buffer_reserve(&x->right, right * 8, "experts");
}

int neapi_experts_exact_gradients(neapi_experts *x, const void *in, const void *dout,
                                  const double *quanta, double *rows)
{
  int status = reserve_factors(x), result = 0;
  if (status)
    return status;
  for (int32_t i = 0; !result && i < x->slots; i++) {
    neapi_slot s = slot_of(x, i, in, dout);
    const double *quantum = quanta + x->columns_at[x->batches[i].expert];
    if (s.rows)
      result = exact_gradients(x->kernels, &s, quantum, x->left.data, x->right.data,
                               rows + i * x->stride);
  }
  return neapi_kernel_status_of("moe backward", result);
}
