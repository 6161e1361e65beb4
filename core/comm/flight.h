/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The flight recorder: what every rank of this process has called last. Each rank has a ring of its
 * last operations over all communicators, and the operation that each communicator is in. The
 * watchdog looks here for operations that do not end, and files tell it to neap doctor.
 */
#ifndef NEAP_FLIGHT_H
#define NEAP_FLIGHT_H

#include "comm/call.h"

#include <stdio.h>

enum { NEAPI_FLIGHT_RING = 256, NEAPI_FLIGHT_COMMS = 64 };

typedef struct {
  neapi_call call;
  double begun, ended; /* neap_clock; ended 0: it is under way */
  bool failed;
} neapi_flight_entry;

/* What a rank tells others about itself: flat, so that it can travel. */
typedef struct {
  int32_t rank, size;
  bool answered;                       /* false: nothing is known of it */
  bool running;                        /* of what follows: the oldest operation under way */
  bool called;                         /* there is a last one */
  neapi_flight_entry oldest, last;     /* last: the last one that was begun */
  double since;                        /* seconds that oldest has been under way, or since last */
  int64_t reached[NEAPI_FLIGHT_COMMS]; /* by communicator: number of the last operation, or -1 */
} neapi_flight_state;

typedef struct neapi_flight neapi_flight;

/* A recorder for a rank of all. abort(world, why): lets all operations of the rank's threads fail;
 * NULL where it is a process. One reference. */
neapi_flight *neapi_flight_open(int32_t rank, int32_t size,
                                void (*abort)(neap_world *world, const char *why),
                                neap_world *world);
neapi_flight *neapi_flight_share(neapi_flight *flight);
void neapi_flight_release(neapi_flight *flight);

/* Number of a new communicator of this rank, the same on all ranks. */
int32_t neapi_flight_comm(neapi_flight *flight);
/* An operation begins, and ends. */
void neapi_flight_begin(neapi_flight *flight, const neapi_call *call);
void neapi_flight_end(neapi_flight *flight, const neapi_call *call, int status);

/* Whether an operation of this process has been under way for longer than limit seconds. */
bool neapi_flight_overdue(double limit);
/* States of this process' ranks, in states[] by rank; returns how many. size: of states. */
int32_t neapi_flight_states(neapi_flight_state *states, int32_t size);
/* Ranks of the job; 0: no communicator is open. The rank of this process, or one of them; -1. */
int32_t neapi_flight_size(void);
int32_t neapi_flight_rank(void);
/* Lets all operations of this process' threads fail. */
void neapi_flight_abort(const char *why);
/* Writes all ranks of this process as JSON. */
void neapi_flight_print(FILE *file, const char *reason);

#endif
