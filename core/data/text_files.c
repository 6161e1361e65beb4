/* SPDX-License-Identifier: Apache-2.0 */
/* Training data of the user's own: a file, a folder or a pattern; bytes, or ids of a tokenizer. */
#include "data/text.h"

#include "base/memory.h"
#include "data/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, SMALL = 1 << 16, LARGE = 1 << 28 }; /* bytes of small and large files */

/* ---- names ----------------------------------------------------------------------------------- */

typedef struct {
  char **items;
  int64_t count, capacity;
} path_list;

static void free_paths(path_list *list)
{
  for (int64_t i = 0; i < list->count; i++)
    free(list->items[i]);
  free(list->items);
}

static int add_path(path_list *list, const char *path)
{
  if (list->count == list->capacity) {
    int64_t capacity = list->capacity ? 2 * list->capacity : 16;
    char **larger = realloc(list->items, (size_t)capacity * sizeof *larger);
    if (!larger)
      return neapi_fail(NEAP_MEMORY, "text: no memory for %" PRId64 " paths", capacity);
    list->items = larger;
    list->capacity = capacity;
  }
  if (!(list->items[list->count] = strdup(path)))
    return neapi_fail(NEAP_MEMORY, "text: no memory for a path");
  list->count++;
  return NEAP_OK;
}

