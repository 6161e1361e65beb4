/* SPDX-License-Identifier: Apache-2.0 */
/* A rank's file of a checkpoint, read: nothing is handed out before its checksum has been seen. */
#include "base/dtype.h"
#include "base/memory.h"
#include "data/checkpoint.h"
#include "data/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { CHECKSUM_BYTES = 4, NO_CHUNK = -1 };

struct neap_checkpoint_reader {
  char *path;
  int file;
  int64_t bytes; /* before the checksums */
  int64_t data;  /* where the tensors start */
  int64_t count; /* checksums, of as many chunks */
  uint32_t *checksums;
  neapi_header header;
  char *chunk; /* the one that was read last */
  int64_t chunk_index;
};

/* ---- checked bytes --------------------------------------------------------------------------- */

static int64_t chunk_bytes(const neap_checkpoint_reader *r, int64_t index)
{
  int64_t left = r->bytes - index * NEAPI_CHUNK;
  return left < NEAPI_CHUNK ? left : NEAPI_CHUNK;
}

/* Reads a chunk to memory and compares its checksum. */
static int read_chunk(const neap_checkpoint_reader *r, int64_t index, void *to)
{
  int64_t bytes = chunk_bytes(r, index);
  int status = neapi_read_at(r->file, r->path, to, bytes, index * NEAPI_CHUNK);
  if (status)
    return status;
  uint32_t sum = r->checksums ? (uint32_t)crc32_z(0, to, (size_t)bytes) : 0;
  if (r->checksums && sum != r->checksums[index])
    return neapi_fail(NEAP_FORMAT,
                      "%s: bytes %" PRId64 " to %" PRId64 ": checksum is %08" PRIx32
                      ", the file says %08" PRIx32 ": it is damaged",
                      r->path, index * NEAPI_CHUNK, index * NEAPI_CHUNK + bytes - 1, sum,
                      r->checksums[index]);
  return NEAP_OK;
}

