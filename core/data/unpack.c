/* Whole files in memory, unpacked if they are gzipped. zlib's own reading of files takes a member
 * whose first bytes are damaged for rubbish at the end, and leaves it out without a word. */
#include "data/unpack.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum {
  PIECE = 1 << 16,          /* bytes of the file that are read at once */
  LEAST = 1 << 12,          /* bytes of text that there is room for at first */
  MOST_STEP = 1 << 20,      /* bytes that are unpacked at once */
  WINDOW_OF_GZIP = 15 + 16, /* of inflateInit2: gzip's header and trailer are read and checked */
};

static const unsigned char MAGIC[] = {0x1f, 0x8b};

typedef struct {
  const char *path;
  int fd;
  int64_t read; /* bytes of the file so far */
  z_stream z;   /* its input: what of the last piece is left */
  unsigned char piece[PIECE];
  char *text;
  int64_t used, capacity, first; /* first: what capacity begins with */
} source;

/* Another piece of the file, if nothing of the last one is left; none at the end. */
static int next_piece(source *s)
{
  if (s->z.avail_in)
    return NEAP_OK;
  ssize_t got;
  do
    got = read(s->fd, s->piece, PIECE);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return neapi_fail(NEAP_SYSTEM, "%s: cannot be read: %s", s->path, strerror(errno));
  s->read += got;
  s->z.next_in = s->piece;
  s->z.avail_in = (uInt)got;
  return NEAP_OK;
}

/* Room for at least one more byte of text. */
static int reserve(source *s)
{
  if (s->used < s->capacity)
    return NEAP_OK;
  int64_t capacity = s->text ? s->capacity * 2 : s->first;
  char *text = realloc(s->text, (size_t)capacity);
  if (!text)
    return neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " bytes", s->path, capacity);
  s->text = text;
  s->capacity = capacity;
  return NEAP_OK;
}

static int damaged(const source *s, const char *why)
{
  return neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": truncated or damaged gzip data: %s",
                    s->path, s->read - s->z.avail_in, why);
}

static int copy_plain(source *s)
{
  int status = NEAP_OK;
  while (!status && s->z.avail_in) {
    status = reserve(s);
    int64_t room = s->capacity - s->used;
    int64_t bytes = !status && room < s->z.avail_in ? room : s->z.avail_in;
    if (status)
      break;
    memcpy(s->text + s->used, s->z.next_in, (size_t)bytes);
    s->used += bytes;
    s->z.next_in += bytes;
    s->z.avail_in -= (uInt)bytes;
    status = next_piece(s);
  }
  return status;
}

/* After a member: looks whether there is another one. Zeros fill up blocks of tapes. */
static int find_member(source *s, bool *more)
{
  int status = next_piece(s);
  while (!status && s->z.avail_in && !*s->z.next_in) {
    s->z.next_in++;
    s->z.avail_in--;
    status = next_piece(s);
  }
  *more = !status && s->z.avail_in;
  if (*more && (*s->z.next_in != MAGIC[0] || inflateReset(&s->z) != Z_OK))
    return damaged(s, "what follows is no gzip data");
  return status;
}

/* One step of unpacking; more: whether there is another. */
static int unpack_step(source *s, bool *more)
{
  int status = next_piece(s);
  if (!status)
    status = reserve(s);
  if (status)
    return status;
  bool at_end = !s->z.avail_in;
  int64_t room = s->capacity - s->used;
  uInt step = (uInt)(room < MOST_STEP ? room : MOST_STEP);
  s->z.next_out = (Bytef *)s->text + s->used;
  s->z.avail_out = step;
  int code = inflate(&s->z, Z_NO_FLUSH);
  s->used += step - s->z.avail_out;
  if (code == Z_STREAM_END)
    return find_member(s, more);
  if (code == Z_MEM_ERROR)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  if (code != Z_OK && code != Z_BUF_ERROR)
    return damaged(s, s->z.msg ? s->z.msg : "it needs a dictionary");
  return at_end && s->z.avail_out ? damaged(s, "unexpected end of file") : NEAP_OK;
}

static int unpack_members(source *s)
{
  if (inflateInit2(&s->z, WINDOW_OF_GZIP) != Z_OK)
    return neapi_fail(NEAP_MEMORY, "%s: no memory to unpack it", s->path);
  int status = NEAP_OK;
  for (bool more = true; !status && more;)
    status = unpack_step(s, &more);
  inflateEnd(&s->z);
  return status;
}

static int read_all(source *s)
{
  struct stat info = {0};
  bool known = !fstat(s->fd, &info);
  if (known && (S_ISCHR(info.st_mode) || S_ISBLK(info.st_mode)))
    return neapi_fail(NEAP_SYSTEM,
                      "%s: is a device, which may have no end: a file or a pipe is read", s->path);
  s->first = !known || info.st_size < LEAST ? LEAST : info.st_size;
  int status = next_piece(s);
  if (status)
    return status;
  bool gzipped = s->z.avail_in >= sizeof MAGIC && !memcmp(s->piece, MAGIC, sizeof MAGIC);
  return gzipped ? unpack_members(s) : copy_plain(s);
}

int neapi_unpack(const char *path, char **text, int64_t *length)
{
  source *s = calloc(1, sizeof *s);
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
