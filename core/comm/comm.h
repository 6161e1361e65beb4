/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a communicator, for the files of this folder. */
#ifndef NEAP_COMM_H
#define NEAP_COMM_H

#include "comm/flight.h"
#include "comm/transport.h"
#include "device/timeline.h"

#include <pthread.h>

struct neap_comm {
  const neapi_transport *transport;
  neapi_endpoint *endpoint;
  int32_t rank, size;
  neapi_flight *flight;   /* shared by the communicators of a rank */
  int32_t number;         /* among them */
  int32_t references;     /* atomic: the handle and its requests */
  int64_t bytes_sent;     /* atomic */
  pthread_mutex_t lock;   /* of what follows */
  pthread_cond_t work;    /* the progress thread has something to do */
  pthread_cond_t changed; /* an operation is done */
  neap_request *head, *tail;
  bool busy;     /* an operation runs */
  bool threaded; /* the progress thread exists */
  bool closing;
  pthread_t thread;
  /* Of the running operation. */
  int64_t operations;           /* begun so far */
  neapi_gpu_stream *gpu_stream; /* of operations on a GPU; NULL before the first */
  int32_t stream_gpu;           /* its ordinal */
  void *scratch[2];             /* in host memory, on the GPU */
  int64_t scratch_bytes[2];
  neap_message *send, *recv; /* [size] each */
  const void **sources;      /* [size] */
};

/* One operation, from its start until it has been waited for. */
struct neap_request {
  neap_comm *comm;
  neap_request *next;
  neapi_call call;
  neapi_span_label label;
  void *data;        /* broadcast, all_reduce: the buffer; split: the neapi_endpoint ** to fill */
  const void *input; /* reduce_scatter */
  int64_t count;     /* all_reduce: elements; split: colour */
  neapi_stream_event
      *event;      /* buffers on a GPU: in its starter's stream, and when it is done in comm's */
  int64_t *counts; /* [size] of reduce_scatter; split: memory for two lists of ranks */
  int32_t new_rank, new_size; /* results of a split */
  /* Messages to others, and from this rank to itself in pairs; one allocation for all. */
  neap_message *send, *recv, *own_send, *own_recv;
  int64_t sends, recvs, own_sends, own_recvs;
  bool done; /* atomic */
  int status;
  char error[512]; /* message of a failure */
};

/* A request that can hold so many messages and, if counted, for counts. NULL: reported. */
neap_request *neapi_request_open(neap_comm *comm, const neapi_call *call, int64_t sends,
                                 int64_t recvs, bool counted);
void neapi_request_free(neap_request *request);
/* Appends a message, to others or to this rank itself; that it fits is the caller's business. */
void neapi_request_send(neap_request *request, const void *data, int64_t bytes, int32_t peer);
void neapi_request_recv(neap_request *request, void *data, int64_t bytes, int32_t peer);
/* Queues the request; with out == NULL also waits for it and frees it, in the calling thread where
 * nothing else is queued. With out, an operation that could not be started is freed. */
int neapi_request_submit(neap_request *request, neap_request **out);

/* Runs the operation: called by one thread at a time for a communicator. */
int neapi_collective_run(neap_request *request);

#endif
