/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a text is made of. */
#include "data/text.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sys/mman.h>

void neapi_text_part_free(neapi_text_part *part)
{
  free(part->path);
  if (part->mapped)
    munmap(part->memory, (size_t)part->mapped);
  else
    free(part->memory);
}

int neapi_text_add(neapi_text_parts *parts, neapi_text_part part)
{
  if (parts->count == parts->capacity) {
    int64_t capacity = parts->capacity ? 2 * parts->capacity : 1;
    neapi_text_part *larger = realloc(parts->items, (size_t)capacity * sizeof *larger);
    if (!larger) {
      neapi_text_part_free(&part);
      return neapi_fail(NEAP_MEMORY, "text: no memory for %" PRId64 " files", capacity);
    }
    parts->items = larger;
    parts->capacity = capacity;
  }
  part.first = parts->tokens;
  parts->items[parts->count++] = part;
  parts->tokens += part.tokens;
  return NEAP_OK;
}

void neapi_text_free(neapi_text_parts *parts)
{
  for (int64_t i = 0; i < parts->count; i++)
    neapi_text_part_free(&parts->items[i]);
  free(parts->items);
  *parts = (neapi_text_parts){0};
}
