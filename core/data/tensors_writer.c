/* SPDX-License-Identifier: Apache-2.0 */
/* Safetensors files, whole or not there: names and shapes first, then the bytes as they come. */
#include "data/tensors_writer.h"

#include "base/memory.h"
#include "data/checkpoint.h"
#include "data/durable.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { ALIGN = 64, ENTRY_BYTES = 256, LEAST_ENTRIES = 64 };

struct neap_tensors_writer {
  char *path;
  bool sealed, begun;
  neapi_tensor_entry *tensors; /* dtype is static text */
  neapi_key_value *pairs;
  int64_t tensor_count, tensor_capacity, pair_count, pair_capacity;
  int64_t data_bytes;  /* of what has been declared */
  int64_t text_bytes;  /* of names, keys and values */
  int64_t appended;    /* of data_bytes */
  int64_t position;    /* bytes in the file, while checksums do not stand there yet */
  uint32_t crc;        /* of the chunk that position is in */
  uint32_t *checksums; /* of the chunks before it */
  neapi_durable file;
};

/* ---- types ----------------------------------------------------------------------------------- */

static const struct {
  int dtype;
  const char *name;
} dtypes[] = {{NEAP_F32, "F32"}, {NEAP_F64, "F64"},   {NEAP_I32, "I32"},
              {NEAP_I64, "I64"}, {NEAP_BF16, "BF16"}, {NEAP_U8, "U8"}};

enum { DTYPES = sizeof dtypes / sizeof *dtypes };

const char *neapi_safetensors_dtype(int dtype)
{
  for (int i = 0; i < DTYPES; i++)
    if (dtypes[i].dtype == dtype)
      return dtypes[i].name;
  return NULL;
}

