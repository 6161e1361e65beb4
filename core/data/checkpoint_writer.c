/* SPDX-License-Identifier: Apache-2.0 */
/* A rank's file of a checkpoint, written beside the training: start copies what is to be kept, in
 * memory, and a thread writes the copy. */
#include "base/memory.h"
#include "data/checkpoint.h"
#include "data/durable.h"
#include "data/tensors_writer.h"
#include "device/buffer.h"
#include "moe/shards.h"
#include "tensor/tensor.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 512, LEAST_PIECES = 64, ROOM_SHARE = 16 };

/* Bytes to be kept: where they are until start has returned. */
typedef struct {
  const char *from;
  int64_t bytes;
  bool on_gpu;
} piece;

typedef enum { IDLE, OF_RANK, MANIFEST, REMOVAL } job_kind;

struct neap_checkpoint_writer {
  neap_tensors_writer *file;
  piece *pieces;
  int64_t count, capacity;
  neapi_buffer host;        /* copies of pieces */
  neapi_buffer gpu;         /* the same on the GPU, of those that are there, if it has the memory */
  neapi_buffer staged;      /* pinned: a chunk on its way from the GPU */
  neapi_gpu_stream *stream; /* by which it comes */
  neapi_stream_event *copied; /* the copies on the GPU are done */
  job_kind job;               /* of the thread */
  pthread_t thread;
  int done;   /* atomic */
  int status; /* what the job came to, and the error's message */
  char message[MESSAGE_BYTES];
  neap_checkpoint_file file_is; /* bytes, seal */
  char *path, *text;            /* of a manifest: where and what */
  int64_t text_bytes;
};

/* ---- what is to be kept ---------------------------------------------------------------------- */

int neap_checkpoint_writer_open(neap_checkpoint_writer **out)
{
  neap_checkpoint_writer *w = neapi_alloc_zero(sizeof *w, "checkpoint writer");
  if (!w)
    return NEAP_MEMORY;
  w->gpu.memory = NEAPI_GPU;
  w->staged.memory = NEAPI_PINNED;
  int status = neap_tensors_writer_open("", &w->file);
  if (status) {
    free(w);
    return status;
  }
  neapi_tensors_writer_seal(w->file);
  *out = w;
  return NEAP_OK;
}

static int require_idle(const neap_checkpoint_writer *w)
{
  if (w->job == IDLE)
    return NEAP_OK;
  return neapi_fail(NEAP_ARGUMENT, "checkpoint: the writer is at work; wait for it first");
}

int neap_checkpoint_writer_begin(neap_checkpoint_writer *w, const char *path)
{
  int status = require_idle(w);
  if (status)
    return status;
  w->count = 0;
  status = neapi_tensors_writer_reset(w->file, path);
  if (!status)
    status = neap_tensors_writer_set_metadata(w->file, "format", NEAPI_CHECKPOINT_FORMAT);
  if (!status)
    status = neap_tensors_writer_set_metadata(w->file, "version", NEAPI_CHECKPOINT_VERSION);
  return status;
}

int neap_checkpoint_writer_add(neap_checkpoint_writer *w, const char *name, int dtype, int32_t ndim,
                               const int64_t *dims, const void *data)
{
  int64_t before = neapi_tensors_writer_data_bytes(w->file);
  int status = require_idle(w);
  if (!status)
    status = neap_tensors_writer_declare(w->file, name, dtype, ndim, dims);
  if (status)
    return status;
  if (w->count == w->capacity) {
    int64_t larger = w->capacity ? 2 * w->capacity : LEAST_PIECES;
    piece *pieces = realloc(w->pieces, (size_t)larger * sizeof *pieces);
    if (!pieces)
      return neapi_fail(NEAP_MEMORY, "checkpoint: no memory for %lld pieces", (long long)larger);
    w->pieces = pieces;
    w->capacity = larger;
  }
  int64_t bytes = neapi_tensors_writer_data_bytes(w->file) - before;
  w->pieces[w->count++] = (piece){data, bytes, bytes > 0 && neapi_gpu_of(data) >= 0};
  return NEAP_OK;
}

