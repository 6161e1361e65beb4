/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank calls, as transports compare it between ranks and name it in errors. */
#ifndef NEAP_CALL_H
#define NEAP_CALL_H

#include "base/status.h"

#include <stdbool.h>

typedef enum {
  NEAPI_BARRIER,
  NEAPI_BROADCAST,
  NEAPI_ALL_REDUCE,
  NEAPI_ALL_GATHER,
  NEAPI_REDUCE_SCATTER,
  NEAPI_ALL_TO_ALL,
  NEAPI_EXCHANGE,
  NEAPI_SPLIT,
  NEAPI_DUPLICATE,
  NEAPI_KINDS
} neapi_kind;

typedef struct {
  int32_t kind;
  int32_t dtype;  /* -1: plain bytes */
  int32_t detail; /* root of a broadcast, operation of a reduction, else 0 */
  int64_t bytes;  /* of the whole operation; of all-to-all and exchange: what this rank sends */
  int64_t number; /* operations of this communicator before this one */
  int32_t gpu;    /* of this rank's buffers: 0 is host memory, else the ordinal + 1 */
  int64_t step;   /* of the training, as its starter said; -1: none */
  int32_t comm;   /* number of the communicator among those of its rank, the same on all ranks */
  int32_t layer;  /* that its starter was at; -1: none */
  int32_t phase;  /* what it is for: a span's id; -1: not known */
} neapi_call;

/* True if two ranks may make these calls at the same time. */
bool neapi_call_agrees(const neapi_call *a, const neapi_call *b);
/* "broadcast of 400 bytes from root 0"; text[NEAPI_CALL_TEXT]. Returns text. */
enum { NEAPI_CALL_TEXT = 96 };
const char *neapi_call_text(const neapi_call *call, char *text);
/* "all_reduce" */
const char *neapi_kind_name(int32_t kind);

#endif
