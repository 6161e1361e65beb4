/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a transport gives to communicators: grouped point-to-point messages and a barrier. All
 * collectives are written once, in collective.c, on top of these, so that every transport gives the
 * same bits. The messages map to grouped sends and receives of NCCL as they do to those of MPI, and
 * buffers are touched through neapi_memory_ops only, so that they may live on a device.
 */
#ifndef NEAP_TRANSPORT_H
#define NEAP_TRANSPORT_H

#include "comm/call.h"
#include "comm/flight.h"
#include "device/device.h"

/* Where buffers live. */
typedef struct {
  void *(*allocate)(int64_t bytes, const char *what);
  void (*release)(void *memory);
  int (*copy)(void *to, const void *from, int64_t bytes);
  /* out[count] = sources[0] op sources[1] op …, in this order; out may be one of the sources. */
  int (*fold)(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
              int op);
} neapi_memory_ops;

extern const neapi_memory_ops neapi_host_memory, neapi_gpu_memory;

/* A transport's end of one communicator at one rank. Its functions are called by one thread at a
 * time, in the order of the communicator's operations. */
typedef struct neapi_endpoint neapi_endpoint;

typedef struct {
  const char *name; /* NAME of neap_comm_open_NAME */
  bool takes_gpu;   /* messages may be in a GPU's memory */
  /* Sends and receives all the messages, none of them to this rank itself; returns when the
   * buffers are free to use, or those on a GPU for what is enqueued next on the calling thread's
   * stream. The i-th message to p pairs with p's i-th from here. Blocks, but not by spinning for
   * long: there may be more ranks than cores. */
  int (*exchange)(neapi_endpoint *endpoint, const neapi_call *call, const neap_message *send,
                  int64_t sends, const neap_message *recv, int64_t recvs);
  int (*barrier)(neapi_endpoint *endpoint, const neapi_call *call);
  /* Collective. An endpoint among members[size], ascending ranks of endpoint's group, which all
   * pass this list; this rank is members[rank]. */
  int (*split)(neapi_endpoint *endpoint, const neapi_call *call, const int32_t *members,
               int32_t rank, int32_t size, neapi_endpoint **out);
  void (*close)(neapi_endpoint *endpoint);
} neapi_transport;

/* Where a process is among those that mpirun started, and among those on its host. */
typedef struct {
  int32_t rank, size, local_rank, local_size;
} neapi_rank_info;

/* What the transport for GPUs needs of MPI: the transport for host memory, and its endpoint over
 * all processes. Collective. */
extern const neapi_transport neapi_mpi_transport;
int neapi_mpi_endpoint_open(neapi_endpoint **out, neapi_rank_info *info);

/* Starts the watchdog of a process that others are beside of: they talk over MPI. */
void neapi_mpi_watch(void);

/* Makes a communicator of an endpoint, which it then owns, as one reference of flight (NULL: no
 * memory); on failure both are given up. */
int neapi_comm_open(const neapi_transport *transport, neapi_endpoint *endpoint, int32_t rank,
                    int32_t size, neapi_flight *flight, neap_comm **out);
/* An endpoint of the communicator's transport over the same ranks, and this rank's place there.
 * Collective. */
int neapi_comm_duplicate_endpoint(neap_comm *comm, neapi_endpoint **out, int32_t *rank,
                                  int32_t *size);

#endif
