/* SPDX-License-Identifier: Apache-2.0 */
/* A device without a GPU: what core/cuda does, by threads. Every stream is a thread that executes
 * its queue late, so that what does not wait for the right things meets wrong data. */
#ifndef NEAP_FAKE_DEVICE_H
#define NEAP_FAKE_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

/* Runs on the stream when what came before is done. */
__attribute__((visibility("default"))) void fake_enqueue(void *stream, void (*run)(void *argument),
                                                         void *argument);

/* Bytes of memory that the GPU says are free, of 2^30. */
__attribute__((visibility("default"))) extern int64_t fake_gpu_free;

/* The k-th call from now on that can fail does so, once; 0: none. */
__attribute__((visibility("default"))) void fake_gpu_fail(int64_t k);
/* Ends it; whether a call has failed. */
__attribute__((visibility("default"))) bool fake_gpu_failed(void);

#endif
