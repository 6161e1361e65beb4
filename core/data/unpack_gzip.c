/* SPDX-License-Identifier: Apache-2.0 */
/* gzip, all members after each other. zlib's own reading of files takes a member whose first bytes
 * are damaged for rubbish at the end, and leaves it out without a word. */
#include "data/source.h"

#include <zlib.h>

enum { WINDOW_OF_GZIP = 15 + 16 }; /* of inflateInit2: header and trailer are read and checked */

static const unsigned char FIRST_BYTE = 0x1f;

/* After a member: looks whether there is another one. Zeros fill up blocks of tapes. */
static int find_member(neapi_source *s, z_stream *z, bool *more)
{
  int status = neapi_source_next(s);
  while (!status && s->left && !*s->at) {
    s->at++;
    s->left--;
    status = neapi_source_next(s);
  }
  *more = !status && s->left;
  if (*more && (*s->at != FIRST_BYTE || inflateReset(z) != Z_OK))
    return neapi_source_damaged(s, "what follows is no gzip data");
  return status;
}

/* One step of unpacking; more: whether there is another. */
static int unpack_step(neapi_source *s, z_stream *z, bool *more)
{
  size_t room = 0;
  int status = neapi_source_next(s);
  if (!status)
    status = neapi_source_reserve(s, &room);
  if (status)
    return status;
  bool at_end = !s->left;
  z->next_in = (Bytef *)(uintptr_t)s->at;
  z->avail_in = (uInt)s->left;
  z->next_out = (Bytef *)s->text + s->used;
  z->avail_out = (uInt)room;
  int code = inflate(z, Z_NO_FLUSH);
  s->at = z->next_in;
  s->left = z->avail_in;
  s->used += (int64_t)room - z->avail_out;
  if (code == Z_STREAM_END)
    return find_member(s, z, more);
  if (code == Z_MEM_ERROR)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  if (code != Z_OK && code != Z_BUF_ERROR)
    return neapi_source_damaged(s, z->msg ? z->msg : "it needs a dictionary");
  return at_end && z->avail_out ? neapi_source_damaged(s, "unexpected end of file") : NEAP_OK;
}

int neapi_unpack_gzip(neapi_source *s)
{
  z_stream z = {0};
  if (inflateInit2(&z, WINDOW_OF_GZIP) != Z_OK)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  int status = NEAP_OK;
  for (bool more = true; !status && more;)
    status = unpack_step(s, &z, &more);
  inflateEnd(&z);
  return status;
}
