/* Memory that grows to what is asked for and is kept, so that a steady state allocates nothing. */
#ifndef NEAP_BUFFER_H
#define NEAP_BUFFER_H

#include "device/device.h"

#include <stdlib.h>

typedef struct {
  void *data;
  int64_t bytes;
  neapi_memory_kind place; /* of data: set before the first reserve, if it is not the host */
} neapi_buffer;

/* Makes room for so many bytes; what the buffer held is lost when it grows. It grows by a quarter
 * more than asked for, since token counts wander. */
static inline int neapi_buffer_reserve(neapi_buffer *buffer, int64_t bytes, const char *what)
{
  if (buffer->data && bytes <= buffer->bytes)
    return NEAP_OK;
  int64_t room = buffer->bytes ? bytes + bytes / 4 : bytes;
  neapi_memory_free(buffer->place, buffer->data);
  buffer->data = neapi_memory_alloc(buffer->place, room, what);
  buffer->bytes = buffer->data ? room : 0;
  return buffer->data ? NEAP_OK : NEAP_MEMORY;
}

static inline void neapi_buffer_free(neapi_buffer *buffer)
{
  neapi_memory_free(buffer->place, buffer->data);
  buffer->data = NULL;
  buffer->bytes = 0;
}

#endif
