/* SPDX-License-Identifier: Apache-2.0 */
/* Zstandard, all frames after each other, by libzstd where the build has found it. */
#include "data/source.h"

#ifdef NEAP_ZSTD
#include <zstd.h>

/* One step; *open: whether a frame has begun and has not ended. */
static int unpack_step(neapi_source *s, ZSTD_DStream *z, bool *more, bool *open)
{
  size_t room = 0;
  int status = neapi_source_next(s);
  if (!status)
    status = neapi_source_reserve(s, &room);
  if (status)
    return status;
  bool at_end = !s->left;
  ZSTD_inBuffer in = {s->at, s->left, 0};
  ZSTD_outBuffer out = {s->text + s->used, room, 0};
  size_t code = at_end && !*open ? 0 : ZSTD_decompressStream(z, &out, &in);
  s->at += in.pos;
  s->left -= in.pos;
  s->used += (int64_t)out.pos;
  if (ZSTD_isError(code))
    return neapi_source_damaged(s, ZSTD_getErrorName(code));
  *open = code > 0;
  *more = !at_end || out.pos == room;
  return !*more && *open ? neapi_source_damaged(s, "unexpected end of file") : NEAP_OK;
}

int neapi_unpack_zstd(neapi_source *s)
{
  ZSTD_DStream *z = ZSTD_createDStream();
  if (!z)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  int status = NEAP_OK;
  for (bool more = true, open = false; !status && more;)
    status = unpack_step(s, z, &more, &open);
  ZSTD_freeDStream(z);
  return status;
}
#else
int neapi_unpack_zstd(neapi_source *s)
{
  return neapi_fail(NEAP_FORMAT,
                    "%s: is packed by zstd, which this build lacks: install libzstd-dev and build "
                    "again, or unpack it: zstd -dk %s",
                    s->path, s->path);
}
#endif
