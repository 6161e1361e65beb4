/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of the host. */
#include "base/memory.h"

#include "base/status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void *neapi_alloc(int64_t bytes, const char *what)
{
  int64_t rounded = (bytes / 64 + 1) * 64;
  void *memory = bytes < 0 ? NULL : aligned_alloc(64, (size_t)rounded);
  if (!memory)
    neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " bytes", what, bytes);
  return memory;
}

void *neapi_alloc_zero(int64_t bytes, const char *what)
{
  void *memory = neapi_alloc(bytes, what);
  if (memory)
    memset(memory, 0, (size_t)bytes);
  return memory;
}
