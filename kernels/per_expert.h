/* SPDX-License-Identifier: Apache-2.0 */
/*
 * per_expert.h: the experts' operations as a loop of products, one slot after the other: the plain
 * version of the grouped products that a device may do for all slots at once.
 */
#ifndef NEAPI_PER_EXPERT_H
#define NEAPI_PER_EXPERT_H

#include "kernels.h"

#include <stddef.h>

/* What they are made of. */
typedef struct {
  int64_t size, acc_size; /* bytes */
  neapi_kernel_gemm *gemm;
  neapi_kernel_gemm_tn *gemm_tn;
  neapi_kernel_swiglu *swiglu;
  neapi_kernel_swiglu_backward *swiglu_backward;
  neapi_kernel_row_dots *row_dots;
} neapi_expert_ops;

/* One slot's arrays. */
typedef struct {
  int64_t rows, h, f;
  const char *w1, *w2; /* (H, 2F), (F, H) */
  char *in, *out;      /* (rows, H): either may be a gradient */
  char *gate_up, *activation;
} neapi_slot;

/* Slot i's arrays in those of all slots, of reals of so many bytes; weights and out may be NULL. */
static inline neapi_slot neapi_slot_of(int64_t size, const neapi_slots *s, int64_t i,
                                       const void *weights, const void *in, const void *gate_up,
                                       const void *activation, const void *out)
{
  const neapi_batch *b = &s->batches[i];
  int64_t row = b->first * s->h * size, f = b->ffn;
  const char *w1 = weights ? (const char *)weights + i * s->stride * size : NULL;
  neapi_slot slot = {b->rows,
                     s->h,
                     f,
                     w1,
                     w1 ? w1 + 2 * s->h * f * size : NULL,
                     (char *)in + row,
                     out ? (char *)out + row : NULL,
                     (char *)gate_up + 2 * b->hidden_at * size,
                     (char *)activation + b->hidden_at * size};
  return slot;
}

/* Sets hidden_at as kernels.h asks for; returns how many elements the hidden values take. */
static inline int64_t neapi_place_hidden(int64_t count, neapi_batch *batches)
{
  const int64_t FIRST = 8; /* what the first of an F is a multiple of */
  int64_t at = 0;
  for (int64_t i = 0; i < count; i++)
    batches[i].hidden_at = -1;
  for (int64_t i = 0; i < count; i++) {
    if (batches[i].hidden_at >= 0)
      continue;
    at = (at + FIRST - 1) / FIRST * FIRST;
    for (int64_t j = i; j < count; j++)
      if (batches[j].ffn == batches[i].ffn) {
        batches[j].hidden_at = at;
        at += batches[j].rows * batches[j].ffn;
      }
  }
  return at;
}

static inline int neapi_per_expert_forward(const neapi_expert_ops *k, const neapi_slots *slots,
                                           const void *weights, const void *in, void *gate_up,
                                           void *activation, void *out, void *stream)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < slots->count; i++) {
    neapi_slot s = neapi_slot_of(k->size, slots, i, weights, in, gate_up, activation, out);
    int64_t h = s.h, f = s.f;
    if (!s.rows)
      continue;
    status = k->gemm(s.rows, 2 * f, h, s.in, h, 0, s.w1, 2 * f, 0, s.gate_up, 2 * f, 0, stream);
    if (!status)
      status = k->swiglu(s.rows, f, s.gate_up, s.activation, stream);
    if (!status && out)
      status = k->gemm(s.rows, h, f, s.activation, f, 0, s.w2, h, 0, s.out, h, 0, stream);
  }
  return status;
}

static inline int neapi_per_expert_backward(const neapi_expert_ops *k, const neapi_slots *slots,
                                            const void *weights, const void *dout, void *gate_up,
                                            void *activation, void *dactivation, void *din,
                                            void *dlog, void *stream)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < slots->count; i++) {
    neapi_slot s = neapi_slot_of(k->size, slots, i, weights, din, gate_up, activation, dout);
    int64_t h = s.h, f = s.f;
    char *dlogs = (char *)dlog + slots->batches[i].first * k->acc_size;
    if (!s.rows)
      continue;
    status = k->gemm(s.rows, f, h, s.out, h, 0, s.w2, h, 1, dactivation, f, 0, stream);
    if (!status)
      status = k->swiglu(s.rows, f, s.gate_up, s.activation, stream);
    if (!status)
      status = k->row_dots(s.rows, f, dactivation, s.activation, dlogs, stream);
    if (!status)
      status = k->swiglu_backward(s.rows, f, s.gate_up, dactivation, s.gate_up, stream);
    if (!status)
      status = k->gemm(s.rows, h, 2 * f, s.gate_up, 2 * f, 0, s.w1, 2 * f, 1, s.in, h, 0, stream);
  }
  return status;
}

static inline int neapi_per_expert_gradients(const neapi_expert_ops *k, const neapi_slots *slots,
                                             const void *in, const void *dgate_up,
                                             const void *activation, const void *dout,
                                             void *gradients, void *stream)
{
  int status = NEAPI_KERNEL_OK;
  for (int64_t i = 0; !status && i < slots->count; i++) {
    neapi_slot s = neapi_slot_of(k->size, slots, i, NULL, in, dgate_up, activation, dout);
    int64_t h = s.h, f = s.f;
    char *dw1 = (char *)gradients + i * slots->stride * k->acc_size;
    char *dw2 = dw1 + 2 * h * f * k->acc_size;
    if (!s.rows)
      continue;
    status = k->gemm_tn(s.rows, h, 2 * f, s.in, h, s.gate_up, 2 * f, dw1, 2 * f, 0, stream);
    if (!status)
      status = k->gemm_tn(s.rows, f, h, s.activation, f, s.out, h, dw2, h, 0, stream);
  }
  return status;
}

#endif
