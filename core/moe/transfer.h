/* SPDX-License-Identifier: Apache-2.0 */
/* What unshard, reduce and refresh of a shard store have in common: one grouped exchange, or one
 * per chunk, and what follows when all has arrived. */
#ifndef NEAP_TRANSFER_H
#define NEAP_TRANSFER_H

#include "base/memory.h"
#include "moe/shards.h"

/* A growing list of messages. */
typedef struct {
  neapi_buffer buffer;
  int64_t count;
} neapi_messages;

/* Rows of the slots' buffer. from == to: what has come for it in FP8 becomes the row. */
typedef struct {
  int64_t from, to;
  int32_t expert;
} row_copy;

struct neap_transfer {
  neap_shards *shards;
  neap_transfer *next;
  neapi_buffer requests; /* neap_request *[exchanges]; of unshard: the c-th brings the c-th chunk of
                            the slots */
  int32_t exchanges, arrived; /* 0 of them: nothing has to move */
  neapi_messages send, recv;  /* of one chunk */
  row_copy *copies;           /* [slots] of unshard, by to */
  int32_t copy_count, copied;
  char *rows;    /* of unshard: the slots' buffer */
  int32_t ready; /* of an unshard of changes: slots before the first changed one */
  int stream;    /* NEAP_UNSHARD, also of a refresh; NEAP_LATE or NEAP_REDUCE */
  bool accumulates;
  int (*finish)(neap_transfer *transfer); /* once all has arrived */
  int failed;                             /* copies within this rank */
  neapi_buffer terms;   /* [S] const void *: what an expert's range is the sum of, by expert */
  int32_t *term_first;  /* [experts + 1] */
  neapi_buffer staging; /* what has come from other ranks; of unshard: rows in FP8 */
};

/* A transfer of at most so many exchanges from the idle ones, or a new one; NULL: no memory. */
neap_transfer *neapi_transfer_acquire(neap_shards *shards, int32_t exchanges);
/* Hands out a transfer that was started, or takes it back. Returns status. */
int neapi_transfer_started(neap_transfer *transfer, int status, neap_transfer **out);
/* Starts the exchange of what is listed as the transfer's next chunk; counts what is sent in total
 * and inter. id, chunk: of the span. */
int neapi_transfer_exchange(neap_transfer *transfer, int id, int32_t chunk, int64_t *total,
                            int64_t *inter);
/* Waits for the next exchange. */
int neapi_transfer_wait_next(neap_transfer *transfer);

/* Empties a list, which gets memory for count messages. */
int neapi_messages_reserve(neapi_messages *list, int64_t count);
/* Adds a message, unless it is of 0 bytes. */
void neapi_messages_add(neapi_messages *list, void *data, int64_t bytes, int32_t peer);

#endif