int neapi_dtype_of_safetensors(const char *name)
{
  for (int i = 0; i < DTYPES; i++)
    if (!strcmp(dtypes[i].name, name))
      return dtypes[i].dtype;
  return -1;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void forget(neap_tensors_writer *w)
{
  if (w->begun)
    neapi_durable_abandon(&w->file);
  for (int64_t i = 0; i < w->tensor_count; i++)
    free(w->tensors[i].name);
  for (int64_t i = 0; i < w->pair_count; i++) {
    free(w->pairs[i].key);
    free(w->pairs[i].value);
  }
  free(w->tensors);
  free(w->pairs);
  free(w->checksums);
  free(w->path);
  *w = (neap_tensors_writer){.sealed = w->sealed};
}

int neapi_tensors_writer_reset(neap_tensors_writer *w, const char *path)
{
  forget(w);
  w->path = strdup(path);
  return w->path ? NEAP_OK : neapi_fail(NEAP_MEMORY, "%s: no memory for its name", path);
}

int neap_tensors_writer_open(const char *path, neap_tensors_writer **out)
{
  neap_tensors_writer *w = neapi_alloc_zero(sizeof *w, "tensors writer");
  int status = w ? neapi_tensors_writer_reset(w, path) : NEAP_MEMORY;
  if (status)
    free(w);
  else
    *out = w;
  return status;
}

void neap_tensors_writer_close(neap_tensors_writer *w)
{
  if (w)
    forget(w);
  free(w);
}

void neapi_tensors_writer_seal(neap_tensors_writer *w)
{
  w->sealed = true;
}

int64_t neapi_tensors_writer_data_bytes(const neap_tensors_writer *w)
{
  return w->data_bytes;
}

/* ---- what the file will hold ----------------------------------------------------------------- */

/* Makes one entry more fit into *list. */
static int make_fit(void **list, int64_t count, int64_t *capacity, size_t size)
{
  if (count < *capacity)
    return NEAP_OK;
  int64_t larger = *capacity ? 2 * *capacity : LEAST_ENTRIES;
  void *memory = realloc(*list, (size_t)larger * size);
  if (!memory)
    return neapi_fail(NEAP_MEMORY, "tensors: no memory for %" PRId64 " entries", larger);
  *list = memory;
  *capacity = larger;
  return NEAP_OK;
}

/* Bytes of a tensor, or -1. */
static int64_t bytes_of(int dtype, int32_t ndim, const int64_t *dims)
{
  int64_t bytes = neap_dtype_size(dtype);
  for (int32_t i = 0; i < ndim; i++)
    if (dims[i] < 0 || __builtin_mul_overflow(bytes, dims[i], &bytes))
      return -1;
  return bytes;
}

int neap_tensors_writer_declare(neap_tensors_writer *w, const char *name, int dtype, int32_t ndim,
                                const int64_t *dims)
{
  const char *type = neapi_safetensors_dtype(dtype);
  bool fits = type && ndim >= 0 && ndim <= NEAPI_TENSOR_DIMS && !w->begun;
  int64_t bytes = fits ? bytes_of(dtype, ndim, dims) : -1;
  if (bytes < 0 || bytes > INT64_MAX / 4 - w->data_bytes)
    return neapi_fail(NEAP_ARGUMENT, "%s: tensor '%s' of type %d and %d dimensions%s", w->path,
                      name, dtype, ndim,
                      w->begun ? ": the file has begun" : " cannot be; allowed are 0 to 8");
  int status =
      make_fit((void **)&w->tensors, w->tensor_count, &w->tensor_capacity, sizeof *w->tensors);
  if (status)
    return status;
  neapi_tensor_entry *tensor = &w->tensors[w->tensor_count];
  *tensor = (neapi_tensor_entry){.name = strdup(name),
                                 .dtype = (char *)(uintptr_t)type,
                                 .ndim = ndim,
                                 .begin = w->data_bytes,
                                 .end = w->data_bytes + bytes};
  if (!tensor->name)
    return neapi_fail(NEAP_MEMORY, "tensors: no memory for a name");
  memcpy(tensor->shape, dims, (size_t)ndim * sizeof *dims);
  w->tensor_count++;
  w->data_bytes += bytes;
  w->text_bytes += (int64_t)strlen(name);
  return NEAP_OK;
}

int neap_tensors_writer_set_metadata(neap_tensors_writer *w, const char *key, const char *value)
{
  int status = make_fit((void **)&w->pairs, w->pair_count, &w->pair_capacity, sizeof *w->pairs);
  if (status)
    return status;
  neapi_key_value *pair = &w->pairs[w->pair_count++];
  *pair = (neapi_key_value){strdup(key), strdup(value)};
  w->text_bytes += (int64_t)(strlen(key) + strlen(value));
  return pair->key && pair->value ? NEAP_OK
                                  : neapi_fail(NEAP_MEMORY, "tensors: no memory for metadata");
}

/* ---- the header ------------------------------------------------------------------------------ */

static char *put_pairs(const neap_tensors_writer *w, char *at)
{
  at += sprintf(at, "\"__metadata__\":{");
  for (int64_t i = 0; i < w->pair_count; i++) {
    if (i)
      *at++ = ',';
    at = neapi_json_string(at, w->pairs[i].key);
    *at++ = ':';
    at = neapi_json_string(at, w->pairs[i].value);
  }
  *at++ = '}';
  return at;
}

static char *put_tensor(char *at, const neapi_tensor_entry *tensor)
{
  at = neapi_json_string(at, tensor->name);
  at += sprintf(at, ":{\"dtype\":\"%s\",\"shape\":[", tensor->dtype);
  for (int i = 0; i < tensor->ndim; i++)
    at += sprintf(at, "%s%" PRId64, i ? "," : "", tensor->shape[i]);
  return at +
         sprintf(at, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", tensor->begin, tensor->end);
}

/* The file's first bytes, to be freed; *bytes: how many. NULL: reported. */
static char *make_header(const neap_tensors_writer *w, int64_t *bytes)
{
  int64_t most = ENTRY_BYTES * (w->tensor_count + w->pair_count + 1) + 6 * w->text_bytes;
  char *text = neapi_alloc(NEAPI_LENGTH_BYTES + most + ALIGN, "tensors header");
  if (!text)
    return NULL;
  char *at = text + NEAPI_LENGTH_BYTES;
  *at++ = '{';
  if (w->pair_count)
    at = put_pairs(w, at);
  for (int64_t i = 0; i < w->tensor_count; i++) {
    if (i || w->pair_count)
      *at++ = ',';
    at = put_tensor(at, &w->tensors[i]);
  }
  *at++ = '}';
  while ((at - text) % ALIGN)
    *at++ = ' ';
  uint64_t length = (uint64_t)(at - text - NEAPI_LENGTH_BYTES);
  for (int i = 0; i < NEAPI_LENGTH_BYTES; i++)
    text[i] = (char)(length >> (8 * i));
  *bytes = at - text;
  return text;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Chunks of so many bytes. */
static int64_t chunks(int64_t bytes)
{
  return (bytes + NEAPI_CHUNK - 1) / NEAPI_CHUNK;
}

/* Takes bytes that are about to be written into the checksums. */
static void sum_up(neap_tensors_writer *w, const char *data, int64_t bytes)
{
  while (bytes > 0) {
    int64_t chunk = w->position / NEAPI_CHUNK, left = NEAPI_CHUNK - w->position % NEAPI_CHUNK;
    int64_t part = bytes < left ? bytes : left;
    w->crc = (uint32_t)crc32_z(left == NEAPI_CHUNK ? 0 : w->crc, (const Bytef *)data, (size_t)part);
    w->checksums[chunk] = w->crc;
    w->position += part;
    data += part;
    bytes -= part;
  }
}

static int put(neap_tensors_writer *w, const void *data, int64_t bytes)
{
  if (w->sealed)
    sum_up(w, data, bytes);
  else
    w->position += bytes;
  return neapi_durable_write(&w->file, data, bytes);
}

/* Declares the checksums, if there are to be any, and makes the header. How many there are depends
 * on the header's bytes and these on how many there are, so it is tried; both only grow. */
static char *make_whole_header(neap_tensors_writer *w, int64_t *bytes)
{
  int64_t data = w->data_bytes, count = chunks(data);
  if (!w->sealed)
    return make_header(w, bytes);
  if (neap_tensors_writer_declare(w, NEAPI_CHECKSUMS, NEAP_I32, 1, &count))
    return NULL;
  neapi_tensor_entry *entry = &w->tensors[w->tensor_count - 1];
  for (char *header; (header = make_header(w, bytes));) {
    if (chunks(*bytes + data) == count) {
      w->data_bytes = data; /* what will be appended */
      w->checksums = neapi_alloc_zero(4 * count, "checksums");
      if (w->checksums)
        return header;
      free(header);
      return NULL;
    }
    free(header);
    entry->shape[0] = count = chunks(*bytes + data);
    entry->end = entry->begin + 4 * count;
  }
  return NULL;
}

int neap_tensors_writer_begin(neap_tensors_writer *w)
{
  if (w->begun)
    return neapi_fail(NEAP_ARGUMENT, "%s: the file has begun", w->path);
  int64_t bytes = 0;
  char *header = make_whole_header(w, &bytes);
  if (!header)
    return NEAP_MEMORY;
  int status = neapi_durable_begin(&w->file, w->path);
  w->begun = !status;
  if (!status)
    status = put(w, header, bytes);
  free(header);
  return status;
}

int neap_tensors_writer_append(neap_tensors_writer *w, const void *data, int64_t bytes)
{
  if (!w->begun || bytes < 0 || bytes > w->data_bytes - w->appended)
    return neapi_fail(NEAP_ARGUMENT, "%s: %" PRId64 " bytes more; %" PRId64 " are still declared",
                      w->path, bytes, w->begun ? w->data_bytes - w->appended : 0);
  w->appended += bytes;
  return put(w, data, bytes);
}

int neap_tensors_writer_finish(neap_tensors_writer *w, int64_t *bytes, uint32_t *seal)
{
  if (!w->begun || w->appended != w->data_bytes)
    return neapi_fail(NEAP_ARGUMENT, "%s: %" PRId64 " bytes were declared and %" PRId64 " came",
                      w->path, w->data_bytes, w->appended);
  int64_t table = w->sealed ? 4 * chunks(w->position) : 0;
  *bytes = w->position + table;
  *seal = (uint32_t)crc32_z(0, (const Bytef *)w->checksums, (size_t)table);
  int status = neapi_durable_write(&w->file, w->checksums, table);
  if (status)
    return status;
  w->begun = false; /* whatever becomes of it */
  return neapi_durable_finish(&w->file);
}
