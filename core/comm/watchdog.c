/* SPDX-License-Identifier: Apache-2.0 */
/* The watchdog of a process: who hangs, and the end of the others. */
#include "comm/watchdog.h"

#include "base/memory.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TEXT = 1400, PATH_BYTES = 1024 };

static const double LOOK_SECONDS = 0.05, ANSWER_SECONDS = 2, LEAVE_SECONDS = 2;
static const double PEERS_SECONDS = 1; /* between looks for peers' questions, at most */
static const double DEFAULT_LIMIT = 600;
static const double CONNECT_SECONDS = 30; /* that it may take at least: programs start meanwhile */

/* What travels: answers to a question, which is one itself. */
typedef struct {
  int32_t asks;
  neapi_flight_state state;
} letter;

static double limit = DEFAULT_LIMIT;
static int exit_status; /* of a process that does not end by itself; 0: it is left alone */
static char folder[PATH_BYTES];
static bool judging; /* atomic: a verdict will come */
static bool started, told, speaks = true;
static char verdict[TEXT];
static const char *published; /* verdict, when it is whole; atomic */
static neapi_watch_peers peers;
static bool have_peers;
static double connecting;               /* since when; 0: no. Under lock */
static neapi_flight_entry late;         /* of a GPU */
static volatile sig_atomic_t requested; /* a signal's number */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void nap(double seconds)
{
  struct timespec time = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
  nanosleep(&time, NULL);
}

void neap_watch(double seconds, int32_t status, const char *flight_folder)
{
  limit = seconds;
  exit_status = status;
  snprintf(folder, sizeof folder, "%s", flight_folder ? flight_folder : "");
}

double neapi_watchdog_limit(void)
{
  return limit;
}

const char *neapi_watchdog_verdict(void)
{
  return __atomic_load_n(&published, __ATOMIC_ACQUIRE);
}

const char *neap_watch_verdict(int32_t *tell)
{
  const char *text;
  while (!(text = neapi_watchdog_verdict()) && __atomic_load_n(&judging, __ATOMIC_ACQUIRE))
    nap(LOOK_SECONDS);
  if (text && tell)
    *tell = speaks && !__atomic_exchange_n(&told, true, __ATOMIC_ACQ_REL);
  return text;
}

int32_t neap_watch_signal(int32_t number)
{
  requested = number;
  return started;
}

void neapi_watchdog_late(const neapi_call *call, double begun)
{
  pthread_mutex_lock(&lock);
  late = (neapi_flight_entry){.call = *call, .begun = begun};
  __atomic_store_n(&judging, true, __ATOMIC_RELEASE);
  pthread_mutex_unlock(&lock);
}

/* ---- files ---------------------------------------------------------------------------------- */

const char *neap_flight_write(const char *reason)
{
  static char path[PATH_BYTES + 64];
  char part[PATH_BYTES + 80];
  if (!*folder || !neapi_flight_size())
    return NULL;
  pthread_mutex_lock(&lock);
  int32_t rank = have_peers ? neapi_flight_rank() : -1;
  if (rank < 0)
    snprintf(path, sizeof path, "%s/neap-flight-%d.json", folder, (int)getpid());
  else
    snprintf(path, sizeof path, "%s/neap-flight-%d-rank%d.json", folder, (int)getpid(), rank);
  snprintf(part, sizeof part, "%s.part", path);
  FILE *file = fopen(part, "w");
  bool whole = file != NULL;
  if (file) {
    neapi_flight_print(file, reason);
    whole = !ferror(file);
    whole = !fclose(file) && whole;
    whole = whole && !rename(part, path);
    if (!whole)
      unlink(part);
  }
  pthread_mutex_unlock(&lock);
  return whole ? path : NULL;
}

/* ---- who hangs ------------------------------------------------------------------------------ */

typedef struct {
  char *text;
  size_t used;
} writer;

