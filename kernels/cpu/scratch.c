/* SPDX-License-Identifier: Apache-2.0 */
/* Scratch memory, one set of buffers per thread, that grows to the largest request and stays. */
#include "real.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct {
  void *data;
  int64_t bytes;
} buffer;

static _Thread_local buffer buffers[SCRATCHES];
static pthread_key_t at_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void release(void *of_thread)
{
  buffer *b = of_thread;
  for (int i = 0; i < SCRATCHES; i++) {
    free(b[i].data);
    b[i] = (buffer){0};
  }
}

static void prepare(void)
{
  pthread_key_create(&at_exit, release);
}

void *NAME(scratch)(scratch slot, int64_t bytes)
{
  buffer *b = &buffers[slot];
  if (b->bytes >= bytes && b->data)
    return b->data;
  pthread_once(&once, prepare);
  pthread_setspecific(at_exit, buffers);
  free(b->data);
  *b = (buffer){0};
  int64_t capacity = (bytes + 63) / 64 * 64 + 64;
  if (!posix_memalign(&b->data, 64, (size_t)capacity))
    b->bytes = capacity;
  else
    b->data = NULL;
  return b->data;
}
