/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One Mixture-of-Experts layer over the ranks: its state, and what its phases share. moe.c has the
 * way forward, backward.c the way back.
 *
 * Three arrays of rows (dispatch.h says which row is which token), and what they hold when:
 *
 *                        in               out                  dout
 *   dispatch, forward    rows of tokens   expert outputs
 *   backward             rows of tokens   gradient of in       gradient of outputs
 *
 * Between forward and backward a layer keeps in, as it came from other ranks (one rank alone makes
 * it again), and its experts' gate and up (experts.h); the rest is memory that layers share. Tokens
 * that travel in FP8 are kept so, those of this rank's own too, and in is made of them where it is
 * needed.
 * What the router needs of the outputs comes from the experts' backward as dlog (kernels.h).
 */
#ifndef NEAP_MOE_H
#define NEAP_MOE_H

#include "base/nvtx.h"
#include "device/timeline.h"
#include "moe/dispatch.h"
#include "moe/experts.h"
#include "moe/route.h"
#include "moe/shards.h"
#include "tensor/tensor.h"

/* The last phase that was done. */
typedef enum {
  NEAPI_MOE_IDLE,
  NEAPI_MOE_ROUTED,
  NEAPI_MOE_DISPATCHED,
  NEAPI_MOE_COMPUTED,
  NEAPI_MOE_GRADS_SENT
} neapi_moe_phase;

struct neap_moe {
  neap_comm *comm;
  const neap_shards *shards; /* NULL, or where experts may be resident */
  neap_topology *topology;
  neap_moe_options options;
  const neapi_kernels *kernels;
  int64_t row_bytes;   /* of a row of in, out and dout */
  int32_t rank, slots; /* slots: of this rank */
  neapi_moe_phase last;
  uint64_t layout; /* hash of the one that the last dispatch was by */
  bool packed;     /* its tokens travelled in FP8 */
  neapi_route route;
  neapi_experts experts;
  neapi_dispatch rows;
  neap_moe_costs costs;
  int64_t *load;          /* [ranks][experts] */
  int64_t *gather_counts; /* [ranks] experts each */
  int64_t total;          /* tokens of all ranks */
  double aux_loss;
  double *shares_grad;         /* [experts] gradient of the auxiliary loss */
  void *in, *out, *dout;       /* (all_rows, H); NULL: not now */
  neapi_buffer received;       /* in, where it is kept, or (all_rows) in FP8 */
  neapi_buffer dlog;           /* (all_rows) acc */
  neapi_buffer maxima, quanta; /* double: see agree_on_quanta */
};

/* Fails unless the last phase was this one; name: of the phase that comes next. */
int neapi_moe_require(const neap_moe *m, const char *name, neapi_moe_phase last);
/* Fails unless x is a (T, H) tensor of this step's tokens. */
int neapi_moe_require_tokens(const neap_moe *m, const char *name, const char *argument,
                             const neap_tensor *x);

/* The dtype of the router's parameters. */
int neapi_moe_router_dtype(const neap_moe *m);

/* Put a span from *since, which becomes now, on the timeline: any, or one of the experts' products
 * for a chunk, whose time is also added to costs. */
void neapi_moe_end_span(double *since, int id);
void neapi_moe_end_experts(neap_moe *m, double *since, int id, int32_t chunk);

/* Puts this rank's tokens into the rows that their choices were given: into in, whose memory it
 * acquires, or in FP8 beside it. */
int neapi_moe_place_tokens(neap_moe *m, const char *name, const void *x);
/* Makes in of what has come in FP8 for slots from to end - 1; else does nothing. */
int neapi_moe_unpack_tokens(neap_moe *m, const char *name, int32_t from, int32_t end);
/* Acquires memory for out. */
int neapi_moe_acquire_out(neap_moe *m);
/* Gives back what is shared with other layers, when nothing is on its way to or from it. */
void neapi_moe_release_rows(neap_moe *m);

/* Start to send the tokens as they were placed. */
int neapi_moe_start_tokens(neap_moe *m);
/* Start to send rows, of a chunk or of all, and marks with them, unless NULL; id: of the spans.
 * back: to where their tokens are. */
int neapi_moe_start_chunk(neap_moe *m, int32_t chunk, bool back, int id, void *rows, void *marks);
int neapi_moe_start_all(neap_moe *m, bool back, int id, void *rows, void *marks);
/* Wait for a chunk's rows, or for those of all chunks to come back. */
int neapi_moe_wait_for(neap_moe *m, int32_t chunk, bool back);
int neapi_moe_wait_for_all_back(neap_moe *m);

/* What is computed for slots from to end - 1; weights: the first one's parameters. */
typedef int neapi_moe_product(neap_moe *m, int32_t from, int32_t end, const void *weights);
/* Slots from to end - 1, each when its parameters have arrived. id, chunk: of the spans. */
int neapi_moe_compute(neap_moe *m, neapi_moe_product *product, int id, int32_t chunk, int32_t from,
                      int32_t end, const void *weights, neap_transfer *arriving);

#endif