static int compare_paths(const void *a, const void *b)
{
  return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool ends_with(const char *text, const char *end)
{
  size_t length = strlen(text), tail = strlen(end);
  return length > tail && !strcmp(text + length - tail, end);
}

static bool is_file(const char *path)
{
  struct stat info;
  return !stat(path, &info) && S_ISREG(info.st_mode);
}

static bool has_bytes(const char *path)
{
  struct stat info;
  return !stat(path, &info) && S_ISREG(info.st_mode) && info.st_size > 0;
}

static bool is_folder(const char *path)
{
  struct stat info;
  return !stat(path, &info) && S_ISDIR(info.st_mode);
}

/* What a pattern matches: files as they are, of folders their files and those of their folders;
 * nothing that is empty, or whose name begins with a dot. An index is not taken by itself. */
static int find_files(const char *pattern, path_list *list)
{
  glob_t found = {0};
  char below[PATH_BYTES];
  int status = NEAP_OK, code = glob(pattern, GLOB_NOSORT, NULL, &found);
  if (code == GLOB_NOSPACE)
    status = neapi_fail(NEAP_MEMORY, "text '%s': no memory for its files", pattern);
  for (size_t i = 0; !status && !code && i < found.gl_pathc; i++) {
    const char *path = found.gl_pathv[i];
    if (has_bytes(path) && !ends_with(path, ".idx"))
      status = add_path(list, path);
    else if (is_folder(path) && snprintf(below, sizeof below, "%s/*", path) < PATH_BYTES)
      status = find_files(below, list);
  }
  globfree(&found);
  return status;
}

/* The kind that a name ends with, which is cut off: mine.bin:u32. */
static int32_t take_kind(char *name)
{
  static const struct {
    const char *end;
    int32_t width;
  } kinds[] = {{":bytes", 1}, {":u16", 2}, {":u32", 4}};
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (ends_with(name, kinds[i].end)) {
      name[strlen(name) - strlen(kinds[i].end)] = 0;
      return kinds[i].width;
    }
  return NEAPI_AS_IT_IS;
}

/* The file of ids that belongs to a name as Megatron gives it: with .idx, or without either. */
static bool find_indexed(const char *name, char *path)
{
  int length = (int)strlen(name) - (ends_with(name, ".idx") ? 4 : 0);
  snprintf(path, PATH_BYTES, "%.*s.idx", length, name);
  bool indexed = is_file(path);
  snprintf(path, PATH_BYTES, "%.*s.bin", length, name);
  return indexed && is_file(path);
}

static int list_files(const char *name, path_list *list)
{
  char path[PATH_BYTES];
  if (strlen(name) + 8 > PATH_BYTES)
    return neapi_fail(NEAP_ARGUMENT, "text: a name of %zu bytes; allowed: %d", strlen(name),
                      PATH_BYTES - 8);
  if (is_file(name) && !ends_with(name, ".idx"))
    return add_path(list, name);
  if (is_folder(name)) {
    snprintf(path, sizeof path, "%s/*", name);
    int status = find_files(path, list);
    if (!status && !list->count)
      status = neapi_fail(NEAP_ABSENT, "text '%s': no file in the folder has anything in it", name);
    return status;
  }
  if (find_indexed(name, path))
    return add_path(list, path);
  int status = find_files(name, list);
  if (!status && !list->count)
    status = neapi_fail(NEAP_ABSENT,
                        "text '%s': there is no such file or folder, and no file matches", name);
  return status;
}

/* ---- contents -------------------------------------------------------------------------------- */

static int fail_file(const char *path, const char *what)
{
  return neapi_fail(NEAP_SYSTEM, "%s: %s: %s", path, what, strerror(errno));
}

/* A small file is read: a process may have some 65,000 mappings. */
static int read_file(const char *path, int fd, int64_t bytes, neapi_text_part *part)
{
  uint8_t *memory = neapi_alloc(bytes, "text");
  int64_t got = 0;
  for (ssize_t more = 1; memory && more && got < bytes; got += more) {
    more = read(fd, memory + got, (size_t)(bytes - got));
    if (more < 0) {
      free(memory);
      return fail_file(path, "cannot be read");
    }
  }
  *part = (neapi_text_part){.ids = memory, .tokens = got, .width = 1, .memory = memory};
  return memory ? NEAP_OK : NEAP_MEMORY;
}

/* What is not read of a mapped file costs nothing. */
static int map_bytes(const char *path, int fd, int64_t bytes, neapi_text_part *part)
{
  void *memory = mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  if (memory == MAP_FAILED)
    return fail_file(path, "cannot be mapped");
  *part = (neapi_text_part){
      .ids = memory, .tokens = bytes, .width = 1, .memory = memory, .mapped = bytes};
  if (bytes > LARGE) /* sequences lie here and there: no reading ahead */
    madvise(memory, (size_t)bytes, MADV_RANDOM);
  return NEAP_OK;
}

static int map_file(const char *path, neapi_text_part *part)
{
  struct stat info;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return fail_file(path, "cannot be opened");
  int status = fstat(fd, &info) ? fail_file(path, "cannot be read") : NEAP_OK;
  if (!status && info.st_size == 0)
    status = neapi_fail(NEAP_FORMAT, "%s: the file is empty", path);
  if (!status)
    status = (info.st_size > SMALL ? map_bytes : read_file)(path, fd, info.st_size, part);
  close(fd);
  return status;
}

static int unpack_file(const char *path, neapi_text_part *part)
{
  char *text = NULL;
  int64_t length = 0;
  int status = neapi_unpack(path, &text, &length);
  if (!status)
    *part = (neapi_text_part){.ids = (uint8_t *)text, .tokens = length, .width = 1, .memory = text};
  return status;
}

/* Ids as the index beside their file says, if there is one. */
static int read_index(const char *path, int32_t wanted, neapi_text_part *part, bool *indexed)
{
  char beside[PATH_BYTES];
  snprintf(beside, sizeof beside, "%.*s.idx", (int)strlen(path) - 4, path);
  *indexed = is_file(beside);
  if (!*indexed)
    return NEAP_OK;
  neapi_text_part index = {0};
  int32_t width = 0;
  int status = map_file(beside, &index);
  if (!status) {
    status = neapi_tokens_index(beside, index.ids, index.tokens, part->tokens, &width);
    neapi_text_part_free(&index);
  }
  if (!status && wanted && wanted != width)
    status = neapi_fail(NEAP_ARGUMENT, "%s: its ids have %d bytes, as %s says; not %d", path, width,
                        beside, wanted);
  if (!status) {
    part->width = width;
    part->tokens /= width;
  }
  return status;
}

/* width: of ids, NEAPI_AS_IT_IS: bytes, or in files *.bin what these show. */
static int open_file(const char *path, int32_t width, neapi_text_parts *parts)
{
  neapi_text_part part = {0};
  bool packed = ends_with(path, ".gz") || ends_with(path, ".xz") || ends_with(path, ".zst");
  int status = packed ? unpack_file(path, &part) : map_file(path, &part);
  bool indexed = false, ids = width > 1 || (!width && ends_with(path, ".bin"));
  if (!status && ids && ends_with(path, ".bin"))
    status = read_index(path, width, &part, &indexed);
  if (!status && ids && !indexed)
    status = neapi_tokens_flat(path, part.ids, part.tokens, width, &part);
  if (!status && !(part.path = strdup(path)))
    status = neapi_fail(NEAP_MEMORY, "text: no memory for a path");
  if (!status)
    return neapi_text_add(parts, part);
  neapi_text_part_free(&part);
  return status;
}

/* Bytes and ids of a tokenizer are two vocabularies. */
static int check_alike(const char *name, const neapi_text_parts *parts)
{
  for (int64_t i = 1; i < parts->count; i++)
    if ((parts->items[0].width == 1) != (parts->items[i].width == 1))
      return neapi_fail(NEAP_FORMAT,
                        "text '%s': %s has ids of %d bytes, %s of %d: bytes and a tokenizer's ids "
                        "do not go together; name one kind, as in '*.bin'",
                        name, parts->items[0].path, parts->items[0].width, parts->items[i].path,
                        parts->items[i].width);
  return NEAP_OK;
}

int neapi_text_files_open(const char *name, neapi_text_parts *parts)
{
  char *pattern = strdup(name);
  if (!pattern)
    return neapi_fail(NEAP_MEMORY, "text: no memory for its name");
  path_list list = {0};
  int32_t width = is_file(name) ? NEAPI_AS_IT_IS : take_kind(pattern);
  int status = list_files(pattern, &list);
  if (!status)
    qsort(list.items, (size_t)list.count, sizeof *list.items, compare_paths);
  for (int64_t i = 0; !status && i < list.count; i++)
    status = open_file(list.items[i], width, parts);
  if (!status)
    status = check_alike(name, parts);
  free_paths(&list);
  free(pattern);
  return status;
}
