/* SPDX-License-Identifier: Apache-2.0 */
/* Recording spans from inside the engine. Without a recorder each call is one look at a variable of
 * the thread.
 *
 * On a GPU, a span is known by the host's times at which its begin and end were enqueued;
 * timestamps were set in the stream at these times, which in the end tell when the GPU came there.
 * So the bounds of spans are times that neapi_timeline_now or neapi_span_label_now gave. */
#ifndef NEAP_TIMELINE_H
#define NEAP_TIMELINE_H

#include "base/status.h"

/* What a request is for: copied from the thread that starts it, for the one that runs it. */
typedef struct {
  neap_timeline *timeline; /* NULL: nothing is recorded. A reference. */
  neap_span span;          /* all but its times; stream COMPUTE: not worth a track */
} neapi_span_label;

/* neap_clock; where the calling thread's spans are those of a GPU, also a timestamp in its
 * stream. */
double neapi_timeline_now(void);
/* A span of the compute stream from begin to end, in the recorder of the calling thread. */
void neapi_timeline_span(int id, int32_t chunk, double begin, double end);
/* Bounds of a span in which a GPU's stream waits for the host. On the CPU: nothing. */
double neapi_host_begin(void);
void neapi_host_end(double begin);
/* Where the calling thread is, recorded or not: its layer, or -1; and what its next request is for,
 * as neapi_timeline_label said since the last look, else the innermost span, or -1. */
void neapi_timeline_where(int32_t *layer, int32_t *phase);
/* Says what the next request that the calling thread starts is for. */
void neapi_timeline_label(int id, int stream, int32_t chunk);
/* Takes what was said; plain if nothing was. To be dropped. */
void neapi_span_label_take(neapi_span_label *label);
void neapi_span_label_drop(neapi_span_label *label);
/* neap_clock, in the thread that runs the request; where its buffers are on a GPU (gpu is not 0)
 * and its starter records, also a timestamp in that thread's stream. */
double neapi_span_label_now(const neapi_span_label *label, int32_t gpu);
/* The request ran from begin to end, in any thread. */
void neapi_span_label_ran(const neapi_span_label *label, double begin, double end);
/* The calling thread has waited for the request. */
void neapi_span_label_waited(const neapi_span_label *label, double begin, double end);

#endif
