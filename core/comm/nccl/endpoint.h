/* SPDX-License-Identifier: Apache-2.0 */
/* A rank's end of a communicator of the transport nccl, for its two files. */
#ifndef NEAP_NCCL_ENDPOINT_H
#define NEAP_NCCL_ENDPOINT_H

#include "comm/nccl/library.h"
#include "comm/transport.h"

#include <pthread.h>

/* An operation on GPU memory that was begun. */
typedef struct {
  neapi_call call;
  double begun;            /* when */
  neapi_stream_event *end; /* where it ends on its stream */
} neapi_nccl_operation;

struct neapi_endpoint {
  const nccl_functions *nccl; /* NULL where this is the only rank */
  const neapi_transport *by;  /* of the next */
  neapi_endpoint *host;       /* the same ranks, for host memory */
  int32_t rank, size;
  int32_t gpu;  /* ordinal */
  double limit; /* seconds that an operation may take; 0: any */
  neapi_endpoint *next;
  pthread_mutex_t lock; /* of what follows */
  nccl_comm *comm;      /* NULL: there is one rank, or it failed */
  neapi_call starting;  /* what NCCL is being called for */
  neapi_nccl_operation latest;
  neapi_nccl_operation watched; /* an earlier one, until it is done */
  bool failed;
  char failure[600];
};

/* The endpoint fails with this operation, and NCCL's communicator is aborted, so that what waits on
 * the GPU gives up. The endpoint is locked. */
void neapi_nccl_fail(neapi_endpoint *endpoint, const neapi_call *call, const char *what);
void neapi_nccl_fail_error(neapi_endpoint *endpoint, const neapi_call *call, int error);
/* If the operation that is watched is done, the latest one is watched instead. */
void neapi_nccl_go_on(neapi_endpoint *endpoint);

/* Looks after the endpoint from a thread of its own, until unwatch returns. */
int neapi_nccl_watch(neapi_endpoint *endpoint);
void neapi_nccl_unwatch(neapi_endpoint *endpoint);

#endif
