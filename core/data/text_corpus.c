/* SPDX-License-Identifier: Apache-2.0 */
/* Real text that some Debian packages install, as one run of bytes. */
#include "data/text.h"

#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* A corpus is the regular files of a package whose names begin and end so. The package's own list
 * says which they are: the folders hold files of other packages too, on one machine more than on
 * another. */
typedef struct {
  const char *name, *package, *begin, *end;
} corpus;

static const corpus corpora[] = {
    {"english", "dict-gcide", "/usr/share/dictd/", ".dict.dz"},
    {"go", "golang-1.19-src", "/usr/share/go-1.19/src/", ".go"},
    {"french", "manpages-fr", "/usr/share/man/fr/", ".gz"},
    {"russian", "manpages-ru", "/usr/share/man/ru/", ".gz"},
};

enum {
  CORPORA = sizeof corpora / sizeof *corpora,
  PATH_BYTES = 4096,
  CHUNK = 1 << 20,
};

/* What has been read so far. */
typedef struct {
  uint8_t *bytes;
  int64_t limit, size;
} content;

/* ---- the files of a corpus ------------------------------------------------------------------- */

typedef struct {
  char *path;    /* with root */
  int64_t bytes; /* unpacked, as far as the file tells */
} source;

typedef struct {
  source *items;
  int64_t count, capacity, bytes;
} source_list;

static void free_sources(source_list *list)
{
  for (int64_t i = 0; i < list->count; i++)
    free(list->items[i].path);
  free(list->items);
}

static int compare_sources(const void *a, const void *b)
{
  return strcmp(((const source *)a)->path, ((const source *)b)->path);
}

static bool ends_with(const char *text, const char *end)
{
  size_t length = strlen(text), tail = strlen(end);
  return length >= tail && !strcmp(text + length - tail, end);
}

/* Bytes of a file once unpacked: a gzip file ends with them, modulo 2^32. */
static int64_t unpacked_bytes(const char *path, int64_t bytes)
{
  unsigned char end[4] = {0};
  if (!ends_with(path, ".gz") && !ends_with(path, ".dz"))
    return bytes;
  FILE *file = fopen(path, "rb");
  bool read = file && !fseek(file, -4, SEEK_END) && fread(end, 1, 4, file) == 4;
  if (file)
    fclose(file);
  return read ? end[0] | end[1] << 8 | end[2] << 16 | (int64_t)end[3] << 24 : bytes;
}

static int add_source(source_list *list, const corpus *c, const char *path)
{
  struct stat info;
  if (lstat(path, &info))
    return neapi_fail(NEAP_ABSENT,
                      "text '%s': %s is missing, though package %s is installed; run: apt-get "
                      "install --reinstall %s (and see that dpkg's path-exclude does not drop it)",
                      c->name, path, c->package, c->package);
  if (!S_ISREG(info.st_mode))
    return NEAP_OK;
  if (list->count == list->capacity) {
    list->capacity = list->capacity ? 2 * list->capacity : 256;
    source *larger = realloc(list->items, (size_t)list->capacity * sizeof *larger);
    if (!larger)
      return neapi_fail(NEAP_MEMORY, "text '%s': no memory for its list of files", c->name);
    list->items = larger;
  }
  char *copy = strdup(path);
  if (!copy)
    return neapi_fail(NEAP_MEMORY, "text '%s': no memory for a path", c->name);
  int64_t bytes = unpacked_bytes(path, info.st_size);
  list->items[list->count++] = (source){copy, bytes};
  list->bytes += bytes;
  return NEAP_OK;
}

static int fail_absent(const corpus *c)
{
  return neapi_fail(NEAP_ABSENT, "text '%s': package %s is not installed; run: apt-get install %s",
                    c->name, c->package, c->package);
}

