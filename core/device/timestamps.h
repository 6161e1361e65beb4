/* SPDX-License-Identifier: Apache-2.0 */
/* Points in a GPU's streams, found again by the host's time when they were recorded: so that spans
 * that were bounded by the host's clock get the times at which the GPU came there. Recording one
 * does not wait for the GPU. For one thread at a time. */
#ifndef NEAP_TIMESTAMPS_H
#define NEAP_TIMESTAMPS_H

#include "device/device.h"

typedef struct {
  neapi_timestamp **events; /* [capacity] those that exist come first, and are used again */
  double *times;            /* [capacity] the host's when they were recorded, ascending */
  double *reached;          /* [capacity] when the GPU was there, in the host's clock */
  int64_t capacity, made, count;
  neapi_timestamp *origin;
  double origin_time; /* the host's when the GPU was at origin */
} neapi_timestamps;

/* Forgets all; from now on there can be so many. The calling thread's GPU and its clock are
 * those of the ones to come. Waits for the calling thread's stream. */
int neapi_timestamps_begin(neapi_timestamps *timestamps, int64_t capacity);
/* Records one in the calling thread's stream, at a time of the host that is later than the last
 * one's. Past the capacity, or if it fails, there is none. */
void neapi_timestamps_record(neapi_timestamps *timestamps, double time);
/* Waits until the GPU has come to all of them. */
int neapi_timestamps_resolve(neapi_timestamps *timestamps);
/* Of resolved timestamps: when the GPU came to the one that was recorded at a time; that time if
 * there was none. */
double neapi_timestamps_time(const neapi_timestamps *timestamps, double time);
void neapi_timestamps_free(neapi_timestamps *timestamps);

#endif
