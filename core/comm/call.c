/* SPDX-License-Identifier: Apache-2.0 */
/* What a rank calls: names of the operations, and whether calls of different ranks agree. */
#include "comm/call.h"

#include "base/dtype.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const kinds[NEAPI_KINDS] = {"barrier",    "broadcast",      "all_reduce",
                                               "all_gather", "reduce_scatter", "all_to_all",
                                               "exchange",   "split",          "duplicate"};
static const char *const reductions[] = {"sum", "max", "min"};

const char *neapi_kind_name(int32_t kind)
{
  return kind >= 0 && kind < NEAPI_KINDS ? kinds[kind] : "?";
}

bool neapi_call_agrees(const neapi_call *a, const neapi_call *b)
{
  bool sized = a->kind != NEAPI_ALL_TO_ALL && a->kind != NEAPI_EXCHANGE;
  return a->kind == b->kind && a->dtype == b->dtype && a->detail == b->detail &&
         (!sized || a->bytes == b->bytes);
}

const char *neapi_call_text(const neapi_call *call, char *text)
{
  const char *name = neapi_kind_name(call->kind);
  const char *dtype = call->dtype >= 0 ? neapi_dtype_name(call->dtype) : "";
  switch (call->kind) {
  case NEAPI_BROADCAST:
    snprintf(text, NEAPI_CALL_TEXT, "%s of %" PRId64 " bytes from root %d", name, call->bytes,
             call->detail);
    break;
  case NEAPI_ALL_REDUCE:
  case NEAPI_REDUCE_SCATTER:
    snprintf(text, NEAPI_CALL_TEXT, "%s(%s) of %" PRId64 " bytes %s", name,
             reductions[call->detail], call->bytes, dtype);
    break;
  case NEAPI_ALL_GATHER:
    snprintf(text, NEAPI_CALL_TEXT, "%s of %" PRId64 " bytes %s in all", name, call->bytes, dtype);
    break;
  case NEAPI_ALL_TO_ALL:
  case NEAPI_EXCHANGE:
    snprintf(text, NEAPI_CALL_TEXT, "%s that sends %" PRId64 " bytes %s", name, call->bytes, dtype);
    break;
  default:
    snprintf(text, NEAPI_CALL_TEXT, "%s", name);
  }
  return text;
}
