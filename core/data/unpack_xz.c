/* SPDX-License-Identifier: Apache-2.0 */
/* xz, all streams after each other, by liblzma where the build has found it. */
#include "data/source.h"

#ifdef NEAP_XZ
#include <lzma.h>

enum { MOST_MEMORY = 1 << 27 }; /* bytes that a decoder may take; of xz -9, half of that */

static int fail_code(neapi_source *s, lzma_ret code)
{
  if (code == LZMA_MEM_ERROR)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  if (code == LZMA_MEMLIMIT_ERROR)
    return neapi_source_damaged(s, "it wants more than 128 MiB to be unpacked");
  return neapi_source_damaged(s, code == LZMA_BUF_ERROR       ? "unexpected end of file"
                                 : code == LZMA_OPTIONS_ERROR ? "unknown options"
                                                              : "a checksum or a header is wrong");
}

static int unpack_step(neapi_source *s, lzma_stream *z, bool *more)
{
  size_t room = 0;
  int status = neapi_source_next(s);
  if (!status)
    status = neapi_source_reserve(s, &room);
  if (status)
    return status;
  lzma_action action = s->left ? LZMA_RUN : LZMA_FINISH;
  z->next_in = s->at;
  z->avail_in = s->left;
  z->next_out = (uint8_t *)s->text + s->used;
  z->avail_out = room;
  lzma_ret code = lzma_code(z, action);
  s->at = z->next_in;
  s->left = z->avail_in;
  s->used += (int64_t)(room - z->avail_out);
  *more = code != LZMA_STREAM_END;
  return code == LZMA_OK || code == LZMA_STREAM_END ? NEAP_OK : fail_code(s, code);
}

int neapi_unpack_xz(neapi_source *s)
{
  lzma_stream z = LZMA_STREAM_INIT;
  if (lzma_stream_decoder(&z, MOST_MEMORY, LZMA_CONCATENATED) != LZMA_OK)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  int status = NEAP_OK;
  for (bool more = true; !status && more;)
    status = unpack_step(s, &z, &more);
  lzma_end(&z);
  return status;
}
#else
int neapi_unpack_xz(neapi_source *s)
{
  return neapi_fail(NEAP_FORMAT,
                    "%s: is packed by xz, which this build lacks: install liblzma-dev and build "
                    "again, or unpack it: xz -dk %s",
                    s->path, s->path);
}
#endif
