/* SPDX-License-Identifier: Apache-2.0 */
/* The experts' products on one rank: rows in, rows out, and their gradients. */
#ifndef NEAP_EXPERTS_H
#define NEAP_EXPERTS_H

#include "device/buffer.h"

#include <kernels.h>
#include <stdbool.h>

/* Rows, (all rows, H), that a layer has for a while: what goes into the experts, what comes out or
 * the gradient of what goes in, and the gradient of what comes out. */
typedef enum { NEAPI_ROWS_IN, NEAPI_ROWS_OUT, NEAPI_ROWS_DOUT, NEAPI_ROWS } neapi_rows;

/* What a layer needs only while it computes: one for all layers of a thread. */
typedef struct {
  int32_t users;
  neapi_buffer activation;       /* per batch (rows, F) */
  neapi_buffer dactivation;      /* (rows, F) of one batch: gradient of activation */
  neapi_buffer rows[NEAPI_ROWS]; /* of one layer at a time */
  bool taken[NEAPI_ROWS];        /* rows are some layer's */
} neapi_experts_workspace;

/* Parameters of an expert: W1 (H, 2F), then W2 (F, H). Weights and gradients of slots: (slots,
 * stride), one expert per row. */
typedef struct {
  const neapi_kernels *kernels;
  int64_t hidden, stride; /* H; parameters of the largest expert */
  int64_t one_ffn;        /* F of all experts; 0: they differ */
  int32_t experts, slots;
  int64_t *ffn;          /* [experts] */
  int64_t *columns_at;   /* [experts + 1] where an expert's columns start in maxima */
  neapi_batch *batches;  /* [slots] */
  int64_t hidden_values; /* of all batches: rows x F, and gaps between those of one F and another */
  neapi_buffer gate_up;  /* per batch (rows, 2F); after backward its gradient */
  neapi_experts_workspace *workspace;
  neapi_buffer *rows[NEAPI_ROWS]; /* acquired by this layer; NULL: none */
  neapi_buffer spare[NEAPI_ROWS]; /* its rows while another layer has the workspace's */
  neapi_buffer left, right; /* (rows, columns) double: quantised factors of a weight gradient */
} neapi_experts;

int neapi_experts_open(neapi_experts *experts, const neapi_kernels *kernels, int64_t hidden,
                       int32_t count, const int64_t *ffn, int32_t slots);
void neapi_experts_close(neapi_experts *experts);

/* Sets the batches: rows[slots] of expert_of[slots], one after the other. */
int neapi_experts_plan(neapi_experts *experts, const int32_t *expert_of, const int64_t *rows);

/* Slots from to end - 1. in, out: (all rows, H); weights: (slots, stride). */
int neapi_experts_forward(neapi_experts *experts, int32_t from, int32_t end, const void *weights,
                          const void *in, void *out);
/* Frees what forward has left for backward; recompute makes it again, for slots from to end - 1,
 * from what forward got: two thirds of its work. */
void neapi_experts_release(neapi_experts *experts);
int neapi_experts_recompute(neapi_experts *experts, int32_t from, int32_t end, const void *weights,
                            const void *in);
/* Memory for so many bytes of rows until they are released: that of all layers of the thread, since
 * they compute one after the other, or if one has it just then, another. NULL: reported. */
void *neapi_experts_acquire_rows(neapi_experts *experts, neapi_rows which, int64_t bytes);
void neapi_experts_release_rows(neapi_experts *experts, neapi_rows which);
/* din = gradient of in for dout; dlog (all rows) acc: as in kernels.h. */
int neapi_experts_backward(neapi_experts *experts, int32_t from, int32_t end, const void *weights,
                           const void *dout, void *din, void *dlog);
/* Gradients (slots, stride) acc of the weights of all slots with rows, right after backward; other
 * rows are left alone. */
int neapi_experts_gradients(neapi_experts *experts, const void *in, const void *dout,
                            void *gradients);

/* The same exactly, in double: first each column's largest magnitude is added to maxima, where
 * expert e has H (in), 2F (gradient of gate and up), F (activation) and H (dout) columns; then,
 * with quanta made of the maxima over all ranks, the products. */
int neapi_experts_maxima(neapi_experts *experts, const void *in, const void *dout, double *maxima);
int neapi_experts_exact_gradients(neapi_experts *experts, const void *in, const void *dout,
                                  const double *quanta, double *gradients);

#endif