int neap_checkpoint_writer_add_tensor(neap_checkpoint_writer *w, const char *name,
                                      const neap_tensor *tensor)
{
  return neap_checkpoint_writer_add(w, name, tensor->dtype, tensor->ndim, tensor->dims,
                                    tensor->data);
}

int neap_checkpoint_writer_add_shards(neap_checkpoint_writer *w, const char *name,
                                      const neap_shards *shards, int part)
{
  if (part < NEAP_SHARD_PARAMETER || part > NEAP_SHARD_GRADIENT)
    return neapi_fail(NEAP_ARGUMENT, "checkpoint: part %d; allowed are %d to %d", part,
                      NEAP_SHARD_PARAMETER, NEAP_SHARD_GRADIENT);
  return neap_checkpoint_writer_add(w, name, shards->acc, 1, &shards->owned, shards->part[part]);
}

/* ---- the copy -------------------------------------------------------------------------------- */

/* Whether the GPU has memory for the copies of its pieces, and leaves some to the training. */
static bool gpu_has_room(const neap_checkpoint_writer *w, int64_t bytes)
{
  int64_t available, total;
  if (w->gpu.data && bytes <= w->gpu.bytes)
    return true;
  return !neap_device_memory(&available, &total) && available - bytes > total / ROOM_SHARE;
}

/* Memory for the copies, and which pieces' copies are on the GPU. */
static int reserve(neap_checkpoint_writer *w)
{
  int64_t on_host = 0, on_gpu = 0;
  for (int64_t i = 0; i < w->count; i++)
    *(w->pieces[i].on_gpu ? &on_gpu : &on_host) += w->pieces[i].bytes;
  if (on_gpu && !gpu_has_room(w, on_gpu)) {
    for (int64_t i = 0; i < w->count; i++)
      w->pieces[i].on_gpu = false;
    on_host += on_gpu;
    on_gpu = 0;
  }
  int status = neapi_buffer_reserve(&w->host, on_host, "checkpoint");
  if (!status && on_gpu)
    status = neapi_buffer_reserve(&w->gpu, on_gpu, "checkpoint");
  if (!status && on_gpu)
    status = neapi_buffer_reserve(&w->staged, NEAPI_CHUNK, "checkpoint");
  if (!status && on_gpu && !w->stream)
    status = neapi_gpu_stream_open(neapi_gpu_current(), &w->stream);
  return status;
}

