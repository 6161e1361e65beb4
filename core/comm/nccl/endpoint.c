/* SPDX-License-Identifier: Apache-2.0 */
/* How an endpoint of the transport nccl fails, and which of its operations is watched. */
#include "comm/nccl/endpoint.h"

#include <inttypes.h>
#include <stdio.h>

void neapi_nccl_fail(neapi_endpoint *endpoint, const neapi_call *call, const char *what)
{
  char text[NEAPI_CALL_TEXT], step[32] = "";
  if (call->step >= 0)
    snprintf(step, sizeof step, ", step %" PRId64, call->step);
  snprintf(endpoint->failure, sizeof endpoint->failure,
           "comm: rank %d, %s (its operation %" PRId64 "%s): %s", endpoint->rank,
           neapi_call_text(call, text), call->number, step, what);
  endpoint->failed = true;
  if (endpoint->comm)
    endpoint->nccl->abort(endpoint->comm);
  endpoint->comm = NULL;
}

void neapi_nccl_fail_error(neapi_endpoint *endpoint, const neapi_call *call, int error)
{
  char what[400];
  const char *detail = endpoint->comm ? endpoint->nccl->last_error(endpoint->comm) : "";
  snprintf(what, sizeof what, "nccl: %.120s%s%.250s", endpoint->nccl->error_string(error),
           detail && *detail ? ": " : "", detail ? detail : "");
  neapi_nccl_fail(endpoint, call, what);
}

void neapi_nccl_go_on(neapi_endpoint *endpoint)
{
  if (!neapi_stream_event_reached(endpoint->watched.end))
    return;
  neapi_nccl_operation done = endpoint->watched;
  endpoint->watched = endpoint->latest;
  endpoint->latest = done;
}
