/* SPDX-License-Identifier: Apache-2.0 */
/* Where memory is, and the calling thread's device: the CPU, or after neap_device_use a GPU. On a
 * GPU a thread works on a stream of its own (CUDA's per-thread stream, or one that it has entered),
 * and kernels and copies are enqueued there. */
#ifndef NEAP_DEVICE_H
#define NEAP_DEVICE_H

#include "base/status.h"

#include <stdbool.h>

typedef enum {
  NEAPI_HOST,
  NEAPI_GPU,
  NEAPI_PINNED /* host memory that the GPU reads and writes too */
} neapi_memory_kind;

/* Whether the calling thread computes on a GPU. */
bool neapi_on_gpu(void);
/* The calling thread's stream, for kernels; NULL on the CPU. */
void *neapi_stream(void);
/* Waits until everything that the calling thread has enqueued is done. */
int neapi_stream_wait(void);

/* On the CPU all memory is the host's. A failure reports MEMORY for what and returns NULL. */
void *neapi_memory_alloc(neapi_memory_kind kind, int64_t bytes, const char *what);
void *neapi_memory_alloc_zero(neapi_memory_kind kind, int64_t bytes, const char *what);
/* Fills memory with bytes of 0, in the order of the calling thread's stream. */
void neapi_memory_zero(neapi_memory_kind kind, void *memory, int64_t bytes);
void neapi_memory_free(neapi_memory_kind kind, void *memory);
/* Between any two kinds of memory, in the order of the calling thread's stream; host memory that is
 * not pinned is done with on return. On the CPU: memmove. */
int neapi_copy(void *to, const void *from, int64_t bytes);
/* The memory that an array of reals or of integers has in the calling thread. */
neapi_memory_kind neapi_memory_of_reals(void);
neapi_memory_kind neapi_memory_of_integers(void);

/* Pinned memory of the calling thread for NEAPI_RESULTS numbers that kernels return. NULL:
 * reported. */
enum { NEAPI_RESULTS = 8 };
double *neapi_results(void);

/* ABSENT unless the calling thread computes on the CPU. */
int neapi_require_cpu(const char *what);

/* What communicators need, so that streams wait for each other and the host for none. An event is a
 * point in a stream, and does nothing where it is NULL. Recording it again moves it; *event is made
 * if it is NULL. */
typedef struct neapi_stream_event neapi_stream_event;
int neapi_stream_event_record(neapi_stream_event **event);
/* What the calling thread enqueues from now on runs when the event's point is reached. A thread on
 * the CPU blocks until then. */
int neapi_stream_event_follow(neapi_stream_event *event);
/* Blocks the calling thread until the point is reached. */
int neapi_stream_event_wait(neapi_stream_event *event);
/* 1 if the point is reached, 0 if not, negative if the GPU failed. */
int neapi_stream_event_reached(neapi_stream_event *event);
void neapi_stream_event_free(neapi_stream_event *event);

/* Points in a stream whose times can be told. ABSENT on the CPU. */
typedef struct neapi_timestamp neapi_timestamp;
int neapi_timestamp_open(neapi_timestamp **out);
void neapi_timestamp_close(neapi_timestamp *event);
/* Puts the event at this point of the calling thread's stream. */
int neapi_timestamp_record(neapi_timestamp *event);
/* Blocks the calling thread, which spins, until the GPU has come to the event. */
int neapi_timestamp_wait(neapi_timestamp *event);
/* Seconds from one event to another, both of which the GPU has come to. */
int neapi_timestamp_seconds(neapi_timestamp *from, neapi_timestamp *to, double *out);

/* A GPU and a stream of its own there, which goes before other streams' kernels. From
 * enter to leave it is the calling thread's device and stream. */
typedef struct neapi_gpu_stream neapi_gpu_stream;
int neapi_gpu_stream_open(int32_t ordinal, neapi_gpu_stream **out);
int neapi_gpu_stream_enter(neapi_gpu_stream *stream);
void neapi_gpu_stream_leave(neapi_gpu_stream *stream);
void neapi_gpu_stream_close(neapi_gpu_stream *stream);

/* Ordinal of the GPU whose memory this is, or -1: the host's. */
int32_t neapi_gpu_of(const void *memory);
/* Ordinal of the calling thread's GPU, or -1: the CPU. */
int32_t neapi_gpu_current(void);
/* What tells the GPU from all others, on any host. */
enum { NEAPI_GPU_ID = 16 };
int neapi_gpu_id(int32_t ordinal, unsigned char id[NEAPI_GPU_ID]);

/* Enqueues data[i] = scale x normal(seed, stream, first + i). */
int neapi_gpu_draw(float *data, int64_t count, uint64_t seed, uint64_t stream, int64_t first,
                   double scale);

/* Pieces of memory that are copied together, by one kernel for many. */
typedef struct {
  void *to;
  const void *from;
  int64_t bytes;
} neapi_copy_segment;
/* Enqueues the copies. */
int neapi_gpu_copy_all(const neapi_copy_segment *segments, int64_t count);
/* Enqueues out[count] = sources[0] op sources[1] op …. */
int neapi_gpu_fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                   int op);

#endif