/* Reads bytes from an offset on, which lie before the checksums. */
static int read_bytes(neap_checkpoint_reader *r, int64_t offset, int64_t bytes, char *to)
{
  while (bytes > 0) {
    int64_t index = offset / NEAPI_CHUNK, skip = offset % NEAPI_CHUNK;
    int64_t whole = chunk_bytes(r, index), part = whole - skip < bytes ? whole - skip : bytes;
    int status = NEAP_OK;
    if (part == whole && r->chunk_index != index) {
      status = read_chunk(r, index, to);
    } else {
      if (r->chunk_index != index) {
        r->chunk_index = NO_CHUNK;
        status = read_chunk(r, index, r->chunk);
        r->chunk_index = status ? NO_CHUNK : index;
      }
      if (!status)
        memcpy(to, r->chunk + skip, (size_t)part);
    }
    if (status)
      return status;
    offset += part;
    to += part;
    bytes -= part;
  }
  return NEAP_OK;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int bad(const neap_checkpoint_reader *r, const char *what)
{
  return neapi_fail(NEAP_FORMAT, "%s: %s", r->path, what);
}

/* The file against what the manifest says of it, if that is known. */
static int read_checksums(neap_checkpoint_reader *r, const neap_checkpoint_file *about)
{
  struct stat info;
  if (fstat(r->file, &info))
    return neapi_fail(NEAP_SYSTEM, "%s: cannot be read: %s", r->path, strerror(errno));
  if (about && info.st_size != about->bytes)
    return neapi_fail(NEAP_FORMAT, "%s: has %" PRId64 " bytes; it was written with %" PRId64,
                      r->path, (int64_t)info.st_size, about->bytes);
  r->chunk = neapi_alloc(info.st_size < NEAPI_CHUNK ? info.st_size : NEAPI_CHUNK, "chunk");
  if (!r->chunk)
    return NEAP_MEMORY;
  if (!about) {
    r->bytes = info.st_size;
    r->count = (r->bytes + NEAPI_CHUNK - 1) / NEAPI_CHUNK;
    return r->bytes < NEAPI_LENGTH_BYTES ? bad(r, "is too short for a safetensors file") : NEAP_OK;
  }
  const int64_t each = NEAPI_CHUNK + CHECKSUM_BYTES;
  r->count = (about->bytes + each - 1) / each;
  r->bytes = about->bytes - CHECKSUM_BYTES * r->count;
  if (r->bytes < NEAPI_LENGTH_BYTES || (r->bytes + NEAPI_CHUNK - 1) / NEAPI_CHUNK != r->count)
    return bad(r, "so many bytes no file of a checkpoint has");
  int64_t bytes = CHECKSUM_BYTES * r->count;
  r->checksums = neapi_alloc(bytes, "checksums");
  if (!r->checksums)
    return NEAP_MEMORY;
  int status = neapi_read_at(r->file, r->path, r->checksums, bytes, r->bytes);
  if (status)
    return status;
  uint32_t seal = (uint32_t)crc32_z(0, (const Bytef *)r->checksums, (size_t)bytes);
  if (seal != about->seal)
    return neapi_fail(NEAP_FORMAT,
                      "%s: seal is %08" PRIx32 ", the manifest says %08" PRIx32
                      ": the file is damaged, or another one",
                      r->path, seal, about->seal);
  return NEAP_OK;
}

/* Bytes of a tensor by its shape, or -1. */
static int64_t tensor_bytes(const neapi_tensor_entry *tensor)
{
  int64_t bytes = neap_dtype_size(neapi_dtype_of_safetensors(tensor->dtype));
  for (int i = 0; i < tensor->ndim; i++)
    if (__builtin_mul_overflow(bytes, tensor->shape[i], &bytes))
      return -1;
  return bytes ? bytes : tensor->end == tensor->begin ? 0 : -1;
}

/* The tensors of any writer: those of types that are known here lie within the file. */
static int check_plain_header(const neap_checkpoint_reader *r)
{
  for (int64_t i = 0; i < r->header.tensor_count; i++) {
    const neapi_tensor_entry *tensor = &r->header.tensors[i];
    bool known = neapi_dtype_of_safetensors(tensor->dtype) >= 0;
    if (tensor->end > r->bytes - r->data ||
        (known && tensor_bytes(tensor) != tensor->end - tensor->begin))
      return neapi_fail(NEAP_FORMAT, "%s: tensor '%s' does not lie where it should", r->path,
                        tensor->name);
  }
  return NEAP_OK;
}

/* Every byte of the data belongs to one tensor, the last of which are the checksums. */
static int check_header(const neap_checkpoint_reader *r)
{
  const neapi_header *header = &r->header;
  const char *format = neapi_header_value(header, "format");
  const char *version = neapi_header_value(header, "version");
  if (!format || strcmp(format, NEAPI_CHECKPOINT_FORMAT) || !version)
    return bad(r, "is no file of a checkpoint");
  if (strcmp(version, NEAPI_CHECKPOINT_VERSION))
    return neapi_fail(NEAP_FORMAT, "%s: has version %s; this program reads version %s", r->path,
                      version, NEAPI_CHECKPOINT_VERSION);
  int64_t end = 0;
  for (int64_t i = 0; i < header->tensor_count; i++) {
    const neapi_tensor_entry *tensor = &header->tensors[i];
    if (tensor->begin != end || neapi_dtype_of_safetensors(tensor->dtype) < 0 ||
        tensor_bytes(tensor) != tensor->end - tensor->begin)
      return neapi_fail(NEAP_FORMAT, "%s: tensor '%s' does not lie where it should", r->path,
                        tensor->name);
    end = tensor->end;
  }
  if (header->tensor_count < 1)
    return bad(r, "it has no checksums");
  const neapi_tensor_entry *last = &header->tensors[header->tensor_count - 1];
  if (strcmp(last->name, NEAPI_CHECKSUMS) || r->data + last->begin != r->bytes ||
      last->end - last->begin != CHECKSUM_BYTES * r->count)
    return bad(r, "its checksums do not lie where they should");
  return NEAP_OK;
}

static int read_header(neap_checkpoint_reader *r)
{
  unsigned char length[NEAPI_LENGTH_BYTES];
  int status = read_bytes(r, 0, NEAPI_LENGTH_BYTES, (char *)length);
  if (status)
    return status;
  uint64_t bytes = 0;
  for (int i = NEAPI_LENGTH_BYTES - 1; i >= 0; i--)
    bytes = bytes << 8 | length[i];
  if (bytes > (uint64_t)(r->bytes - NEAPI_LENGTH_BYTES))
    return bad(r, "its header is longer than the file");
  r->data = NEAPI_LENGTH_BYTES + (int64_t)bytes;
  char *text = neapi_alloc((int64_t)bytes, "header");
  if (!text)
    return NEAP_MEMORY;
  status = read_bytes(r, NEAPI_LENGTH_BYTES, (int64_t)bytes, text);
  if (!status)
    status = neapi_header_parse(r->path, NEAPI_LENGTH_BYTES, text, (int64_t)bytes, &r->header);
  free(text);
  if (status)
    return status;
  return r->checksums ? check_header(r) : check_plain_header(r);
}

int neap_checkpoint_reader_open(const char *path, const neap_checkpoint_file *about,
                                neap_checkpoint_reader **out)
{
  neap_checkpoint_reader *r = neapi_alloc_zero(sizeof *r, "checkpoint reader");
  if (!r)
    return NEAP_MEMORY;
  r->chunk_index = NO_CHUNK;
  r->file = open(path, O_RDONLY | O_CLOEXEC);
  r->path = strdup(path);
  int status = !r->path ? neapi_fail(NEAP_MEMORY, "%s: no memory for its name", path)
               : r->file < 0
                   ? neapi_fail(NEAP_SYSTEM, "%s: cannot be opened: %s", path, strerror(errno))
                   : read_checksums(r, about);
  if (!status)
    status = read_header(r);
  if (status)
    neap_checkpoint_reader_close(r);
  else
    *out = r;
  return status;
}

void neap_checkpoint_reader_close(neap_checkpoint_reader *r)
{
  if (!r)
    return;
  if (r->file >= 0)
    close(r->file);
  neapi_header_free(&r->header);
  free(r->checksums);
  free(r->chunk);
  free(r->path);
  free(r);
}

/* ---- reading --------------------------------------------------------------------------------- */

const char *neap_checkpoint_reader_tensor(const neap_checkpoint_reader *r, int64_t index,
                                          int *dtype, int32_t *ndim, const int64_t **dims)
{
  if (index < 0 || index >= r->header.tensor_count - (r->checksums ? 1 : 0))
    return NULL;
  const neapi_tensor_entry *tensor = &r->header.tensors[index];
  *dtype = neapi_dtype_of_safetensors(tensor->dtype);
  *ndim = tensor->ndim;
  *dims = tensor->shape;
  return tensor->name;
}

/* NULL: reported as SHAPE. */
static const neapi_tensor_entry *find(const neap_checkpoint_reader *r, const char *name, int dtype)
{
  for (int64_t i = 0; i < r->header.tensor_count; i++) {
    const neapi_tensor_entry *tensor = &r->header.tensors[i];
    if (strcmp(tensor->name, name))
      continue;
    if (neap_dtype_size(dtype) > 0 && neapi_dtype_of_safetensors(tensor->dtype) == dtype)
      return tensor;
    neapi_fail(NEAP_SHAPE, "%s: tensor '%s' is of type %s; expected is %s", r->path, name,
               tensor->dtype, neapi_dtype_name(dtype));
    return NULL;
  }
  neapi_fail(NEAP_SHAPE, "%s: has no tensor '%s'", r->path, name);
  return NULL;
}

int neap_checkpoint_reader_read(neap_checkpoint_reader *r, const char *name, int dtype,
                                int64_t first, int64_t count, void *to)
{
  const neapi_tensor_entry *tensor = find(r, name, dtype);
  if (!tensor)
    return NEAP_SHAPE;
  int64_t size = neap_dtype_size(dtype), has = (tensor->end - tensor->begin) / size;
  if (first < 0 || count < 0 || first > has || count > has - first)
    return neapi_fail(
        NEAP_SHAPE, "%s: %" PRId64 " elements from %" PRId64 " of tensor '%s', which has %" PRId64,
        r->path, count, first, name, has);
  return read_bytes(r, r->data + tensor->begin + first * size, count * size, to);
}

int neap_checkpoint_reader_ranges(neap_checkpoint_reader *r, const char *name, int dtype,
                                  int64_t arrays, const int64_t *held, const int64_t *wanted,
                                  void *to)
{
  int64_t size = neap_dtype_size(dtype), from_at = 0, to_at = 0;
  for (int64_t i = 0; i < arrays; i++) {
    int64_t begin = held[2 * i], end = held[2 * i + 1];
    int64_t want = wanted[2 * i], until = wanted[2 * i + 1];
    if (begin < 0 || end < begin || want < 0 || until < want)
      return neapi_fail(NEAP_ARGUMENT,
                        "%s: elements %" PRId64 " to %" PRId64 " for %" PRId64 " to %" PRId64
                        " of array %" PRId64 " of '%s'",
                        r->path, begin, end, want, until, i, name);
    int64_t low = begin > want ? begin : want, high = end < until ? end : until;
    if (low < high) {
      int status = neap_checkpoint_reader_read(r, name, dtype, from_at + low - begin, high - low,
                                               (char *)to + size * (to_at + low - want));
      if (status)
        return status;
    }
    from_at += end - begin;
    to_at += until - want;
  }
  return NEAP_OK;
}

const char *neap_checkpoint_reader_note(const neap_checkpoint_reader *r, const char *key)
{
  return neapi_header_value(&r->header, key);
}

int neap_checkpoint_reader_check(neap_checkpoint_reader *r)
{
  r->chunk_index = NO_CHUNK;
  for (int64_t i = 0; i < r->count; i++) {
    int status = read_chunk(r, i, r->chunk);
    if (status)
      return status;
  }
  return NEAP_OK;
}
