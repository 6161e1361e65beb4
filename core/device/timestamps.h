/* Points in a GPU's streams, found again by the host's time when they were set: so that spans that
 * were bounded by the host's clock get the times at which the GPU came there. Setting a mark does
 * not wait for the GPU. For one thread at a time. */
#ifndef NEAP_TIMESTAMPS_H
#define NEAP_TIMESTAMPS_H

#include "device/device.h"

typedef struct {
  neapi_timestamp **events; /* [room] those that exist come first, and are used again */
  double *times;            /* [room] the host's when they were set, ascending */
  double *reached;          /* [room] when the GPU was there, in the host's clock */
  int64_t room, made, count;
  neapi_timestamp *origin;
  double origin_time; /* the host's when the GPU was at origin */
} neapi_timestamps;

/* Forgets all marks; from now on there can be so many. The calling thread's GPU and its clock are
 * those of the marks to come. Waits for the calling thread's stream. */
int neapi_timestamps_begin(neapi_timestamps *marks, int64_t room);
/* Sets one in the calling thread's stream, at a time of the host that is later than the last
 * mark's. Without room, or if it fails, there is none. */
void neapi_timestamps_record(neapi_timestamps *marks, double time);
/* Waits until the GPU has come to all marks. */
int neapi_timestamps_resolve(neapi_timestamps *marks);
/* Of resolved marks: when the GPU came to the mark that was set at a time; that time if there was
 * none. */
double neapi_timestamps_time(const neapi_timestamps *marks, double time);
void neapi_timestamps_free(neapi_timestamps *marks);

#endif
