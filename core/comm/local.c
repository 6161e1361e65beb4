/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport between threads of one process. The ranks of a group meet exchange by exchange: each
 * posts its messages in its state; when all ranks that it exchanges with have posted the same
 * exchange, it copies what is for it straight from the senders' buffers, and it leaves once its own
 * messages have been copied. A rank sleeps at most twice per exchange, and whoever posts second
 * compares both ranks' calls and messages, so that ranks that disagree fail instead of hanging.
 *
 * Of buffers on a GPU only the addresses meet: a receiver's stream waits for the senders' before it
 * copies, a sender's stream for the receivers' before it goes on, and the host for none of them.
 */
#include "comm/transport.h"
#include "comm/watchdog.h"

#include "base/memory.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HISTORY = 16, FAILURE_TEXT = 2048 };

/* Messages of one exchange, found by peer. */
typedef struct {
  const neap_message *messages;
  int64_t *first;   /* [size + 1] where a peer's messages start in order */
  int64_t *order;   /* message numbers, by peer */
  int64_t capacity; /* of order */
} posted;

/* Where a rank shows what it is doing. */
typedef struct {
  pthread_cond_t wake;
  bool open;
  bool gone;        /* it has closed its end */
  bool active;      /* it is inside exchange `sequence` */
  bool copying;     /* it reads senders' buffers */
  int64_t sequence; /* exchanges begun */
  int64_t missing;  /* ranks that it exchanges with and that have not posted yet */
  int64_t uncopied; /* its messages that receivers have not copied yet; empty ones do not count */
  posted send, recv;
  neapi_stream_event *ready;  /* in this rank's stream: its buffers may be read and written */
  neapi_stream_event *copied; /* it has read the senders' buffers */
  neapi_call calls[HISTORY];  /* of exchange s at s % HISTORY */
} rank_state;

/* The ranks of one communicator. */
typedef struct group {
  neap_world *world;
  struct group *next; /* of the world's groups */
  int32_t size;
  int32_t members; /* ends that are still to be closed */
  pthread_mutex_t lock;
  bool failed;
  int32_t copiers;
  char failure[FAILURE_TEXT];
  rank_state ranks[]; /* [size] */
} group;

struct neap_world {
  pthread_mutex_t lock; /* taken before that of a group */
  int32_t references;   /* the handle and the endpoints */
  bool aborted;
  char reason[FAILURE_TEXT];
  group *groups;
  group *root;
};

struct neapi_endpoint {
  group *group;
  int32_t rank;
  neap_message empty[]; /* [size - 1] one to every other rank */
};

/* ---- groups ---------------------------------------------------------------------------------- */

static void group_free(group *g)
{
  for (int32_t r = 0; r < g->size; r++) {
    rank_state *s = &g->ranks[r];
    pthread_cond_destroy(&s->wake);
    neapi_stream_event_free(s->ready);
    neapi_stream_event_free(s->copied);
    free(s->send.first);
    free(s->send.order);
    free(s->recv.first);
    free(s->recv.order);
  }
  pthread_mutex_destroy(&g->lock);
  free(g);
}

