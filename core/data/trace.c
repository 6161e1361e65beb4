/* SPDX-License-Identifier: Apache-2.0 */
/* Recorded loads: reading and checking trace files. */
#include "data/trace.h"

#include "base/memory.h"
#include "data/unpack.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { LENGTH_BYTES = 8 };

int64_t neapi_trace_count(const int64_t *shape, int first)
{
  int64_t count = 1;
  for (int i = first; i < NEAPI_TRACE_DIMS; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(count, shape[i], &count))
      return -1;
  return count <= INT64_MAX / (int64_t)sizeof(int32_t) ? count : -1;
}

uint32_t neapi_trace_crc(uint32_t data_crc, const int64_t *shape, const neapi_key_value *pairs,
                         int64_t count)
{
  uLong crc = data_crc;
  char text[32];
  for (int i = 0; i < NEAPI_TRACE_DIMS; i++) {
    int length = snprintf(text, sizeof text, "%" PRId64 ",", shape[i]);
    crc = crc32(crc, (const Bytef *)text, (uInt)length);
  }
  for (int64_t i = 0; i < count; i++)
    if (strcmp(pairs[i].key, "crc32")) {
      crc = crc32_z(crc, (const Bytef *)pairs[i].key, strlen(pairs[i].key) + 1);
      crc = crc32_z(crc, (const Bytef *)pairs[i].value, strlen(pairs[i].value) + 1);
    }
  return (uint32_t)crc;
}

/* ---- safetensors ----------------------------------------------------------------------------- */

static int bad(const char *path, int64_t byte, const char *what)
{
  return neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": %s", path, byte, what);
}

/* The types that loads may have. */
typedef struct {
  const char *name;
  int32_t bytes;
  bool is_signed;
} load_type;

static const load_type TYPES[] = {
    {"I32", 4, true},  {"I64", 8, true},  {"I16", 2, true},  {"I8", 1, true},
    {"U64", 8, false}, {"U32", 4, false}, {"U16", 2, false}, {"U8", 1, false},
};

static const load_type *find_type(const char *name)
{
  for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
    if (!strcmp(TYPES[i].name, name))
      return &TYPES[i];
  return NULL;
}

/* The tensor against the bytes that the file holds after its header, which ends at byte data. */
static int check_tensor(const char *path, const neapi_header *header, int64_t data, int64_t bytes,
                        int64_t *shape)
{
  const neapi_tensor_entry *tensor = header->tensors;
  if (header->tensor_count != 1 || strcmp(tensor->name, NEAPI_TRACE_TENSOR))
    return bad(path, LENGTH_BYTES, "not a trace: it must hold one tensor, \"load\"");
  const load_type *type = find_type(tensor->dtype);
  if (!type || tensor->ndim != NEAPI_TRACE_DIMS)
    return bad(path, LENGTH_BYTES,
               "not a trace: \"load\" must be of whole numbers with 4 dimensions: steps, layers, "
               "ranks, experts");
  int64_t count = neapi_trace_count(tensor->shape, 0);
  if (count < 0 || tensor->begin != 0 || tensor->end / type->bytes != count ||
      tensor->end % type->bytes)
    return bad(path, LENGTH_BYTES, "shape and data_offsets of \"load\" do not fit together");
  for (int i = NEAPI_LAYERS; i < NEAPI_TRACE_DIMS; i++)
    if (tensor->shape[i] < 1)
      return bad(path, LENGTH_BYTES, "a dimension of \"load\" is 0");
  if (bytes < tensor->end)
    return neapi_fail(NEAP_FORMAT,
                      "%s: byte %" PRId64 ": truncated: the file ends here; its header announces "
                      "%" PRId64 " bytes",
                      path, data + bytes, data + tensor->end);
  const char *state = neapi_header_value(header, "state");
  bool written = !state || strcmp(state, NEAPI_TRACE_WRITING);
  if (bytes > tensor->end && written) /* else a part of the step that was being written */
    return bad(path, data + tensor->end, "bytes after the end of the data");
  memcpy(shape, tensor->shape, sizeof tensor->shape[0] * NEAPI_TRACE_DIMS);
  return NEAP_OK;
}

/* A file of the writer has its marks; one that has none of them is another's, taken as it is. */
static int check_marks(const char *path, const neap_trace *trace, const char *from, int64_t data)
{
  const neapi_header *header = &trace->header;
  const char *format = neapi_header_value(header, "format");
  const char *version = neapi_header_value(header, "version");
  const char *expected = neapi_header_value(header, "crc32");
  if (!expected && (!format || strcmp(format, NEAPI_TRACE_FORMAT)))
    return NEAP_OK;
  if (!format || strcmp(format, NEAPI_TRACE_FORMAT) || !version || !expected)
    return bad(path, LENGTH_BYTES, "metadata without format \"neap.trace\", version and crc32");
  if (strcmp(version, NEAPI_TRACE_VERSION))
    return neapi_fail(NEAP_FORMAT, "%s: byte %d: trace of version %s; this program reads %s", path,
                      LENGTH_BYTES, version, NEAPI_TRACE_VERSION);
  char crc[16];
  uLong data_crc = crc32_z(0, (const Bytef *)from, (size_t)header->tensors->end);
  snprintf(crc, sizeof crc, "%08" PRIx32,
           neapi_trace_crc((uint32_t)data_crc, trace->shape, header->pairs, header->pair_count));
  if (strcmp(crc, expected))
    return neapi_fail(NEAP_FORMAT,
                      "%s: byte %" PRId64 ": checksum is %s, the header says %.16s: the file is "
                      "damaged",
                      path, data, crc, expected);
  return NEAP_OK;
}

