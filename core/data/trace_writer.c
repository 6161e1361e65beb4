/* SPDX-License-Identifier: Apache-2.0 */
/* Recorded loads: writing a trace while the run goes on. */
#include "data/trace.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <zlib.h>

/* PREFIX_BYTES: the most that the part of the file takes that changes with every step. It lies in
 * the file's first page, which a process that is killed has either written or not. */
enum { PREFIX_BYTES = 512, LENGTH_BYTES = 8, OWN_PAIRS = 4, ALIGN = 64 };

struct neap_trace_writer {
  char *path;
  int file;
  int64_t shape[NEAPI_TRACE_DIMS]; /* steps: those in the file */
  int64_t next_layer;
  int32_t *step; /* (layers, ranks, experts) of the step in progress */
  uint32_t data_crc;
  char crc[9], state[sizeof NEAPI_TRACE_WRITING];
  int failed;             /* a write has failed: the file stays as its header says */
  neapi_key_value *pairs; /* format, version, crc32, state, then the caller's */
  int64_t pair_count;
  char *header;
  int64_t header_bytes; /* with the length field; the data starts there */
};

static int system_error(const neap_trace_writer *w, const char *what)
{
  return neapi_fail(NEAP_SYSTEM, "%s: %s: %s", w->path, what, strerror(errno));
}

static int write_at(const neap_trace_writer *w, const void *data, int64_t bytes, int64_t offset)
{
  while (bytes > 0) {
    ssize_t written = pwrite(w->file, data, (size_t)bytes, offset);
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return system_error(w, "cannot be written");
    data = (const char *)data + written;
    bytes -= written;
    offset += written;
  }
  return NEAP_OK;
}

/* Brings the changing part up to the steps that the file holds, and returns its length, which never
 * changes. */
static int64_t update_prefix(neap_trace_writer *w)
{
  snprintf(w->crc, sizeof w->crc, "%08" PRIx32,
           neapi_trace_crc(w->data_crc, w->shape, w->pairs, w->pair_count));
  uint64_t length = (uint64_t)(w->header_bytes - LENGTH_BYTES);
  for (int i = 0; i < LENGTH_BYTES; i++)
    w->header[i] = (char)(length >> (8 * i));
  char text[PREFIX_BYTES];
  int bytes =
      snprintf(text, sizeof text,
               "{\"" NEAPI_TRACE_TENSOR "\":{\"dtype\":\"I32\",\"shape\":[%-20" PRId64 ",%" PRId64
               ",%" PRId64 ",%" PRId64 "],\"data_offsets\":[0,%-20" PRId64
               "]},\"__metadata__\":{\"format\":\"" NEAPI_TRACE_FORMAT
               "\",\"version\":\"" NEAPI_TRACE_VERSION "\",\"crc32\":\"%s\",\"state\":\"%s\"",
               w->shape[0], w->shape[1], w->shape[2], w->shape[3],
               4 * neapi_trace_count(w->shape, 0), w->crc, w->state);
  memcpy(w->header + LENGTH_BYTES, text, (size_t)bytes);
  return LENGTH_BYTES + bytes;
}

/* Writes the whole header: the changing part, the caller's pairs, and blanks up to its end. */
static int write_header(neap_trace_writer *w)
{
  char *at = w->header + update_prefix(w);
  for (int64_t i = OWN_PAIRS; i < w->pair_count; i++) {
    *at++ = ',';
    at = neapi_json_string(at, w->pairs[i].key);
    *at++ = ':';
    at = neapi_json_string(at, w->pairs[i].value);
  }
  *at++ = '}';
  *at++ = '}';
  memset(at, ' ', (size_t)(w->header + w->header_bytes - at));
  return write_at(w, w->header, w->header_bytes, 0);
}

