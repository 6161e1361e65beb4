/* SPDX-License-Identifier: Apache-2.0 */
/* The flight recorder: rings of operations, one for each rank of this process. */
#include "comm/flight.h"

#include "base/dtype.h"
#include "base/memory.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct neapi_flight {
  int32_t rank, size, references; /* references: atomic */
  void (*abort)(neap_world *world, const char *why);
  neap_world *world;
  neapi_flight *next;
  pthread_mutex_t lock; /* of what follows */
  int32_t comms;        /* numbers given */
  int64_t begun;        /* operations so far: the i-th is at i % NEAPI_FLIGHT_RING */
  neapi_flight_entry ring[NEAPI_FLIGHT_RING];
  neapi_flight_entry now[NEAPI_FLIGHT_COMMS]; /* what a communicator is in, or was in last */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list; taken before a flight's */
static neapi_flight *flights;

neapi_flight *neapi_flight_open(int32_t rank, int32_t size,
                                void (*abort)(neap_world *world, const char *why),
                                neap_world *world)
{
  neapi_flight *f = neapi_alloc_zero(sizeof *f, "comm: flight recorder");
  if (!f)
    return NULL;
  f->rank = rank;
  f->size = size;
  f->abort = abort;
  f->world = world;
  f->references = 1;
  pthread_mutex_init(&f->lock, NULL);
  for (int i = 0; i < NEAPI_FLIGHT_COMMS; i++)
    f->now[i].call.number = -1;
  pthread_mutex_lock(&lock);
  f->next = flights;
  flights = f;
  pthread_mutex_unlock(&lock);
  return f;
}

neapi_flight *neapi_flight_share(neapi_flight *f)
{
  __atomic_add_fetch(&f->references, 1, __ATOMIC_RELAXED);
  return f;
}

void neapi_flight_release(neapi_flight *f)
{
  if (!f || __atomic_sub_fetch(&f->references, 1, __ATOMIC_ACQ_REL))
    return;
  pthread_mutex_lock(&lock);
  neapi_flight **at = &flights;
  while (*at != f)
    at = &(*at)->next;
  *at = f->next;
  pthread_mutex_unlock(&lock);
  pthread_mutex_destroy(&f->lock);
  free(f);
}

int32_t neapi_flight_comm(neapi_flight *f)
{
  pthread_mutex_lock(&f->lock);
  int32_t number = f->comms++;
  if (number < NEAPI_FLIGHT_COMMS)
    f->now[number].call.number = -1;
  pthread_mutex_unlock(&f->lock);
  return number;
}

/* ---- recording ------------------------------------------------------------------------------ */

void neapi_flight_begin(neapi_flight *f, const neapi_call *call)
{
  neapi_flight_entry entry = {.call = *call};
  pthread_mutex_lock(&f->lock);
  entry.begun = neap_clock();
  f->ring[f->begun++ % NEAPI_FLIGHT_RING] = entry;
  f->now[call->comm % NEAPI_FLIGHT_COMMS] = entry;
  pthread_mutex_unlock(&f->lock);
}

static bool same(const neapi_flight_entry *entry, const neapi_call *call)
{
  return entry->call.comm == call->comm && entry->call.number == call->number;
}

static void finish(neapi_flight_entry *entry, double now, int status)
{
  entry->ended = now;
  entry->failed = status != NEAP_OK;
}

void neapi_flight_end(neapi_flight *f, const neapi_call *call, int status)
{
  double now = neap_clock();
  pthread_mutex_lock(&f->lock);
  neapi_flight_entry *entry = &f->now[call->comm % NEAPI_FLIGHT_COMMS];
  if (same(entry, call))
    finish(entry, now, status);
  int64_t least = f->begun > NEAPI_FLIGHT_RING ? f->begun - NEAPI_FLIGHT_RING : 0;
  for (int64_t i = f->begun - 1; i >= least; i--)
    if (same(&f->ring[i % NEAPI_FLIGHT_RING], call)) {
      finish(&f->ring[i % NEAPI_FLIGHT_RING], now, status);
      break;
    }
  pthread_mutex_unlock(&f->lock);
}

/* ---- looking -------------------------------------------------------------------------------- */

/* The operation that has been under way for longest, or NULL. The flight is locked. */
static const neapi_flight_entry *oldest(const neapi_flight *f)
{
  const neapi_flight_entry *found = NULL;
  for (int i = 0; i < NEAPI_FLIGHT_COMMS; i++) {
    const neapi_flight_entry *entry = &f->now[i];
    if (entry->begun && !entry->ended && (!found || entry->begun < found->begun))
      found = entry;
  }
  return found;
}

bool neapi_flight_overdue(double limit)
{
  double now = neap_clock();
  bool found = false;
  pthread_mutex_lock(&lock);
  for (neapi_flight *f = flights; f && !found; f = f->next) {
    pthread_mutex_lock(&f->lock);
    const neapi_flight_entry *entry = oldest(f);
    found = entry && now - entry->begun > limit;
    pthread_mutex_unlock(&f->lock);
  }
  pthread_mutex_unlock(&lock);
  return found;
}

