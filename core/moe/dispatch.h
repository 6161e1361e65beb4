/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of a layer's tokens on one rank, and their exchange with the other ranks.
 *
 * Rows are numbered so that no token is copied twice. Rows 0 to R - 1 are what this rank's slots
 * compute, slot by slot, within a slot by source rank and token: a message from each source for
 * each slot lands where it is needed, and the rank's own tokens are put there at once. Rows R on
 * are its tokens that are computed elsewhere, by slot. The same numbers serve all four exchanges of
 * a step: inputs out, outputs back, gradients of outputs out, gradients of inputs back.
 */
#ifndef NEAP_DISPATCH_H
#define NEAP_DISPATCH_H

#include "device/buffer.h"
#include "layout/layout.h"

/* Rows that travel between this rank and another, in one exchange each way. */
typedef struct {
  int64_t row, rows;
  int32_t peer, chunk;
} neapi_dispatch_message;

typedef struct {
  neap_comm *comm;
  neap_topology *topology;
  int32_t rank, slots, chunks; /* slots: of this rank */
  int64_t mark_bytes;
  int64_t *tokens;                  /* [S] this rank's tokens to every slot */
  int64_t *column;                  /* [ranks][slots] every rank's tokens to this rank's slots */
  int64_t *slot_tokens;             /* [S] */
  int64_t *start;                   /* [S] first row of this rank's tokens for a slot */
  int64_t *batch;                   /* [slots] rows of a slot */
  int64_t rows;                     /* R */
  int64_t all_rows;                 /* R and the tokens that are computed elsewhere */
  neapi_dispatch_message *sends;    /* [S] sent by this rank, by slot */
  neapi_dispatch_message *receives; /* [slots * ranks] received, by slot and rank */
  int64_t send_count, receive_count;
  neap_message *send, *recv; /* of one exchange */
  neap_request **requests;   /* [2][chunks]: to the experts, and back */
  int64_t sent;              /* bytes so far, to other ranks */
} neapi_dispatch;

int neapi_dispatch_open(neapi_dispatch *dispatch, neap_comm *comm, neap_topology *topology,
                        int64_t mark_bytes, int32_t chunks);
/* Waits for exchanges under way. */
void neapi_dispatch_close(neapi_dispatch *dispatch);
void neapi_dispatch_drain(neapi_dispatch *dispatch);

/* Numbers the rows that the split asks for. */
int neapi_dispatch_plan(neapi_dispatch *dispatch, const neap_split *split);

/* This rank's slots of a chunk: from to end - 1. */
void neapi_dispatch_slots(const neapi_dispatch *dispatch, int32_t chunk, int32_t *from,
                          int32_t *end);
/* Starts to send a chunk's rows to the experts' ranks, or with back to where they came from.
 * rows (all_rows, row_bytes). marks (all_rows, mark_bytes) travel with them, unless NULL. */
int neapi_dispatch_start(neapi_dispatch *dispatch, int32_t chunk, bool back, int64_t row_bytes,
                         void *rows, void *marks);
int neapi_dispatch_wait(neapi_dispatch *dispatch, int32_t chunk, bool back);

#endif
