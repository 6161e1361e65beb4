/* SPDX-License-Identifier: Apache-2.0 */
/* The CUDA side of device.c: thin, so that no other file of core needs CUDA. int results: 0, or an
 * error that neapi_cuda_text explains. */
#ifndef NEAP_CUDA_DEVICE_H
#define NEAP_CUDA_DEVICE_H

#include "device/device.h"

/* The error of a build without CUDA: none.c. */
enum { NEAPI_CUDA_NONE = -1 };

int neapi_cuda_count(int32_t *count);
int neapi_cuda_use(int32_t ordinal);
/* As use, of a GPU that some thread has used before. */
int neapi_cuda_select(int32_t ordinal);
int neapi_cuda_describe(int32_t ordinal, char *name, int64_t size, int32_t *capability,
                        int32_t *driver, int32_t *runtime);
int neapi_cuda_memory(int64_t *free_bytes, int64_t *total_bytes);
int neapi_cuda_held(int32_t ordinal, int64_t *now, int64_t *most);
int neapi_cuda_forget_most(int32_t ordinal);
const char *neapi_cuda_text(int error);
void *neapi_cuda_stream(void);
int neapi_cuda_wait(void);
int neapi_cuda_alloc(bool pinned, int64_t bytes, void **out);
void neapi_cuda_free(bool pinned, void *memory);
int neapi_cuda_zero(void *memory, int64_t bytes);
/* async: both sides are pinned or on a GPU. */
int neapi_cuda_copy(void *to, const void *from, int64_t bytes);
/* *event: NULL makes one. */
int neapi_cuda_event_record(void **event);
int neapi_cuda_event_follow(void *event);
int neapi_cuda_event_wait(void *event);
int neapi_cuda_timestamp_open(void **out);
void neapi_cuda_timestamp_close(void *event);
int neapi_cuda_timestamp_record(void *event);
int neapi_cuda_timestamp_wait(void *event);
int neapi_cuda_timestamp_seconds(void *from, void *to, double *out);
int neapi_cuda_event_reached(void *event);
void neapi_cuda_event_free(void *event);
int neapi_cuda_stream_open(void **out);
/* Of the calling thread from now on; NULL: its per-thread stream. */
void neapi_cuda_stream_use(void *stream);
void neapi_cuda_stream_close(void *stream);
int neapi_cuda_id(int32_t ordinal, unsigned char id[NEAPI_GPU_ID]);
int neapi_cuda_draw(float *data, int64_t count, uint64_t seed, uint64_t stream, int64_t first,
                    double scale);
int32_t neapi_cuda_gpu_of(const void *memory);
int neapi_cuda_copy_all(const neapi_copy_segment *segments, int64_t count);
int neapi_cuda_fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                    int op);

#endif