/* The corpus's files in the order of their names' bytes, whatever order the list has. */
static int find_sources(const corpus *c, const char *root, source_list *list)
{
  char path[PATH_BYTES], line[PATH_BYTES];
  snprintf(path, sizeof path, "%s/var/lib/dpkg/info/%s.list", root, c->package);
  FILE *file = fopen(path, "r");
  if (!file)
    return fail_absent(c);
  int status = NEAP_OK;
  while (!status && fgets(line, sizeof line, file)) {
    line[strcspn(line, "\n")] = 0;
    if (strncmp(line, c->begin, strlen(c->begin)) || !ends_with(line, c->end))
      continue;
    if (snprintf(path, sizeof path, "%s%s", root, line) < (int)sizeof path)
      status = add_source(list, c, path);
  }
  fclose(file);
  if (!status && list->count == 0)
    status = fail_absent(c);
  if (list->count)
    qsort(list->items, (size_t)list->count, sizeof *list->items, compare_sources);
  return status;
}

/* ---- their bytes ----------------------------------------------------------------------------- */

static int fail_read(const char *path, gzFile file, int code)
{
  if (code == Z_ERRNO)
    return neapi_fail(NEAP_SYSTEM, "%s: cannot be read: %s", path, strerror(errno));
  return neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": truncated or damaged gzip data", path,
                    (int64_t)gzoffset(file));
}

/* Appends a file's bytes to the text, as far as its limit allows. */
static int read_source(content *text, const char *path)
{
  gzFile file = gzopen(path, "rb");
  if (!file)
    return neapi_fail(NEAP_SYSTEM, "%s: cannot be opened: %s", path, strerror(errno));
  int got = 1, code = Z_OK;
  while (got > 0 && text->size < text->limit) {
    int64_t left = text->limit - text->size;
    got = gzread(file, text->bytes + text->size, (unsigned)(left < CHUNK ? left : CHUNK));
    text->size += got > 0 ? got : 0;
  }
  gzerror(file, &code);
  bool failed = got < 0 || (code != Z_OK && code != Z_STREAM_END && text->size < text->limit);
  int status = failed ? fail_read(path, file, code) : NEAP_OK;
  gzclose(file);
  return status;
}

/* Every stride-th file, so that the limit's bytes come from all over the corpus. */
static int read_sources(content *text, const source_list *list)
{
  int64_t most = list->bytes < text->limit ? list->bytes : text->limit;
  int64_t stride = (list->bytes + text->limit - 1) / text->limit;
  stride = stride < 1 ? 1 : stride > list->count ? list->count : stride;
  text->bytes = neapi_alloc(text->limit, "text");
  if (!text->bytes)
    return NEAP_MEMORY;
  for (int64_t first = 0; first < stride && text->size < most; first++)
    for (int64_t i = first; i < list->count && text->size < most; i += stride) {
      int status = read_source(text, list->items[i].path);
      if (status)
        return status;
    }
  return NEAP_OK;
}

/* ---- by name --------------------------------------------------------------------------------- */

int32_t neapi_corpus_find(const char *name)
{
  for (int32_t i = 0; i < CORPORA; i++)
    if (!strcmp(corpora[i].name, name))
      return i;
  return -1;
}

int neapi_corpus_open(int32_t index, const char *root, int64_t limit, neapi_text_parts *parts)
{
  content text = {.limit = limit};
  source_list list = {0};
  int status = find_sources(&corpora[index], root, &list);
  if (!status)
    status = read_sources(&text, &list);
  free_sources(&list);
  if (!status)
    return neapi_text_add(
        parts, (neapi_text_part){
                   .ids = text.bytes, .tokens = text.size, .width = 1, .memory = text.bytes});
  free(text.bytes);
  return status;
}

int32_t neap_text_count(void)
{
  return CORPORA;
}

const char *neap_text_name(int32_t index)
{
  return index >= 0 && index < CORPORA ? corpora[index].name : NULL;
}

const char *neap_text_package(int32_t index)
{
  return index >= 0 && index < CORPORA ? corpora[index].package : NULL;
}
