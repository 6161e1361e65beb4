/* SPDX-License-Identifier: Apache-2.0 */
/* A file on its way into memory. */
#include "data/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int neapi_source_next(neapi_source *s)
{
  if (s->left)
    return NEAP_OK;
  ssize_t got;
  do
    got = read(s->fd, s->piece, NEAPI_PIECE);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return neapi_fail(NEAP_SYSTEM, "%s: cannot be read: %s", s->path, strerror(errno));
  s->read += got;
  s->at = s->piece;
  s->left = (size_t)got;
  return NEAP_OK;
}

int neapi_source_reserve(neapi_source *s, size_t *room)
{
  if (s->used == s->capacity) {
    int64_t capacity = s->text ? s->capacity * 2 : s->first;
    char *text = realloc(s->text, (size_t)capacity);
    if (!text)
      return neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " bytes", s->path, capacity);
    s->text = text;
    s->capacity = capacity;
  }
  int64_t free_bytes = s->capacity - s->used;
  *room = (size_t)(free_bytes < NEAPI_UNPACKED ? free_bytes : NEAPI_UNPACKED);
  return NEAP_OK;
}

int neapi_source_damaged(const neapi_source *s, const char *why)
{
  return neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": truncated or damaged %s data: %s", s->path,
                    s->read - (int64_t)s->left, s->packing, why);
}