static int check_pairs(const char *const *keys, const char *const *values, int64_t pairs)
{
  static const char *const own[OWN_PAIRS] = {"format", "version", "crc32", "state"};
  const char **names = neapi_alloc((pairs + OWN_PAIRS) * (int64_t)sizeof *names, "trace metadata");
  if (!names)
    return NEAP_MEMORY;
  int status = NEAP_OK;
  for (int64_t i = 0; i < pairs && !status; i++) {
    names[i] = keys[i];
    if (!keys[i] || !values[i])
      status = neapi_fail(NEAP_ARGUMENT, "trace: pair %" PRId64 " of the metadata is NULL", i);
    for (int k = 0; k < OWN_PAIRS && !status; k++)
      if (!strcmp(keys[i], own[k]))
        status = neapi_fail(NEAP_ARGUMENT, "trace: metadata '%s' is the writer's own", own[k]);
  }
  const char *twice = status ? NULL : neapi_name_twice(names, pairs);
  if (twice)
    status = neapi_fail(NEAP_ARGUMENT, "trace: metadata '%s' twice", twice);
  free(names);
  return status;
}

static int check_arguments(const int64_t *shape, const char *const *keys, const char *const *values,
                           int64_t pairs)
{
  int64_t full[NEAPI_TRACE_DIMS] = {1, shape[0], shape[1], shape[2]};
  if (shape[0] < 1 || shape[1] < 1 || shape[2] < 1 || neapi_trace_count(full, 0) < 0)
    return neapi_fail(NEAP_ARGUMENT,
                      "trace: %" PRId64 " layers, %" PRId64 " ranks, %" PRId64
                      " experts; each must be >= 1",
                      shape[0], shape[1], shape[2]);
  return check_pairs(keys, values, pairs);
}

static int copy_pairs(neap_trace_writer *w, const char *const *keys, const char *const *values,
                      int64_t pairs)
{
  const char *own[OWN_PAIRS][2] = {{"format", NEAPI_TRACE_FORMAT},
                                   {"version", NEAPI_TRACE_VERSION},
                                   {"crc32", NULL},
                                   {"state", NULL}};
  w->pairs = neapi_alloc_zero((pairs + OWN_PAIRS) * (int64_t)sizeof *w->pairs, "trace metadata");
  if (!w->pairs)
    return NEAP_MEMORY;
  int64_t bytes = LENGTH_BYTES + PREFIX_BYTES;
  for (int64_t i = 0; i < pairs + OWN_PAIRS; i++) {
    const char *key = i < OWN_PAIRS ? own[i][0] : keys[i - OWN_PAIRS];
    const char *value = i < OWN_PAIRS ? own[i][1] : values[i - OWN_PAIRS];
    neapi_key_value *pair = &w->pairs[w->pair_count++];
    pair->key = strdup(key);
    pair->value = value ? strdup(value) : i == 2 ? w->crc : w->state;
    if (!pair->key || !pair->value)
      return neapi_fail(NEAP_MEMORY, "trace: no memory for its metadata");
    bytes += 6 * (int64_t)(strlen(key) + strlen(pair->value)) + 8;
  }
  w->header_bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
  if (w->header_bytes > NEAPI_TRACE_HEADER)
    return neapi_fail(NEAP_ARGUMENT, "trace: metadata of %" PRId64 " bytes; at most %d are read",
                      w->header_bytes, NEAPI_TRACE_HEADER);
  w->header = neapi_alloc(w->header_bytes, "trace header");
  return w->header ? NEAP_OK : NEAP_MEMORY;
}

/* Takes the file for itself, as long as it is open: two runs that write one trace would leave
 * neither's. A file system without locks gives none. */