static void describe(const neapi_flight *f, double now, neapi_flight_state *state)
{
  const neapi_flight_entry *entry = oldest(f);
  *state = (neapi_flight_state){.rank = f->rank, .size = f->size, .answered = true};
  if (f->begun) {
    state->called = true;
    state->last = f->ring[(f->begun - 1) % NEAPI_FLIGHT_RING];
    state->since = now - (state->last.ended ? state->last.ended : state->last.begun);
  }
  if (entry) {
    state->running = true;
    state->oldest = *entry;
    state->since = now - entry->begun;
  }
  for (int i = 0; i < NEAPI_FLIGHT_COMMS; i++)
    state->reached[i] = f->now[i].call.number;
}

int32_t neapi_flight_states(neapi_flight_state *states, int32_t size)
{
  double now = neap_clock();
  int32_t count = 0;
  pthread_mutex_lock(&lock);
  for (neapi_flight *f = flights; f; f = f->next) {
    if (f->rank >= size)
      continue;
    pthread_mutex_lock(&f->lock);
    describe(f, now, &states[f->rank]);
    pthread_mutex_unlock(&f->lock);
    count++;
  }
  pthread_mutex_unlock(&lock);
  return count;
}

int32_t neapi_flight_size(void)
{
  pthread_mutex_lock(&lock);
  int32_t size = flights ? flights->size : 0;
  pthread_mutex_unlock(&lock);
  return size;
}

int32_t neapi_flight_rank(void)
{
  pthread_mutex_lock(&lock);
  int32_t rank = flights ? flights->rank : -1;
  pthread_mutex_unlock(&lock);
  return rank;
}

void neapi_flight_abort(const char *why)
{
  pthread_mutex_lock(&lock);
  for (neapi_flight *f = flights; f; f = f->next)
    if (f->abort)
      f->abort(f->world, why);
  pthread_mutex_unlock(&lock);
}

/* ---- as JSON -------------------------------------------------------------------------------- */

static void print_text(FILE *file, const char *text)
{
  fputc('"', file);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++)
    if (*c == '"' || *c == '\\')
      fprintf(file, "\\%c", *c);
    else if (*c < 0x20)
      fprintf(file, "\\u%04x", *c);
    else
      fputc(*c, file);
  fputc('"', file);
}

/* Times are seconds before the file was written. */
static void print_entry(FILE *file, const neapi_flight_entry *e, double now)
{
  char text[NEAPI_CALL_TEXT];
  const char *state = !e->ended ? "running" : e->failed ? "failed" : "done";
  const char *phase = neap_span_name(e->call.phase);
  fprintf(file, "{\"communicator\":%d,\"number\":%" PRId64 ",\"kind\":\"%s\",\"call\":\"%s\",",
          e->call.comm, e->call.number, neapi_kind_name(e->call.kind),
          neapi_call_text(&e->call, text));
  fprintf(file, "\"bytes\":%" PRId64 ",\"step\":%" PRId64 ",\"layer\":%d,\"phase\":\"%s\",",
          e->call.bytes, e->call.step, e->call.layer, phase ? phase : "");
  fprintf(file, "\"state\":\"%s\",\"begun_ago\":%.6f", state, now - e->begun);
  if (e->ended)
    fprintf(file, ",\"ended_ago\":%.6f", now - e->ended);
  fputc('}', file);
}

static void print_rank(FILE *file, const neapi_flight *f, double now)
{
  int64_t least = f->begun > NEAPI_FLIGHT_RING ? f->begun - NEAPI_FLIGHT_RING : 0;
  fprintf(file, "{\"rank\":%d,\"ranks\":%d,\"begun\":%" PRId64 ",\"operations\":[", f->rank,
          f->size, f->begun);
  for (int64_t i = least; i < f->begun; i++) {
    fputs(i > least ? ",\n" : "\n", file);
    print_entry(file, &f->ring[i % NEAPI_FLIGHT_RING], now);
  }
  fputs("]}", file);
}

void neapi_flight_print(FILE *file, const char *reason)
{
  char host[256] = "";
  double now = neap_clock();
  gethostname(host, sizeof host - 1);
  fprintf(file, "{\"format\":\"neap flight recorder\",\"version\":1,\"host\":");
  print_text(file, host);
  fprintf(file, ",\"process\":%d,\"written\":%lld,\"reason\":", (int)getpid(),
          (long long)time(NULL));
  print_text(file, reason);
  fputs(",\"ranks\":[", file);
  pthread_mutex_lock(&lock);
  for (neapi_flight *f = flights; f; f = f->next) {
    pthread_mutex_lock(&f->lock);
    print_rank(file, f, now);
    pthread_mutex_unlock(&f->lock);
    fputs(f->next ? ",\n" : "", file);
  }
  pthread_mutex_unlock(&lock);
  fputs("]}\n", file);
}
