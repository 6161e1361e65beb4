/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that grows to what is asked for and is kept, so that a steady state allocates nothing. */
#ifndef NEAP_BUFFER_H
#define NEAP_BUFFER_H

#include "device/device.h"

#include <stdlib.h>

typedef struct {
  void *data;
  int64_t bytes;
  neapi_memory_kind memory; /* of data: set before the first reserve, if it is not the host */
} neapi_buffer;

/* Makes the buffer as large as so many bytes; what the buffer held is lost when it grows. It grows
 * by a quarter more than asked for, since token counts wander. */
static inline int neapi_buffer_reserve(neapi_buffer *buffer, int64_t bytes, const char *what)
{
  if (buffer->data && bytes <= buffer->bytes)
    return NEAP_OK;
  int64_t capacity = buffer->bytes ? bytes + bytes / 4 : bytes;
  neapi_memory_free(buffer->memory, buffer->data);
  buffer->data = neapi_memory_alloc(buffer->memory, capacity, what);
  buffer->bytes = buffer->data ? capacity : 0;
  return buffer->data ? NEAP_OK : NEAP_MEMORY;
}

static inline void neapi_buffer_free(neapi_buffer *buffer)
{
  neapi_memory_free(buffer->memory, buffer->data);
  buffer->data = NULL;
  buffer->bytes = 0;
}

#endif
