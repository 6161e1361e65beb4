/* How a link of the transport nccl fails, and which of its operations is watched. */
#include "comm/nccl/endpoint.h"

#include <inttypes.h>
#include <stdio.h>

void neapi_nccl_fail(neapi_endpoint *link, const neapi_call *call, const char *what)
{
  char text[NEAPI_CALL_TEXT], step[32] = "";
  if (call->step >= 0)
    snprintf(step, sizeof step, ", step %" PRId64, call->step);
  snprintf(link->failure, sizeof link->failure,
           "comm: rank %d, %s (its operation %" PRId64 "%s): %s", link->rank,
           neapi_call_text(call, text), call->number, step, what);
  link->failed = true;
  if (link->comm)
    link->nccl->abort(link->comm);
  link->comm = NULL;
}

void neapi_nccl_fail_error(neapi_endpoint *link, const neapi_call *call, int error)
{
  char what[400];
  const char *detail = link->comm ? link->nccl->last_error(link->comm) : "";
  snprintf(what, sizeof what, "nccl: %.120s%s%.250s", link->nccl->error_string(error),
           detail && *detail ? ": " : "", detail ? detail : "");
  neapi_nccl_fail(link, call, what);
}

void neapi_nccl_go_on(neapi_endpoint *link)
{
  if (!neapi_stream_event_reached(link->watched.end))
    return;
  neapi_nccl_operation done = link->watched;
  link->watched = link->latest;
  link->latest = done;
}