static void put(writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(writer *w, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(w->text + w->used, TEXT - w->used, format, arguments);
  va_end(arguments);
  w->used = length < 0 || w->used + (size_t)length >= TEXT ? TEXT - 1 : w->used + (size_t)length;
}

static bool is_in(const neapi_flight_state *s, const neapi_call *call)
{
  return s->answered && s->running && s->oldest.call.comm == call->comm &&
         s->oldest.call.number == call->number;
}

/* The operation that most ranks are in; of equals the one that was begun first. NULL: none. */
static const neapi_flight_entry *most_waited_for(const neapi_flight_state *states, int32_t size)
{
  const neapi_flight_entry *found = NULL;
  int32_t most = 0;
  double longest = 0;
  for (int32_t r = 0; r < size; r++) {
    int32_t count = 0;
    for (int32_t other = 0; states[r].answered && states[r].running && other < size; other++)
      count += is_in(&states[other], &states[r].oldest.call);
    if (count > most || (count && count == most && states[r].since > longest + 0.01)) {
      found = &states[r].oldest;
      most = count;
      longest = states[r].since;
    }
  }
  return found;
}

static bool is_missing(const neapi_flight_state *s, const neapi_call *call)
{
  return !s->answered || s->reached[call->comm % NEAPI_FLIGHT_COMMS] < call->number;
}

/* "ranks 0, 2 and 3" of those for which chosen holds. Returns how many. */
static int32_t put_ranks(writer *w, const bool *chosen, int32_t size)
{
  int32_t count = 0, seen = 0;
  for (int32_t r = 0; r < size; r++)
    count += chosen[r];
  put(w, count == 1 ? "rank" : "ranks");
  for (int32_t r = 0; r < size && seen < 8; r++)
    if (chosen[r]) {
      seen++;
      put(w, "%s %d", seen == 1 ? "" : seen == count ? " and" : ",", r);
    }
  if (count > seen)
    put(w, " and %d more", count - seen);
  return count;
}

static void put_call(writer *w, const neapi_call *call)
{
  char text[NEAPI_CALL_TEXT];
  put(w, "%s (operation %" PRId64 " of communicator %d", neapi_call_text(call, text), call->number,
      call->comm);
  if (call->step >= 0)
    put(w, ", step %" PRId64, call->step);
  if (call->layer >= 0)
    put(w, ", layer %d", call->layer);
  if (neap_span_name(call->phase))
    put(w, ", phase %s", neap_span_name(call->phase));
  put(w, ")");
}

static void put_missing(writer *w, const neapi_flight_state *s, int32_t rank)
{
  put(w, "; rank %d ", rank);
  if (!s->answered)
    put(w, "does not answer: its process is stopped, or cannot be reached");
  else if (s->running) {
    put(w, "has been for %.1f s in ", s->since);
    put_call(w, &s->oldest.call);
  } else if (s->called) {
    put(w, "has called nothing for %.1f s, since ", s->since);
    put_call(w, &s->last.call);
  } else
    put(w, "has called nothing yet");
}

/* Says who is missing where. states: of all ranks. */
static void judge(const neapi_flight_state *states, int32_t size)
{
  writer w = {verdict, 0};
  bool *chosen = calloc((size_t)size, sizeof *chosen);
  const neapi_flight_entry *entry = most_waited_for(states, size);
  int32_t missing = 0;
  double since = 0;
  for (int32_t r = 0; chosen && entry && r < size; r++) {
    chosen[r] = is_missing(&states[r], &entry->call);
    missing += chosen[r];
    if (is_in(&states[r], &entry->call) && states[r].since > since)
      since = states[r].since;
  }
  put(&w, "time-out after %g s: ", limit);
  if (chosen && missing) {
    put(&w, put_ranks(&w, chosen, size) == 1 ? " has" : " have");
    put(&w, " not reached ");
    put_call(&w, &entry->call);
    for (int32_t r = 0; r < size; r++)
      chosen[r] = is_in(&states[r], &entry->call);
    put(&w, ", in which ");
    put(&w, put_ranks(&w, chosen, size) == 1 ? " has been for %.1f s" : " have been for %.1f s",
        since);
    for (int32_t r = 0, told_of = 0; r < size && told_of < 2; r++)
      if (is_missing(&states[r], &entry->call)) {
        put_missing(&w, &states[r], r);
        told_of++;
      }
  } else if (entry) {
    put(&w, "all ranks have reached ");
    put_call(&w, &entry->call);
    put(&w, ", which does not end");
  } else
    put(&w, "an operation did not end");
  free(chosen);
}

/* ---- other processes ------------------------------------------------------------------------ */

static void own_state(neapi_flight_state *states, int32_t size)
{
  neapi_flight_states(states, size);
  pthread_mutex_lock(&lock);
  for (int32_t r = 0; r < size && late.begun; r++)
    if (states[r].answered && have_peers) {
      states[r].running = true;
      states[r].oldest = late;
      states[r].since = neap_clock() - late.begun;
      break;
    }
  pthread_mutex_unlock(&lock);
}

/* This process' only rank, in letter. False: it has none. */
static bool own_letter(letter *l, bool asks)
{
  int32_t size = neapi_flight_size();
  neapi_flight_state *states = size ? calloc((size_t)size, sizeof *states) : NULL;
  bool found = false;
  memset(l, 0, sizeof *l);
  l->asks = asks;
  if (states)
    own_state(states, size);
  for (int32_t r = 0; states && r < size && !found; r++)
    if (states[r].answered) {
      l->state = states[r];
      found = true;
    }
  free(states);
  return found;
}

/* Answers those who ask. */
static void answer_peers(void)
{
  letter in, out;
  while (peers.receive(&in, sizeof in))
    if (in.asks && own_letter(&out, false))
      peers.send(in.state.rank, &out, sizeof out);
}

/* Gathers the states of all ranks, as far as they answer. */
static void ask_peers(neapi_flight_state *states, int32_t size)
{
  letter own, in;
  double until = neap_clock() + ANSWER_SECONDS;
  int32_t known = 1;
  if (!own_letter(&own, true))
    return;
  for (int32_t r = 0; r < size; r++)
    if (r != own.state.rank)
      peers.send(r, &own, sizeof own);
  while (known < size && neap_clock() < until) {
    while (peers.receive(&in, sizeof in)) {
      int32_t rank = in.state.rank;
      if (rank < 0 || rank >= size)
        continue;
      known += !states[rank].answered;
      states[rank] = in.state;
      if (in.asks)
        peers.send(rank, &own, sizeof own);
    }
    nap(0.01);
  }
}

/* ---- the end -------------------------------------------------------------------------------- */

/* The least rank that answered speaks for all. */
static void choose_speaker(const neapi_flight_state *states, int32_t size, int32_t own)
{
  int32_t least = 0;
  while (least < size && !states[least].answered)
    least++;
  speaks = !have_peers || own == least;
}

static void end_process(void)
{
  double until = neap_clock() + LEAVE_SECONDS;
  while (neap_clock() < until) {
    if (have_peers)
      answer_peers();
    nap(LOOK_SECONDS);
  }
  if (!exit_status)
    return;
  int32_t tell = 0;
  neap_watch_verdict(&tell);
  if (tell)
    fprintf(stderr, "neap: %s\n", verdict);
  fflush(NULL);
  _exit(exit_status);
}

static void hang(void)
{
  int32_t size = neapi_flight_size(), own = -1;
  neapi_flight_state *states = size ? calloc((size_t)size, sizeof *states) : NULL;
  if (!states) { /* no communicator is left, or no memory */
    __atomic_store_n(&judging, false, __ATOMIC_RELEASE);
    pthread_mutex_lock(&lock);
    late.begun = 0;
    pthread_mutex_unlock(&lock);
    return;
  }
  __atomic_store_n(&judging, true, __ATOMIC_RELEASE);
  own_state(states, size);
  for (int32_t r = size - 1; r >= 0; r--)
    own = states[r].answered ? r : own;
  if (have_peers)
    ask_peers(states, size);
  judge(states, size);
  choose_speaker(states, size, own);
  free(states);
  const char *file = neap_flight_write(verdict);
  if (file) {
    writer w = {verdict, strlen(verdict)};
    put(&w, "; flight recorder: %s", file);
  }
  __atomic_store_n(&published, verdict, __ATOMIC_RELEASE);
  __atomic_store_n(&judging, false, __ATOMIC_RELEASE);
  neapi_flight_abort(verdict);
  end_process();
}

static void heed_signal(void)
{
  int number = requested;
  if (!number)
    return;
  requested = 0;
  const char *file = neap_flight_write(number == SIGUSR1 ? "SIGUSR1" : "SIGTERM");
  if (file && (number == SIGUSR1 || !have_peers)) /* mpirun's SIGTERM comes after an error's text */
    fprintf(stderr, "neap: flight recorder: %s\n", file);
  if (number != SIGUSR1) {
    signal(number, SIG_DFL);
    kill(getpid(), number);
  }
}

/* Before processes are connected nobody can be asked who is missing. */
static void look_at_start(void)
{
  pthread_mutex_lock(&lock);
  double since = connecting;
  pthread_mutex_unlock(&lock);
  double allowed = limit > CONNECT_SECONDS ? limit : CONNECT_SECONDS;
  if (!since || !exit_status || limit <= 0 || neap_clock() - since <= allowed)
    return;
  fprintf(stderr,
          "neap: time-out after %g s: MPI does not connect the processes: one of them has not come "
          "up, or is not part of this job\n",
          allowed);
  fflush(NULL);
  _exit(exit_status);
}

/* Peers seldom ask, and looking for questions takes a turn of MPI's locks. */
static void look_for_peers(double *next)
{
  double now = neap_clock(), pause = limit > 0 ? limit / 10 : PEERS_SECONDS;
  if (!have_peers || now < *next)
    return;
  answer_peers();
  *next = now + (pause < PEERS_SECONDS ? pause : PEERS_SECONDS);
}

static void *watch(void *argument)
{
  double next = 0;
  for (;;) {
    nap(LOOK_SECONDS);
    heed_signal();
    look_for_peers(&next);
    look_at_start();
    pthread_mutex_lock(&lock);
    bool is_late = late.begun > 0;
    pthread_mutex_unlock(&lock);
    if (!neapi_watchdog_verdict() && limit > 0 && (is_late || neapi_flight_overdue(limit)))
      hang();
  }
  return argument;
}

void neapi_watchdog_connecting(bool begins)
{
  if (begins)
    neapi_watchdog_start(NULL);
  pthread_mutex_lock(&lock);
  connecting = begins ? neap_clock() : 0;
  pthread_mutex_unlock(&lock);
}

void neapi_watchdog_start(const neapi_watch_peers *others)
{
  pthread_t thread;
  sigset_t all, before;
  pthread_mutex_lock(&lock);
  if (others) {
    peers = *others;
    have_peers = true;
  }
  if (!started) {
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    started = !pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started)
      pthread_detach(thread);
  }
  pthread_mutex_unlock(&lock);
}