/* Loads of any type, as trace->memory has them. */
static int copy_loads(const char *path, const char *from, int64_t data, neap_trace *trace)
{
  const load_type *type = find_type(trace->header.tensors->dtype);
  int32_t *load = trace->memory;
  int64_t count = neapi_trace_count(trace->shape, 0);
  for (int64_t i = 0; i < count; i++) {
    uint64_t bits = 0;
    memcpy(&bits, from + i * type->bytes, (size_t)type->bytes);
    int unused = 64 - 8 * type->bytes;
    int64_t value = type->is_signed ? (int64_t)(bits << unused) >> unused : (int64_t)bits;
    if (value < 0 || value > INT32_MAX)
      return neapi_fail(NEAP_FORMAT,
                        "%s: byte %" PRId64 ": load is %" PRId64 "; it must be from 0 to %d", path,
                        data + i * type->bytes, value, INT32_MAX);
    load[i] = (int32_t)value;
  }
  return NEAP_OK;
}

/* Fills trace from the file's bytes; trace->memory gets the loads, aligned. */
static int parse_safetensors(const char *path, const char *text, int64_t length, neap_trace *trace)
{
  uint64_t announced = 0;
  for (int i = LENGTH_BYTES - 1; i >= 0; i--)
    announced = announced << 8 | (unsigned char)text[i];
  if (announced > NEAPI_TRACE_HEADER || announced > (uint64_t)(length - LENGTH_BYTES))
    return neapi_fail(NEAP_FORMAT,
                      "%s: byte 0: header of %" PRIu64 " bytes announced; the file has %" PRId64
                      " in all, and a trace's header may have %d",
                      path, announced, length, NEAPI_TRACE_HEADER);
  int64_t data = LENGTH_BYTES + (int64_t)announced;
  int status = neapi_header_parse(path, LENGTH_BYTES, text + LENGTH_BYTES, data - LENGTH_BYTES,
                                  &trace->header);
  if (status)
    return status;
  status = check_tensor(path, &trace->header, data, length - data, trace->shape);
  if (status)
    return status;
  trace->memory = neapi_alloc(4 * neapi_trace_count(trace->shape, 0) + 1, "trace");
  if (!trace->memory)
    return NEAP_MEMORY;
  trace->load = trace->memory;
  status = check_marks(path, trace, text + data, data);
  return status ? status : copy_loads(path, text + data, data, trace);
}

/* A header is JSON, so that its 9th byte is '{', which no CSV has there. */
static bool is_safetensors(const char *text, int64_t length)
{
  return length > LENGTH_BYTES && text[LENGTH_BYTES] == '{';
}

int neapi_trace_parse(const char *path, const char *text, int64_t length, neap_trace *trace)
{
  return is_safetensors(text, length) ? parse_safetensors(path, text, length, trace)
                                      : neapi_trace_parse_csv(path, text, length, trace);
}

int neap_trace_open(const char *path, neap_trace **out)
{
  char *text = NULL;
  int64_t length = 0;
  int status = neapi_unpack(path, &text, &length);
  if (status)
    return status;
  neap_trace *trace = neapi_alloc_zero(sizeof *trace, "trace");
  status = trace ? neapi_trace_parse(path, text, length, trace) : NEAP_MEMORY;
  free(text);
  if (status)
    neap_trace_close(trace);
  else
    *out = trace;
  return status;
}

void neap_trace_close(neap_trace *trace)
{
  if (!trace)
    return;
  neapi_header_free(&trace->header);
  free(trace->memory);
  free(trace->notes);
  free(trace);
}

void neap_trace_shape(const neap_trace *trace, int64_t *shape)
{
  memcpy(shape, trace->shape, sizeof trace->shape);
}

int neap_trace_load(const neap_trace *trace, int64_t step, int64_t layer, int64_t *load)
{
  const int64_t *shape = trace->shape;
  if (step < 0 || step >= shape[NEAPI_STEPS] || layer < 0 || layer >= shape[NEAPI_LAYERS])
    return neapi_fail(NEAP_ARGUMENT,
                      "trace: step %" PRId64 ", layer %" PRId64 "; it has %" PRId64 " steps and "
                      "%" PRId64 " layers",
                      step, layer, shape[NEAPI_STEPS], shape[NEAPI_LAYERS]);
  int64_t count = neapi_trace_count(shape, NEAPI_RANKS);
  const int32_t *from = trace->load + (step * shape[NEAPI_LAYERS] + layer) * count;
  for (int64_t i = 0; i < count; i++)
    load[i] = from[i];
  return NEAP_OK;
}

const char *neap_trace_metadata(const neap_trace *trace, int64_t index, const char **value)
{
  if (index < 0 || index >= trace->header.pair_count)
    return NULL;
  *value = trace->header.pairs[index].value;
  return trace->header.pairs[index].key;
}

const char *neap_trace_notes(const neap_trace *trace)
{
  return trace->notes;
}