static int create(neap_trace_writer *w)
{
  w->file = open(w->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
  if (w->file < 0)
    return system_error(w, "cannot be created");
  if (flock(w->file, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
    return neapi_fail(NEAP_BUSY, "%s: another run is writing it", w->path);
  if (ftruncate(w->file, 0) && errno != EINVAL) /* EINVAL: a pipe or a device */
    return system_error(w, "cannot be emptied");
  return write_header(w);
}

int neap_trace_writer_open(const char *path, const int64_t *shape, const char *const *keys,
                           const char *const *values, int64_t pairs, neap_trace_writer **out)
{
  int status = check_arguments(shape, keys, values, pairs);
  if (status)
    return status;
  neap_trace_writer *w = neapi_alloc_zero(sizeof *w, "trace writer");
  if (!w)
    return NEAP_MEMORY;
  w->file = -1;
  memcpy(w->state, NEAPI_TRACE_WRITING, sizeof w->state);
  memcpy(w->shape + 1, shape, 3 * sizeof *shape);
  w->step = neapi_alloc(4 * neapi_trace_count(w->shape, NEAPI_LAYERS), "a step of the trace");
  w->path = strdup(path);
  status = w->step && w->path ? copy_pairs(w, keys, values, pairs) : NEAP_MEMORY;
  if (!status)
    status = create(w);
  if (status)
    neap_trace_writer_close(w);
  else
    *out = w;
  return status;
}

/* Appends the complete step: data first, so that a header never announces what is not there. */
static int write_step(neap_trace_writer *w)
{
  int64_t bytes = 4 * neapi_trace_count(w->shape, NEAPI_LAYERS);
  int status = write_at(w, w->step, bytes, w->header_bytes + bytes * w->shape[NEAPI_STEPS]);
  w->failed = status;
  if (status)
    return status;
  w->data_crc = (uint32_t)crc32_z(w->data_crc, (const Bytef *)w->step, (size_t)bytes);
  w->shape[NEAPI_STEPS]++;
  w->next_layer = 0;
  w->failed = write_at(w, w->header, update_prefix(w), 0);
  return w->failed;
}

int neap_trace_writer_append(neap_trace_writer *w, int64_t step, int64_t layer, const int64_t *load)
{
  if (step != w->shape[NEAPI_STEPS] || layer != w->next_layer)
    return neapi_fail(NEAP_ARGUMENT,
                      "trace: step %" PRId64 ", layer %" PRId64
                      " out of order; next is step %" PRId64 ", layer %" PRId64,
                      step, layer, w->shape[NEAPI_STEPS], w->next_layer);
  int64_t count = neapi_trace_count(w->shape, NEAPI_RANKS);
  int32_t *to = w->step + layer * count;
  for (int64_t i = 0; i < count; i++) {
    if (load[i] < 0 || load[i] > INT32_MAX)
      return neapi_fail(NEAP_ARGUMENT,
                        "trace: step %" PRId64 ", layer %" PRId64 ", rank %" PRId64
                        ", expert %" PRId64 ": load is %" PRId64 "; allowed: 0 to %d",
                        step, layer, i / w->shape[NEAPI_EXPERTS], i % w->shape[NEAPI_EXPERTS],
                        load[i], INT32_MAX);
    to[i] = (int32_t)load[i];
  }
  w->next_layer++;
  return w->next_layer == w->shape[NEAPI_LAYERS] ? write_step(w) : NEAP_OK;
}

int neap_trace_writer_finish(neap_trace_writer *w)
{
  if (w->failed || w->next_layer)
    return neapi_fail(NEAP_ARGUMENT, "%s: %s; it stays marked as incomplete", w->path,
                      w->failed ? "a write has failed" : "the last step lacks layers");
  memcpy(w->state, NEAPI_TRACE_WRITTEN, sizeof w->state);
  w->failed = write_at(w, w->header, update_prefix(w), 0);
  return w->failed;
}

void neap_trace_writer_close(neap_trace_writer *w)
{
  if (!w)
    return;
  if (w->file >= 0)
    close(w->file);
  for (int64_t i = 0; i < w->pair_count; i++) {
    free(w->pairs[i].key);
    if (w->pairs[i].value != w->crc && w->pairs[i].value != w->state)
      free(w->pairs[i].value);
  }
  free(w->pairs);
  free(w->header);
  free(w->step);
  free(w->path);
  free(w);
}
