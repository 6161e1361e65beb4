/* SPDX-License-Identifier: Apache-2.0 */
/* The fake device: see device.h. One lock is enough. */
#include "device.h"

#include "comm/transport.h"
#include "device/cuda/cuda_device.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MEMORIES = 4096, DEVICES = 1 };

typedef struct work {
  struct work *next;
  void (*run)(void *argument);
  void *argument;
} work;

typedef struct {
  work *head, *tail;
  bool busy, closing;
  unsigned random;
} stream;

typedef struct {
  int64_t recorded, reached;
  int references;
} event;

/* An event's point that a stream reaches or waits for. */
typedef struct {
  event *of;
  int64_t point;
} ticket;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of everything */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct {
  char *begin, *end;
} memories[MEMORIES];
static _Thread_local stream *own, *current;

int64_t fake_gpu_free = 1 << 30;
static int64_t calls_left; /* until one fails; 0 or less: none does */

void fake_gpu_fail(int64_t k)
{
  __atomic_store_n(&calls_left, k, __ATOMIC_SEQ_CST);
}

bool fake_gpu_failed(void)
{
  return __atomic_exchange_n(&calls_left, 0, __ATOMIC_SEQ_CST) <= 0;
}

static bool fails(void)
{
  return __atomic_load_n(&calls_left, __ATOMIC_SEQ_CST) > 0 &&
         __atomic_sub_fetch(&calls_left, 1, __ATOMIC_SEQ_CST) == 0;
}

static void must(bool true_here)
{
  if (!true_here)
    abort();
}

/* ---- streams --------------------------------------------------------------------------------- */

