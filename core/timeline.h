/* Recording spans from inside the engine. Without a recorder each call is one look at a variable of
 * the thread. */
#ifndef NEAP_TIMELINE_H
#define NEAP_TIMELINE_H

#include "status.h"

/* What a request is for: copied from the thread that starts it, for the one that runs it. */
typedef struct {
  neap_timeline *timeline; /* NULL: nothing is recorded. A reference. */
  neap_span span;          /* all but its times; stream COMPUTE: not worth a track */
} neapi_purpose;

/* A span of the compute stream from begin to end, in the recorder of the calling thread. */
void neapi_timeline_span(int id, int32_t chunk, double begin, double end);
/* Says what the next request that the calling thread starts is for. */
void neapi_timeline_purpose(int id, int stream, int32_t chunk);
/* Takes what was said; plain if nothing was. To be dropped. */
void neapi_purpose_take(neapi_purpose *purpose);
void neapi_purpose_drop(neapi_purpose *purpose);
/* The request ran from begin to end, in any thread. */
void neapi_purpose_ran(const neapi_purpose *purpose, double begin, double end);
/* The calling thread has waited for the request. */
void neapi_purpose_waited(const neapi_purpose *purpose, double begin, double end);

#endif
