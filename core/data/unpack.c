/* SPDX-License-Identifier: Apache-2.0 */
/* Whole files in memory, unpacked if their first bytes say that they are packed. */
#include "data/unpack.h"

#include "data/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  LEAST = 1 << 12,
  MAGIC_BYTES = 6
}; /* LEAST: bytes of text that there is room for at first */

static const struct {
  const char *name;
  size_t length;
  uint8_t magic[MAGIC_BYTES];
  int (*unpack)(neapi_source *s);
} packings[] = {
    {"gzip", 2, {0x1f, 0x8b}, neapi_unpack_gzip},
    {"xz", 6, {0xfd, '7', 'z', 'X', 'Z', 0}, neapi_unpack_xz},
    {"zstd", 4, {0x28, 0xb5, 0x2f, 0xfd}, neapi_unpack_zstd},
};

static int copy_plain(neapi_source *s)
{
  int status = NEAP_OK;
  while (!status && s->left) {
    size_t room = 0;
    status = neapi_source_reserve(s, &room);
    if (status)
      break;
    size_t bytes = room < s->left ? room : s->left;
    memcpy(s->text + s->used, s->at, bytes);
    s->used += (int64_t)bytes;
    s->at += bytes;
    s->left -= bytes;
    status = neapi_source_next(s);
  }
  return status;
}

static int read_all(neapi_source *s)
{
  struct stat info = {0};
  bool known = !fstat(s->fd, &info);
  if (known && (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)))
    return neapi_fail(NEAP_SYSTEM,
                      "%s: is a device, which may have no end: a file or a pipe is read", s->path);
  s->first = !known || info.st_size < LEAST ? LEAST : info.st_size;
  int status = neapi_source_next(s);
  if (status)
    return status;
  for (size_t i = 0; i < sizeof packings / sizeof *packings; i++)
    if (s->left >= packings[i].length && !memcmp(s->at, packings[i].magic, packings[i].length)) {
      s->packing = packings[i].name;
      return packings[i].unpack(s);
    }
  return copy_plain(s);
}

int neapi_unpack(const char *path, char **text, int64_t *length)
{
  neapi_source *s = calloc(1, sizeof *s);
  if (!s)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to read it", path);
  s->path = path;
  s->fd = open(path, O_RDONLY | O_CLOEXEC);
  int status = s->fd < 0
                   ? neapi_fail(NEAP_SYSTEM, "%s: cannot be opened: %s", path, strerror(errno))
                   : read_all(s);
  if (s->fd >= 0)
    close(s->fd);
  if (!status && !s->used)
    status = neapi_fail(NEAP_FORMAT, "%s: byte 0: the file is empty", path);
  if (status) {
    free(s->text);
  } else {
    *text = s->text;
    *length = s->used;
  }
  free(s);
  return status;
}
