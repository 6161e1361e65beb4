/* Real text as training data: what some Debian packages install, as one run of bytes. */
#include "base/status.h"

#include "base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
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
  HELD_OUT_PERCENT = 5,
  CHUNK = 1 << 20,
  MAX_LIMIT = 1 << 30,
};

struct neap_text {
  struct neap_text *next; /* in the list of open texts */
  int32_t corpus;
  int64_t references;
  char *root;
  int64_t limit, size;
  uint8_t *bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static neap_text *texts; /* open ones, under lock */

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
static int read_source(neap_text *text, const char *path)
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
static int read_sources(neap_text *text, const source_list *list)
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

/* ---- open texts ------------------------------------------------------------------------------ */

static void free_text(neap_text *text)
{
  free(text->root);
  free(text->bytes);
  free(text);
}

static int load_text(int32_t index, const char *root, int64_t limit, neap_text **out)
{
  neap_text *text = neapi_alloc_zero(sizeof *text, "text");
  if (!text)
    return NEAP_MEMORY;
  *text = (neap_text){.corpus = index, .references = 1, .limit = limit, .root = strdup(root)};
  source_list list = {0};
  int status = text->root ? find_sources(&corpora[index], root, &list)
                          : neapi_fail(NEAP_MEMORY, "text: no memory for its root");
  if (!status)
    status = read_sources(text, &list);
  free_sources(&list);
  if (status)
    free_text(text);
  else
    *out = text;
  return status;
}

static int find_corpus(const char *name, int32_t *out)
{
  char names[256] = "";
  for (int32_t i = 0; i < CORPORA; i++) {
    if (!strcmp(corpora[i].name, name)) {
      *out = i;
      return NEAP_OK;
    }
    snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
             corpora[i].name);
  }
  return neapi_fail(NEAP_ARGUMENT, "text: '%s' is unknown; there are: %s", name, names);
}

/* The open text with this key, with one reference more, or NULL. Under lock. */
static neap_text *find_open(int32_t index, const char *root, int64_t limit)
{
  for (neap_text *text = texts; text; text = text->next)
    if (text->corpus == index && text->limit == limit && !strcmp(text->root, root)) {
      text->references++;
      return text;
    }
  return NULL;
}

int neap_text_open(const char *name, const char *root, int64_t limit, neap_text **out)
{
  int32_t index = 0;
  int status = find_corpus(name, &index);
  if (status)
    return status;
  if (limit < 1 || limit > MAX_LIMIT)
    return neapi_fail(NEAP_ARGUMENT, "text '%s': limit is %" PRId64 " bytes; allowed: 1 to %d",
                      name, limit, MAX_LIMIT);
  const char *set = getenv("NEAP_TEXT_ROOT");
  root = root ? root : set ? set : "";
  pthread_mutex_lock(&lock); /* held while loading: other ranks wait for the same bytes */
  neap_text *text = find_open(index, root, limit);
  if (!text && !(status = load_text(index, root, limit, &text))) {
    text->next = texts;
    texts = text;
  }
  pthread_mutex_unlock(&lock);
  if (!status)
    *out = text;
  return status;
}

void neap_text_close(neap_text *text)
{
  if (!text)
    return;
  pthread_mutex_lock(&lock);
  bool last = --text->references == 0;
  for (neap_text **at = &texts; last && *at; at = &(*at)->next)
    if (*at == text) {
      *at = text->next;
      break;
    }
  pthread_mutex_unlock(&lock);
  if (last)
    free_text(text);
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

const uint8_t *neap_text_bytes(const neap_text *text)
{
  return text->bytes;
}

int64_t neap_text_size(const neap_text *text)
{
  return text->size;
}

int neap_text_sample(const neap_text *text, uint64_t seed, int64_t step, int64_t sequence,
                     int64_t length, int held_out, int32_t *ids, int32_t *targets)
{
  int64_t tail = text->size * HELD_OUT_PERCENT / 100;
  int64_t first = held_out ? text->size - tail : 0;
  int64_t size = held_out ? tail : text->size - tail;
  if (length < 1 || length >= size)
    return neapi_fail(NEAP_ARGUMENT,
                      "text '%s': sequences of %" PRId64 " bytes; allowed: 1 to %" PRId64,
                      corpora[text->corpus].name, length, size - 1);
  uint64_t stream = neap_random_bits((uint64_t)step, (uint64_t)text->corpus, held_out != 0);
  uint64_t bits = neap_random_bits(seed, stream, (uint64_t)sequence);
  const uint8_t *from = text->bytes + first + (int64_t)(bits % (uint64_t)(size - length));
  for (int64_t i = 0; i < length; i++) {
    ids[i] = from[i];
    targets[i] = from[i + 1];
  }
  return NEAP_OK;
}