/* Copies all pieces; those on the GPU in the order of its stream, without waiting. */
static int copy(neap_checkpoint_writer *w)
{
  char *host = w->host.data, *gpu = w->gpu.data;
  int status = NEAP_OK;
  bool any = false;
  for (int64_t i = 0; !status && i < w->count; i++) {
    piece *p = &w->pieces[i];
    char **to = p->on_gpu ? &gpu : &host;
    status = neapi_copy(*to, p->from, p->bytes);
    p->from = *to;
    *to += p->bytes;
    any = any || p->on_gpu;
  }
  if (!status && any)
    status = neapi_stream_event_record(&w->copied);
  return status;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static int append_from_gpu(neap_checkpoint_writer *w, const piece *p)
{
  int status = NEAP_OK;
  for (int64_t at = 0; !status && at < p->bytes; at += NEAPI_CHUNK) {
    int64_t part = p->bytes - at < NEAPI_CHUNK ? p->bytes - at : NEAPI_CHUNK;
    status = neapi_copy(w->staged.data, p->from + at, part);
    if (!status)
      status = neapi_stream_wait();
    if (!status)
      status = neap_tensors_writer_append(w->file, w->staged.data, part);
  }
  return status;
}

static int write_pieces(neap_checkpoint_writer *w)
{
  int status = neap_tensors_writer_begin(w->file);
  for (int64_t i = 0; !status && i < w->count; i++) {
    const piece *p = &w->pieces[i];
    status =
        p->on_gpu ? append_from_gpu(w, p) : neap_tensors_writer_append(w->file, p->from, p->bytes);
  }
  if (!status)
    status = neap_tensors_writer_finish(w->file, &w->file_is.bytes, &w->file_is.seal);
  return status;
}

static int write_file(neap_checkpoint_writer *w)
{
  if (!w->stream)
    return write_pieces(w);
  int status = neapi_gpu_stream_enter(w->stream);
  if (status)
    return status;
  status = neapi_stream_event_follow(w->copied);
  if (!status)
    status = write_pieces(w);
  neapi_gpu_stream_leave(w->stream);
  return status;
}

static void *work(void *argument)
{
  neap_checkpoint_writer *w = argument;
  w->status = w->job == OF_RANK    ? write_file(w)
              : w->job == MANIFEST ? neap_sealed_write(w->path, w->text, w->text_bytes)
                                   : neap_folder_remove(w->path);
  if (w->status)
    strncpy(w->message, neap_error_message(), MESSAGE_BYTES - 1);
  __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
  return NULL;
}

/* Starts the thread, which no signal reaches. */
static int start(neap_checkpoint_writer *w, job_kind job)
{
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  w->job = job;
  w->done = 0;
  int failed = pthread_create(&w->thread, NULL, work, w);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (!failed)
    return NEAP_OK;
  w->job = IDLE;
  return neapi_fail(NEAP_SYSTEM, "checkpoint: no thread can be started: %s", strerror(failed));
}

int neap_checkpoint_writer_start(neap_checkpoint_writer *w)
{
  int status = require_idle(w);
  if (!status)
    status = reserve(w);
  if (!status)
    status = copy(w);
  return status ? status : start(w, OF_RANK);
}

/* Keeps the job's path and text. */
static int keep_texts(neap_checkpoint_writer *w, const char *path, const char *text, int64_t bytes)
{
  int status = require_idle(w);
  if (status)
    return status;
  free(w->path);
  free(w->text);
  w->path = strdup(path);
  w->text = neapi_alloc(bytes, "manifest");
  w->text_bytes = bytes;
  if (!w->path || !w->text)
    return neapi_fail(NEAP_MEMORY, "%s: no memory for its name or text", path);
  memcpy(w->text, text, (size_t)bytes);
  return NEAP_OK;
}

int neap_checkpoint_writer_commit(neap_checkpoint_writer *w, const char *path, const char *text,
                                  int64_t bytes)
{
  int status = keep_texts(w, path, text, bytes);
  return status ? status : start(w, MANIFEST);
}

int neap_checkpoint_writer_remove(neap_checkpoint_writer *w, const char *path)
{
  int status = keep_texts(w, path, "", 0);
  return status ? status : start(w, REMOVAL);
}

int neap_checkpoint_writer_busy(const neap_checkpoint_writer *w)
{
  return w->job != IDLE && !__atomic_load_n(&w->done, __ATOMIC_ACQUIRE);
}

int neap_checkpoint_writer_wait(neap_checkpoint_writer *w, neap_checkpoint_file *file)
{
  if (w->job == IDLE)
    return neapi_fail(NEAP_ARGUMENT, "checkpoint: there is nothing to wait for");
  pthread_join(w->thread, NULL);
  w->job = IDLE;
  if (w->status)
    return neapi_fail(w->status, "%s", w->message);
  *file = w->file_is;
  return NEAP_OK;
}

void neap_checkpoint_writer_close(neap_checkpoint_writer *w)
{
  if (!w)
    return;
  if (w->job != IDLE)
    pthread_join(w->thread, NULL);
  neap_tensors_writer_close(w->file);
  neapi_buffer_free(&w->host);
  neapi_buffer_free(&w->gpu);
  neapi_buffer_free(&w->staged);
  neapi_gpu_stream_close(w->stream);
  neapi_stream_event_free(w->copied);
  free(w->pieces);
  free(w->path);
  free(w->text);
  free(w);
}