/* The group fails: all its ranks wake up, and every later exchange reports the same. */
static void group_fail(group *g, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void group_fail(group *g, const char *format, ...)
{
  if (g->failed)
    return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(g->failure, sizeof g->failure, format, arguments);
  va_end(arguments);
  g->failed = true;
  for (int32_t r = 0; r < g->size; r++)
    pthread_cond_signal(&g->ranks[r].wake);
}

/* A group of the world, which is locked. */
static group *group_open(neap_world *world, int32_t size)
{
  group *g =
      neapi_alloc_zero((int64_t)sizeof *g + size * (int64_t)sizeof(rank_state), "comm: ranks");
  if (!g)
    return NULL;
  g->world = world;
  g->size = g->members = size;
  pthread_mutex_init(&g->lock, NULL);
  bool whole = true;
  for (int32_t r = 0; r < size; r++) {
    rank_state *s = &g->ranks[r];
    pthread_cond_init(&s->wake, NULL);
    s->send.first = neapi_alloc(size * 8ll + 8, "comm: ranks");
    s->recv.first = neapi_alloc(size * 8ll + 8, "comm: ranks");
    whole = whole && s->send.first && s->recv.first;
  }
  if (!whole) {
    group_free(g);
    return NULL;
  }
  if (world->aborted)
    group_fail(g, "comm: the run was ended: %s", world->reason);
  g->next = world->groups;
  world->groups = g;
  return g;
}

/* ---- worlds ---------------------------------------------------------------------------------- */

int neap_world_open(int32_t ranks, neap_world **out)
{
  if (ranks < 1 || ranks > 4096)
    return neapi_fail(NEAP_ARGUMENT, "world: %d ranks; allowed are 1 to 4096", ranks);
  neap_world *world = neapi_alloc_zero(sizeof *world, "world");
  if (!world)
    return NEAP_MEMORY;
  world->references = 1;
  pthread_mutex_init(&world->lock, NULL);
  world->root = group_open(world, ranks);
  if (!world->root) {
    neap_world_close(world);
    return NEAP_MEMORY;
  }
  *out = world;
  return NEAP_OK;
}

void neap_world_close(neap_world *world)
{
  if (!world || __atomic_sub_fetch(&world->references, 1, __ATOMIC_ACQ_REL))
    return;
  for (group *g = world->groups, *next; g; g = next) {
    next = g->next;
    group_free(g);
  }
  pthread_mutex_destroy(&world->lock);
  free(world);
}

void neap_world_abort(neap_world *world, const char *why)
{
  if (!world)
    return;
  pthread_mutex_lock(&world->lock);
  if (!world->aborted) {
    world->aborted = true;
    snprintf(world->reason, sizeof world->reason, "%s", why ? why : "no reason given");
  }
  for (group *g = world->groups; g; g = g->next) {
    pthread_mutex_lock(&g->lock);
    group_fail(g, "comm: the run was ended: %s", world->reason);
    pthread_mutex_unlock(&g->lock);
  }
  pthread_mutex_unlock(&world->lock);
}

/* ---- meeting --------------------------------------------------------------------------------- */

static int64_t held(const posted *list, int32_t peer)
{
  return list->first[peer + 1] - list->first[peer];
}

static const neap_message *message(const posted *list, int32_t peer, int64_t i)
{
  return &list->messages[list->order[list->first[peer] + i]];
}

static int64_t bytes_held(const posted *list, int32_t peer)
{
  int64_t bytes = 0;
  for (int64_t i = 0; i < held(list, peer); i++)
    bytes += message(list, peer, i)->bytes;
  return bytes;
}

/* Sorts the messages by peer, keeping their order. */
static int fill(posted *list, int32_t size, const neap_message *messages, int64_t count)
{
  if (count > list->capacity) {
    free(list->order);
    list->capacity = 0;
    list->order = neapi_alloc(count * 8, "comm: messages");
    if (!list->order)
      return NEAP_MEMORY;
    list->capacity = count;
  }
  list->messages = messages;
  memset(list->first, 0, (size_t)(size + 1) * sizeof *list->first);
  for (int64_t i = 0; i < count; i++)
    list->first[messages[i].peer + 1]++;
  for (int32_t p = 0; p < size; p++)
    list->first[p + 1] += list->first[p];
  for (int64_t i = 0; i < count; i++)
    list->order[list->first[messages[i].peer]++] = i;
  for (int32_t p = size; p > 0; p--)
    list->first[p] = list->first[p - 1];
  list->first[0] = 0;
  return NEAP_OK;
}

static bool related(const rank_state *s, int32_t peer)
{
  return held(&s->send, peer) || held(&s->recv, peer);
}

/* Fails the group if what from sends does not fit what to receives. */
static void check_way(group *g, int32_t from, int32_t to, const neapi_call *call)
{
  const posted *send = &g->ranks[from].send, *recv = &g->ranks[to].recv;
  int64_t sends = held(send, to), recvs = held(recv, from);
  const char *name = neapi_kind_name(call->kind);
  if (sends != recvs) {
    group_fail(g,
               "comm: operation %" PRId64 ", %s: rank %d sends %" PRId64
               " messages to rank %d, which receives %" PRId64 " from it",
               call->number, name, from, sends, to, recvs);
    return;
  }
  for (int64_t i = 0; i < sends; i++) {
    int64_t sent = message(send, to, i)->bytes, received = message(recv, from, i)->bytes;
    if (sent != received) {
      group_fail(g,
                 "comm: operation %" PRId64 ", %s: rank %d sends %" PRId64
                 " bytes to rank %d, which receives %" PRId64 " bytes",
                 call->number, name, from, sent, to, received);
      return;
    }
  }
}

static void disagree(group *g, int32_t a, const neapi_call *call_a, int32_t b,
                     const neapi_call *call_b)
{
  char text_a[NEAPI_CALL_TEXT], text_b[NEAPI_CALL_TEXT];
  group_fail(g,
             "comm: ranks disagree: rank %d calls %s (its operation %" PRId64
             ") while rank %d calls %s (its operation %" PRId64 ")",
             a, neapi_call_text(call_a, text_a), call_a->number, b, neapi_call_text(call_b, text_b),
             call_b->number);
}

/* Both ranks are in the same exchange. */
static void check_ranks(group *g, int32_t a, int32_t b, int64_t sequence)
{
  const neapi_call *call_a = &g->ranks[a].calls[sequence % HISTORY];
  const neapi_call *call_b = &g->ranks[b].calls[sequence % HISTORY];
  if (!neapi_call_agrees(call_a, call_b)) {
    disagree(g, a < b ? a : b, a < b ? call_a : call_b, a < b ? b : a, a < b ? call_b : call_a);
    return;
  }
  check_way(g, a, b, call_a);
  check_way(g, b, a, call_a);
}

/* Rank expects to meet peer, which has already left this exchange. */
static void fail_passed(group *g, int32_t rank, int32_t peer, int64_t sequence)
{
  const rank_state *other = &g->ranks[peer];
  const neapi_call *call = &g->ranks[rank].calls[sequence % HISTORY];
  if (other->sequence - sequence < HISTORY) {
    disagree(g, rank, call, peer, &other->calls[sequence % HISTORY]);
    return;
  }
  char text[NEAPI_CALL_TEXT];
  group_fail(g,
             "comm: ranks disagree: rank %d calls %s (its operation %" PRId64
             ") with rank %d, which has gone on without it",
             rank, neapi_call_text(call, text), call->number, peer);
}

static void fail_gone(group *g, int32_t rank, int32_t peer)
{
  const rank_state *self = &g->ranks[rank];
  char text[NEAPI_CALL_TEXT];
  group_fail(g, "comm: rank %d has closed the communicator while rank %d calls %s", peer, rank,
             neapi_call_text(&self->calls[self->sequence % HISTORY], text));
}

/* Shows this rank's messages to the others and meets those that are here already. */
static void post(group *g, int32_t rank)
{
  rank_state *self = &g->ranks[rank];
  for (int32_t p = 0; p < g->size && !g->failed; p++) {
    rank_state *other = &g->ranks[p];
    if (p == rank)
      continue;
    if (other->active && other->sequence == self->sequence) {
      check_ranks(g, rank, p, self->sequence);
      if (!g->failed && related(other, rank) && !--other->missing)
        pthread_cond_signal(&other->wake);
    } else if (!related(self, p))
      continue;
    else if (other->sequence >= self->sequence)
      fail_passed(g, rank, p, self->sequence);
    else if (other->gone)
      fail_gone(g, rank, p);
    else
      self->missing++;
  }
}

/* Lists what the others have for this rank; not all ranks begin with the same sender. Returns how
 * many segments there are. */
static int64_t list_segments(group *g, int32_t rank, neapi_copy_segment *segments)
{
  const rank_state *self = &g->ranks[rank];
  int64_t used = 0;
  for (int32_t step = 1; step < g->size; step++) {
    int32_t p = (rank + step) % g->size;
    for (int64_t i = 0; i < held(&self->recv, p); i++) {
      const neap_message *to = message(&self->recv, p, i);
      const neap_message *from = message(&g->ranks[p].send, rank, i);
      if (to->bytes && segments)
        segments[used] = (neapi_copy_segment){to->data, from->data, to->bytes};
      used += to->bytes > 0;
    }
  }
  return used;
}

/* This rank's stream waits until those that it gets data from may be read, or when it has sent,
 * until those that took data have copied them. */
static int follow(group *g, int32_t rank, bool sent)
{
  const rank_state *self = &g->ranks[rank];
  const posted *list = sent ? &self->send : &self->recv;
  int status = NEAP_OK;
  for (int32_t p = 0; p < g->size && !status; p++)
    if (bytes_held(list, p))
      status = neapi_stream_event_follow(sent ? g->ranks[p].copied : g->ranks[p].ready);
  return status;
}

static int copy_on_gpu(group *g, int32_t rank)
{
  int64_t count = list_segments(g, rank, NULL);
  neapi_copy_segment *segments = neapi_alloc(count * (int64_t)sizeof *segments, "comm: copies");
  if (!segments)
    return NEAP_MEMORY;
  list_segments(g, rank, segments);
  int status = follow(g, rank, false);
  if (!status)
    status = neapi_gpu_copy_all(segments, count);
  if (!status)
    status = neapi_stream_event_record(&g->ranks[rank].copied);
  free(segments);
  return status;
}

/* Copies what the others have for this rank; they stay until that is done. */
static int copy_all(group *g, int32_t rank)
{
  const rank_state *self = &g->ranks[rank];
  if (self->calls[self->sequence % HISTORY].gpu)
    return copy_on_gpu(g, rank);
  for (int32_t step = 1; step < g->size; step++) {
    int32_t p = (rank + step) % g->size; /* not all from the same rank at once */
    for (int64_t i = 0; i < held(&self->recv, p); i++) {
      const neap_message *to = message(&self->recv, p, i);
      if (to->bytes)
        memcpy(to->data, message(&g->ranks[p].send, rank, i)->data, (size_t)to->bytes);
    }
  }
  return NEAP_OK;
}

static void mark_copied(group *g, int32_t rank)
{
  const rank_state *self = &g->ranks[rank];
  for (int32_t p = 0; p < g->size; p++) {
    int64_t copied = 0;
    for (int64_t i = 0; i < held(&self->recv, p); i++)
      copied += message(&self->recv, p, i)->bytes > 0;
    rank_state *other = &g->ranks[p];
    other->uncopied -= copied;
    if (copied && !other->uncopied)
      pthread_cond_signal(&other->wake);
  }
}

/* Between post and leave: waits, copies, waits. The group is locked. */
static void meet(group *g, int32_t rank)
{
  rank_state *self = &g->ranks[rank];
  while (self->missing && !g->failed)
    pthread_cond_wait(&self->wake, &g->lock);
  if (g->failed)
    return;
  g->copiers++;
  pthread_mutex_unlock(&g->lock);
  int status = copy_all(g, rank);
  pthread_mutex_lock(&g->lock);
  g->copiers--;
  if (status) {
    group_fail(g, "rank %d: %s", rank, neap_error_message());
    return;
  }
  mark_copied(g, rank);
  while (self->uncopied && !g->failed)
    pthread_cond_wait(&self->wake, &g->lock);
}

/* A failed group's ranks may free their buffers only when nobody reads them any more. */
static void await_copiers(group *g, int32_t rank, bool on_gpu)
{
  if (!g->copiers)
    for (int32_t r = 0; r < g->size; r++)
      pthread_cond_signal(&g->ranks[r].wake);
  while (g->copiers)
    pthread_cond_wait(&g->ranks[rank].wake, &g->lock);
  for (int32_t r = 0; r < g->size && on_gpu; r++)
    neapi_stream_event_wait(g->ranks[r].copied);
}

static int exchange(neapi_endpoint *endpoint, const neapi_call *call, const neap_message *send,
                    int64_t sends, const neap_message *recv, int64_t recvs)
{
  group *g = endpoint->group;
  rank_state *self = &g->ranks[endpoint->rank];
  /* Others look at the mailbags only while this rank is active. */
  int status = fill(&self->send, g->size, send, sends);
  if (!status)
    status = fill(&self->recv, g->size, recv, recvs);
  if (!status && call->gpu)
    status = neapi_stream_event_record(&self->ready);
  if (status)
    return status;
  pthread_mutex_lock(&g->lock);
  if (!g->failed) {
    self->sequence++;
    self->calls[self->sequence % HISTORY] = *call;
    self->active = true;
    self->missing = self->uncopied = 0;
    for (int64_t i = 0; i < sends; i++)
      self->uncopied += send[i].bytes > 0;
    post(g, endpoint->rank);
    meet(g, endpoint->rank);
    self->active = false;
  }
  if (g->failed) {
    await_copiers(g, endpoint->rank, call->gpu > 0);
    status = neapi_fail(NEAP_COMM, "%s", g->failure);
  }
  pthread_mutex_unlock(&g->lock);
  return status || !call->gpu ? status : follow(g, endpoint->rank, true);
}

/* An exchange of an empty message with every other rank. */
static int barrier(neapi_endpoint *endpoint, const neapi_call *call)
{
  int32_t others = endpoint->group->size - 1;
  return exchange(endpoint, call, endpoint->empty, others, endpoint->empty, others);
}

/* ---- endpoints ------------------------------------------------------------------------------- */

static void endpoint_close(neapi_endpoint *endpoint)
{
  group *g = endpoint->group;
  neap_world *world = g->world;
  pthread_mutex_lock(&world->lock);
  pthread_mutex_lock(&g->lock);
  rank_state *self = &g->ranks[endpoint->rank];
  self->open = false;
  self->gone = true;
  for (int32_t r = 0; r < g->size; r++) {
    const rank_state *other = &g->ranks[r];
    if (other->active && other->sequence > self->sequence && related(other, endpoint->rank))
      fail_gone(g, r, endpoint->rank);
  }
  bool last = !--g->members && g != world->root;
  pthread_mutex_unlock(&g->lock);
  if (last) {
    group **at = &world->groups;
    while (*at != g)
      at = &(*at)->next;
    *at = g->next;
    group_free(g);
  }
  pthread_mutex_unlock(&world->lock);
  free(endpoint);
  neap_world_close(world);
}

/* An endpoint for a rank of the group. */
static int endpoint_open(group *g, int32_t rank, neapi_endpoint **out)
{
  neapi_endpoint *endpoint = neapi_alloc(
      (int64_t)sizeof *endpoint + g->size * (int64_t)sizeof *endpoint->empty, "comm: endpoint");
  if (!endpoint)
    return NEAP_MEMORY;
  endpoint->group = g;
  endpoint->rank = rank;
  for (int32_t i = 0; i < g->size - 1; i++)
    endpoint->empty[i] = (neap_message){NULL, 0, i + (i >= rank)};
  pthread_mutex_lock(&g->lock);
  bool taken = g->ranks[rank].open;
  if (!taken) {
    g->ranks[rank].open = true;
    g->ranks[rank].gone = false;
  }
  pthread_mutex_unlock(&g->lock);
  if (taken) {
    free(endpoint);
    return neapi_fail(NEAP_ARGUMENT, "comm: rank %d of this world is open already; close it first",
                      rank);
  }
  __atomic_add_fetch(&g->world->references, 1, __ATOMIC_RELAXED);
  *out = endpoint;
  return NEAP_OK;
}

/* The first member makes the group and sends its address to the others. */
static int split(neapi_endpoint *endpoint, const neapi_call *call, const int32_t *members,
                 int32_t rank, int32_t size, neapi_endpoint **out)
{
  neap_world *world = endpoint->group->world;
  group *g = NULL;
  int64_t count = rank ? 1 : size - 1;
  neap_message *messages = neapi_alloc(count * (int64_t)sizeof *messages, "comm: split");
  if (!messages)
    return NEAP_MEMORY;
  if (!rank) {
    pthread_mutex_lock(&world->lock);
    g = group_open(world, size);
    pthread_mutex_unlock(&world->lock);
  }
  for (int64_t i = 0; i < count; i++)
    messages[i] = (neap_message){&g, sizeof g, rank ? members[0] : members[i + 1]};
  int status = exchange(endpoint, call, messages, rank ? 0 : count, messages, rank ? count : 0);
  free(messages);
  if (!status && !g)
    status = neapi_fail(NEAP_MEMORY, "comm: no memory for a group of %d ranks", size);
  return status ? status : endpoint_open(g, rank, out);
}

static const neapi_transport local = {"local", true, exchange, barrier, split, endpoint_close};

int neap_comm_open_local(neap_world *world, int32_t rank, neap_comm **out)
{
  if (!world)
    return neapi_fail(NEAP_ARGUMENT, "comm_open_local: no world");
  int32_t size = world->root->size;
  if (rank < 0 || rank >= size)
    return neapi_fail(NEAP_ARGUMENT, "comm_open_local: rank %d; allowed are 0 to %d", rank,
                      size - 1);
  neapi_endpoint *endpoint;
  int status = endpoint_open(world->root, rank, &endpoint);
  if (status)
    return status;
  neapi_watchdog_start(NULL);
  return neapi_comm_open(&local, endpoint, rank, size,
                         neapi_flight_open(rank, size, neap_world_abort, world), out);
}