static void *execute(void *argument)
{
  stream *s = argument;
  pthread_mutex_lock(&lock);
  while (s->head || !s->closing) {
    work *w = s->head;
    if (!w) {
      pthread_cond_wait(&changed, &lock);
      continue;
    }
    s->busy = true;
    s->head = w->next;
    pthread_mutex_unlock(&lock);
    if (rand_r(&s->random) % 4 == 0)
      usleep((unsigned)rand_r(&s->random) % 300);
    w->run(w->argument);
    free(w);
    pthread_mutex_lock(&lock);
    s->busy = false;
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
  free(s);
  return NULL;
}

static stream *stream_open(void)
{
  static unsigned seed;
  pthread_t thread;
  stream *s = calloc(1, sizeof *s);
  s->random = __atomic_add_fetch(&seed, 7919, __ATOMIC_RELAXED) + (unsigned)getpid();
  must(!pthread_create(&thread, NULL, execute, s));
  pthread_detach(thread);
  return s;
}

static stream *here(void)
{
  if (current)
    return current;
  if (!own)
    own = stream_open();
  return own;
}

void fake_enqueue(void *to, void (*run)(void *argument), void *argument)
{
  stream *s = to;
  work *w = malloc(sizeof *w);
  *w = (work){NULL, run, argument};
  pthread_mutex_lock(&lock);
  if (s->head)
    s->tail->next = w;
  else
    s->head = w;
  s->tail = w;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

int neapi_cuda_wait(void)
{
  stream *s = here();
  pthread_mutex_lock(&lock);
  while (s->head || s->busy)
    pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
  return fails();
}

void *neapi_cuda_stream(void)
{
  return here();
}

int neapi_cuda_stream_open(void **out)
{
  if (fails())
    return 1;
  *out = stream_open();
  return 0;
}

void neapi_cuda_stream_use(void *s)
{
  current = s;
}

void neapi_cuda_stream_close(void *s)
{
  pthread_mutex_lock(&lock);
  ((stream *)s)->closing = true;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

/* ---- events ---------------------------------------------------------------------------------- */

/* The lock is held. */
static void let_go(event *e)
{
  if (!--e->references)
    free(e);
}

static ticket *ticket_of(event *e)
{
  ticket *t = malloc(sizeof *t);
  *t = (ticket){e, e->recorded};
  e->references++;
  return t;
}

static void reach(void *argument)
{
  ticket *t = argument;
  pthread_mutex_lock(&lock);
  t->of->reached = t->point;
  pthread_cond_broadcast(&changed);
  let_go(t->of);
  pthread_mutex_unlock(&lock);
  free(t);
}

static void await(void *argument)
{
  ticket *t = argument;
  pthread_mutex_lock(&lock);
  while (t->of->reached < t->point)
    pthread_cond_wait(&changed, &lock);
  let_go(t->of);
  pthread_mutex_unlock(&lock);
  free(t);
}

int neapi_cuda_event_record(void **mark)
{
  if (fails())
    return 1;
  if (!*mark) {
    event *e = calloc(1, sizeof *e);
    e->references = 1;
    *mark = e;
  }
  pthread_mutex_lock(&lock);
  event *e = *mark;
  e->recorded++;
  ticket *t = ticket_of(e);
  pthread_mutex_unlock(&lock);
  fake_enqueue(here(), reach, t);
  return 0;
}

int neapi_cuda_event_follow(void *mark)
{
  if (fails())
    return 1;
  pthread_mutex_lock(&lock);
  ticket *t = ticket_of(mark);
  pthread_mutex_unlock(&lock);
  fake_enqueue(here(), await, t);
  return 0;
}

int neapi_cuda_event_wait(void *mark)
{
  pthread_mutex_lock(&lock);
  ticket *t = ticket_of(mark);
  pthread_mutex_unlock(&lock);
  await(t);
  return 0;
}

int neapi_cuda_event_reached(void *mark)
{
  pthread_mutex_lock(&lock);
  event *e = mark;
  int reached = e->reached == e->recorded;
  pthread_mutex_unlock(&lock);
  return reached;
}

void neapi_cuda_event_free(void *mark)
{
  pthread_mutex_lock(&lock);
  let_go(mark);
  pthread_mutex_unlock(&lock);
}

/* Of events whose times can be told there are none. */
int neapi_cuda_timestamp_open(void **out)
{
  *out = NULL;
  return 1;
}

void neapi_cuda_timestamp_close(void *event)
{
  (void)event;
}

int neapi_cuda_timestamp_record(void *event)
{
  (void)event;
  return 1;
}

int neapi_cuda_timestamp_wait(void *event)
{
  (void)event;
  return 1;
}

int neapi_cuda_timestamp_seconds(void *from, void *to, double *out)
{
  (void)from, (void)to, (void)out;
  return 1;
}

/* ---- memory ---------------------------------------------------------------------------------- */

int neapi_cuda_alloc(bool pinned, int64_t bytes, void **out)
{
  if (fails())
    return 1;
  char *memory = malloc((size_t)bytes + 1);
  *out = memory;
  pthread_mutex_lock(&lock);
  int i = 0;
  while (!pinned && memories[i].begin)
    must(++i < MEMORIES);
  if (!pinned) {
    memories[i].begin = memory;
    memories[i].end = memory + bytes + 1;
  }
  pthread_mutex_unlock(&lock);
  return 0;
}

int32_t neapi_cuda_gpu_of(const void *memory)
{
  const char *at = memory;
  bool found = false;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MEMORIES && !found; i++)
    found = memories[i].begin && at >= memories[i].begin && at < memories[i].end;
  pthread_mutex_unlock(&lock);
  return found ? 0 : -1;
}

static void release(void *memory)
{
  pthread_mutex_lock(&lock);
  for (int i = 0; i < MEMORIES; i++)
    if (memories[i].begin == memory) {
      memset(memory, 0xee, (size_t)(memories[i].end - memories[i].begin));
      memories[i].begin = NULL;
    }
  pthread_mutex_unlock(&lock);
  free(memory);
}

void neapi_cuda_free(bool pinned, void *memory)
{
  if (pinned)
    free(memory);
  else
    fake_enqueue(here(), release, memory);
}

/* ---- copies and sums ------------------------------------------------------------------------- */

typedef struct {
  neapi_copy_segment *pieces;
  int64_t count;
} copies;

static void do_copies(void *argument)
{
  copies *c = argument;
  for (int64_t i = 0; i < c->count; i++)
    if (c->pieces[i].bytes)
      memmove(c->pieces[i].to, c->pieces[i].from, (size_t)c->pieces[i].bytes);
  free(c->pieces);
  free(c);
}

int neapi_cuda_copy_all(const neapi_copy_segment *pieces, int64_t count)
{
  if (fails())
    return 1;
  copies *c = malloc(sizeof *c);
  size_t bytes = (size_t)count * sizeof *pieces;
  *c = (copies){malloc(bytes + 1), count};
  if (count)
    memcpy(c->pieces, pieces, bytes);
  fake_enqueue(here(), do_copies, c);
  return 0;
}

int neapi_cuda_copy(void *to, const void *from, int64_t bytes)
{
  neapi_copy_segment piece = {to, from, bytes};
  if (neapi_cuda_copy_all(&piece, 1))
    return 1;
  bool on_gpu = neapi_cuda_gpu_of(to) >= 0 && neapi_cuda_gpu_of(from) >= 0;
  return on_gpu ? 0 : neapi_cuda_wait();
}

static void do_zero(void *argument)
{
  neapi_copy_segment *piece = argument;
  memset(piece->to, 0, (size_t)piece->bytes);
  free(piece);
}

int neapi_cuda_zero(void *memory, int64_t bytes)
{
  neapi_copy_segment *piece = malloc(sizeof *piece);
  *piece = (neapi_copy_segment){memory, NULL, bytes};
  fake_enqueue(here(), do_zero, piece);
  return 0;
}

typedef struct {
  void *out;
  const void **sources;
  int32_t ranks;
  int64_t count;
  int dtype, op;
} folding;

static void do_fold(void *argument)
{
  folding *f = argument;
  neapi_host_memory.fold(f->out, f->sources, f->ranks, f->count, f->dtype, f->op);
  free(f->sources);
  free(f);
}

int neapi_cuda_fold(void *out, const void *const *sources, int32_t ranks, int64_t count, int dtype,
                    int op)
{
  folding *f = malloc(sizeof *f);
  size_t bytes = (size_t)ranks * sizeof *sources;
  *f = (folding){out, malloc(bytes), ranks, count, dtype, op};
  memcpy(f->sources, sources, bytes);
  fake_enqueue(here(), do_fold, f);
  return 0;
}

/* ---- the device ------------------------------------------------------------------------------ */

int neapi_cuda_count(int32_t *count)
{
  *count = DEVICES;
  return 0;
}

int neapi_cuda_use(int32_t ordinal)
{
  if (fails())
    return 1;
  return ordinal ? 1 : 0;
}

int neapi_cuda_select(int32_t ordinal)
{
  return neapi_cuda_use(ordinal);
}

int neapi_cuda_describe(int32_t ordinal, char *name, int64_t size, int32_t *capability,
                        int32_t *driver, int32_t *runtime)
{
  (void)ordinal;
  *name = 0;
  *capability = 90;
  *driver = *runtime = 0;
  return size > 0 ? 0 : 1;
}

int neapi_cuda_id(int32_t ordinal, unsigned char id[NEAPI_GPU_ID])
{
  memset(id, ordinal, NEAPI_GPU_ID);
  return 0;
}

int neapi_cuda_memory(int64_t *free_bytes, int64_t *total_bytes)
{
  if (fails())
    return 1;
  *free_bytes = fake_gpu_free;
  *total_bytes = 1 << 30;
  return 0;
}

int neapi_cuda_draw(float *data, int64_t count, uint64_t seed, uint64_t stream, int64_t first,
                    double scale)
{
  (void)data, (void)count, (void)seed, (void)stream, (void)first, (void)scale;
  return 1;
}

int neapi_cuda_held(int32_t ordinal, int64_t *now, int64_t *most)
{
  (void)ordinal, (void)now, (void)most;
  return 1;
}

int neapi_cuda_forget_most(int32_t ordinal)
{
  (void)ordinal;
  return 1;
}

const char *neapi_cuda_text(int error)
{
  return error ? "fake error" : "no error";
}
