/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport over TCP, for ranks that are processes of any launcher: a connection between every two
 * ranks of a communicator, of its own, so that communicators do not disturb each other. An exchange
 * polls all connections that still have something to send or to receive.
 *
 * Before every message goes a head that tells the operation it belongs to and its bytes: ranks that
 * disagree fail instead of mixing up data. Whoever connects shows a key that all ranks have been
 * given; ranks are of one kind of processor, as they are under the other transports.
 */
#include "comm/transport.h"
#include "comm/watchdog.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HOST_BYTES = 128, FAILURE_TEXT = 512, LOOK_MS = 50, LEAST_SECONDS = 30, MOST_RANKS = 4096 };

struct neap_listener {
  int fd;
  int32_t port;
  char host[HOST_BYTES];
};

typedef struct {
  uint64_t key;
  int64_t rank;
} greeting;

typedef struct {
  int64_t operation; /* number and kind */
  int64_t bytes;
} head;

/* What is left to do with a peer, in one direction. */
typedef struct {
  int64_t next; /* place of the current message in order */
  int64_t end;  /* place after the peer's last one */
  int64_t done; /* bytes of head and message that have travelled */
  head head;    /* of the current message */
} progress;

struct neapi_endpoint {
  int32_t rank, size;
  uint64_t key;
  int *fds;                      /* [size] -1: this rank */
  char (*hosts)[HOST_BYTES];     /* [size] */
  struct pollfd *polled;         /* [size] */
  int32_t *peer_of;              /* [size] of what is polled */
  progress *sending, *receiving; /* [size] */
  int64_t *send_order, *recv_order;
  int64_t capacity; /* of each of the orders */
  bool failed;
  char failure[FAILURE_TEXT];
};

/* ---- listeners ------------------------------------------------------------------------------- */

/* The first address of a host; NULL: reported. */
static struct addrinfo *resolve(const char *host, int32_t port)
{
  char service[16];
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
  snprintf(service, sizeof service, "%d", port);
  int error = getaddrinfo(host, service, &hints, &found);
  if (error)
    neapi_fail(NEAP_SYSTEM, "comm tcp: host %s: %s", host, gai_strerror(error));
  return error ? NULL : found;
}

static int32_t port_of(int fd)
{
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  if (getsockname(fd, (struct sockaddr *)&name, &length))
    return 0;
  return ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&name)->sin6_port
                                          : ((struct sockaddr_in *)&name)->sin_port);
}

int neap_listener_open(const char *host, neap_listener **out)
{
  if (!host || !*host || strlen(host) >= HOST_BYTES)
    return neapi_fail(NEAP_ARGUMENT, "listener: the host's name is empty or too long");
  struct addrinfo *address = resolve(host, 0);
  if (!address)
    return NEAP_SYSTEM;
  neap_listener *listener = neapi_alloc_zero(sizeof *listener, "listener");
  int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool bound = fd >= 0 && !bind(fd, address->ai_addr, address->ai_addrlen) &&
               !listen(fd, MOST_RANKS) && !fcntl(fd, F_SETFL, O_NONBLOCK);
  int error = errno;
  freeaddrinfo(address);
  if (!listener || !bound) {
    if (fd >= 0)
      close(fd);
    free(listener);
    return listener ? neapi_fail(NEAP_SYSTEM, "listener: at host %s: %s", host, strerror(error))
                    : NEAP_MEMORY;
  }
  listener->fd = fd;
  listener->port = port_of(fd);
  snprintf(listener->host, sizeof listener->host, "%s", host);
  *out = listener;
  return NEAP_OK;
}

int32_t neap_listener_port(const neap_listener *listener)
{
  return listener->port;
}

void neap_listener_close(neap_listener *listener)
{
  if (!listener)
    return;
  close(listener->fd);
  free(listener);
}

/* ---- connecting ------------------------------------------------------------------------------ */

/* Whether connecting has taken too long, or everything is to end. */
static bool over(double begun)
{
  double limit = neapi_watchdog_limit();
  limit = limit > 0 && limit < LEAST_SECONDS ? LEAST_SECONDS : limit;
  return neapi_watchdog_verdict() || (limit > 0 && neap_clock() - begun > limit);
}

static void prepare(int fd)
{
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  fcntl(fd, F_SETFL, O_NONBLOCK);
}

/* A connection to a peer that listens, greeted; -1: reported. */
static int reach(const neapi_endpoint *e, int32_t peer, int32_t port)
{
  struct addrinfo *address = resolve(e->hosts[peer], port);
  if (!address)
    return -1;
  greeting mine = {e->key, e->rank};
  int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool met = fd >= 0 && !connect(fd, address->ai_addr, address->ai_addrlen) &&
             send(fd, &mine, sizeof mine, MSG_NOSIGNAL) == sizeof mine;
  int error = errno;
  freeaddrinfo(address);
  if (met) {
    prepare(fd);
    return fd;
  }
  if (fd >= 0)
    close(fd);
  neapi_fail(NEAP_COMM, "comm tcp: rank %d does not reach rank %d at %s, port %d: %s", e->rank,
             peer, e->hosts[peer], port, strerror(error));
  return -1;
}

/* Takes a connection whose greeting is a later rank's that is missing; others are closed. */
static bool take(neapi_endpoint *e, int fd)
{
  greeting theirs = {0, 0};
  struct timeval patience = {LEAST_SECONDS, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  bool right = recv(fd, &theirs, sizeof theirs, MSG_WAITALL) == sizeof theirs &&
               theirs.key == e->key && theirs.rank > e->rank && theirs.rank < e->size &&
               e->fds[theirs.rank] < 0;
  if (right) {
    prepare(fd);
    e->fds[theirs.rank] = fd;
  } else
    close(fd);
  return right;
}

/* Connects all ranks: each to those before it, and takes those after it. */
static int meet(neapi_endpoint *e, const neap_listener *listener, const int32_t *ports)
{
  for (int32_t r = 0; r < e->rank; r++)
    if ((e->fds[r] = reach(e, r, ports[r])) < 0)
      return NEAP_COMM;
  double begun = neap_clock();
  for (int32_t missing = e->size - 1 - e->rank; missing;) {
    struct pollfd waiting = {listener->fd, POLLIN, 0};
    if (poll(&waiting, 1, LOOK_MS) > 0) {
      int fd = accept(listener->fd, NULL, NULL);
      missing -= fd >= 0 && take(e, fd);
    } else if (over(begun))
      return neapi_fail(NEAP_COMM, "comm tcp: rank %d: %d later ranks did not connect", e->rank,
                        missing);
  }
  return NEAP_OK;
}

/* ---- endpoints ------------------------------------------------------------------------------- */

static void endpoint_close(neapi_endpoint *e)
{
  for (int32_t r = 0; e->fds && r < e->size; r++)
    if (e->fds[r] >= 0)
      close(e->fds[r]);
  void *parts[] = {e->fds,     e->hosts,     e->polled,     e->peer_of,
                   e->sending, e->receiving, e->send_order, e->recv_order};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    free(parts[i]);
  free(e);
}

static neapi_endpoint *endpoint_open(int32_t rank, int32_t size, uint64_t key)
{
  neapi_endpoint *e = neapi_alloc_zero(sizeof *e, "comm: endpoint");
  if (!e)
    return NULL;
  e->rank = rank;
  e->size = size;
  e->key = key;
  e->fds = neapi_alloc(size * (int64_t)sizeof *e->fds, "comm: endpoint");
  e->hosts = neapi_alloc_zero(size * (int64_t)sizeof *e->hosts, "comm: endpoint");
  e->polled = neapi_alloc(size * (int64_t)sizeof *e->polled, "comm: endpoint");
  e->peer_of = neapi_alloc(size * (int64_t)sizeof *e->peer_of, "comm: endpoint");
  e->sending = neapi_alloc(size * (int64_t)sizeof *e->sending, "comm: endpoint");
  e->receiving = neapi_alloc(size * (int64_t)sizeof *e->receiving, "comm: endpoint");
  for (int32_t r = 0; e->fds && r < size; r++)
    e->fds[r] = -1;
  if (e->fds && e->hosts && e->polled && e->peer_of && e->sending && e->receiving)
    return e;
  endpoint_close(e);
  return NULL;
}

/* The endpoint fails with this and every later operation, and so do those that wait for it. */
static int fail(neapi_endpoint *e, const neapi_call *call, const char *what)
{
  char text[NEAPI_CALL_TEXT];
  snprintf(e->failure, sizeof e->failure, "comm: rank %d, %s (its operation %" PRId64 "): %s",
           e->rank, neapi_call_text(call, text), call->number, what);
  e->failed = true;
  for (int32_t r = 0; r < e->size; r++)
    if (e->fds[r] >= 0)
      shutdown(e->fds[r], SHUT_RDWR);
  return neapi_fail(NEAP_COMM, "%s", e->failure);
}

static int fail_peer(neapi_endpoint *e, const neapi_call *call, int32_t peer, int error)
{
  char what[160];
  if (error && error != ECONNRESET && error != EPIPE)
    snprintf(what, sizeof what, "connection to rank %d: %s", peer, strerror(error));
  else
    snprintf(what, sizeof what, "rank %d has closed its end", peer);
  return fail(e, call, what);
}

/* ---- messages -------------------------------------------------------------------------------- */

static int64_t operation_of(const neapi_call *call)
{
  return call->number * NEAPI_KINDS + call->kind;
}

/* Sorts messages by peer, in their order: order[], and in list[] where each peer's begin and
 * end. */
static void sort(const neap_message *messages, int64_t count, int64_t operation, int32_t size,
                 progress *list, int64_t *order)
{
  for (int32_t r = 0; r < size; r++)
    list[r] = (progress){0, 0, 0, {operation, 0}};
  for (int64_t i = 0; i < count; i++)
    list[messages[i].peer].end++;
  for (int32_t r = 0, at = 0; r < size; r++) {
    int64_t own = list[r].end;
    list[r].next = list[r].end = at;
    at += (int32_t)own;
  }
  for (int64_t i = 0; i < count; i++)
    order[list[messages[i].peer].end++] = i;
}

static int reserve(neapi_endpoint *e, int64_t count)
{
  if (count <= e->capacity)
    return NEAP_OK;
  free(e->send_order);
  free(e->recv_order);
  e->send_order = neapi_alloc(count * 8, "comm: messages");
  e->recv_order = neapi_alloc(count * 8, "comm: messages");
  e->capacity = e->send_order && e->recv_order ? count : 0;
  return e->capacity ? NEAP_OK : NEAP_MEMORY;
}

/* What of head and message a position is in: its address, and in *bytes how many follow it. */
static char *place(progress *p, const neap_message *message, int64_t *bytes)
{
  int64_t first = (int64_t)sizeof p->head;
  *bytes = p->done < first ? first - p->done : first + message->bytes - p->done;
  return p->done < first ? (char *)&p->head + p->done : (char *)message->data + (p->done - first);
}

static bool blocks(ssize_t moved)
{
  return moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

/* Sends to a peer what its connection takes. */
static int send_some(neapi_endpoint *e, const neapi_call *call, int32_t peer,
                     const neap_message *list)
{
  for (progress *p = &e->sending[peer]; p->next < p->end;) {
    const neap_message *message = &list[e->send_order[p->next]];
    int64_t bytes;
    p->head.bytes = message->bytes;
    char *from = place(p, message, &bytes);
    ssize_t moved = send(e->fds[peer], from, (size_t)bytes, MSG_NOSIGNAL);
    if (blocks(moved))
      return NEAP_OK;
    if (moved < 0)
      return fail_peer(e, call, peer, errno);
    p->done += moved;
    if (p->done == (int64_t)sizeof p->head + message->bytes) {
      p->next++;
      p->done = 0;
    }
  }
  return NEAP_OK;
}

/* Compares a head that has come with what was expected. */
static int check_head(neapi_endpoint *e, const neapi_call *call, int32_t peer, const head *got,
                      int64_t bytes)
{
  char what[200];
  if (got->operation != operation_of(call))
    snprintf(what, sizeof what,
             "ranks disagree: rank %d sent %" PRId64 " bytes of its %s (operation %" PRId64 ")",
             peer, got->bytes, neapi_kind_name((int32_t)(got->operation % NEAPI_KINDS)),
             got->operation / NEAPI_KINDS);
  else if (got->bytes != bytes)
    snprintf(what, sizeof what, "rank %d sent %" PRId64 " bytes where %" PRId64 " were expected",
             peer, got->bytes, bytes);
  else
    return NEAP_OK;
  return fail(e, call, what);
}

/* Receives what a peer's connection has. */
static int receive_some(neapi_endpoint *e, const neapi_call *call, int32_t peer,
                        const neap_message *list)
{
  for (progress *p = &e->receiving[peer]; p->next < p->end;) {
    const neap_message *message = &list[e->recv_order[p->next]];
    int64_t bytes, first = (int64_t)sizeof p->head;
    char *to = place(p, message, &bytes);
    ssize_t moved = bytes ? recv(e->fds[peer], to, (size_t)bytes, 0) : 0;
    if (blocks(moved))
      return NEAP_OK;
    if (moved < 0 || (bytes && !moved))
      return fail_peer(e, call, peer, moved ? errno : 0);
    bool headed = p->done < first;
    p->done += moved;
    int status =
        headed && p->done == first ? check_head(e, call, peer, &p->head, message->bytes) : NEAP_OK;
    if (status)
      return status;
    if (p->done == first + message->bytes) {
      p->next++;
      p->done = 0;
    }
  }
  return NEAP_OK;
}

/* One round: waits for a connection that goes on, and uses it. *left: whether there is more. */
static int turn(neapi_endpoint *e, const neapi_call *call, const neap_message *send,
                const neap_message *recv, bool *left)
{
  nfds_t count = 0;
  for (int32_t r = 0; r < e->size; r++) {
    bool out = e->sending[r].next < e->sending[r].end;
    bool in = e->receiving[r].next < e->receiving[r].end;
    if (out || in) {
      e->polled[count] =
          (struct pollfd){e->fds[r], (short)((out ? POLLOUT : 0) | (in ? POLLIN : 0)), 0};
      e->peer_of[count++] = r;
    }
  }
  *left = count > 0;
  if (count && poll(e->polled, count, LOOK_MS) < 0 && errno != EINTR)
    return fail(e, call, strerror(errno));
  if (neapi_watchdog_verdict())
    return fail(e, call, neapi_watchdog_verdict());
  int status = NEAP_OK;
  for (nfds_t i = 0; i < count && !status; i++) {
    if (e->polled[i].revents & (POLLOUT | POLLERR | POLLHUP))
      status = send_some(e, call, e->peer_of[i], send);
    if (!status && e->polled[i].revents & (POLLIN | POLLERR | POLLHUP))
      status = receive_some(e, call, e->peer_of[i], recv);
  }
  return status;
}

static int exchange(neapi_endpoint *e, const neapi_call *call, const neap_message *send,
                    int64_t sends, const neap_message *recv, int64_t recvs)
{
  if (e->failed)
    return neapi_fail(NEAP_COMM, "%s", e->failure);
  int status = reserve(e, sends > recvs ? sends : recvs);
  if (status)
    return status;
  sort(send, sends, operation_of(call), e->size, e->sending, e->send_order);
  sort(recv, recvs, operation_of(call), e->size, e->receiving, e->recv_order);
  for (bool left = true; left && !status;)
    status = turn(e, call, send, recv, &left);
  return status;
}

/* An empty message to everybody, and from everybody. */
static int barrier(neapi_endpoint *e, const neapi_call *call)
{
  neap_message *messages = neapi_alloc(e->size * (int64_t)sizeof *messages, "comm: barrier");
  if (!messages)
    return NEAP_MEMORY;
  int64_t count = 0;
  for (int32_t r = 0; r < e->size; r++)
    if (r != e->rank)
      messages[count++] = (neap_message){NULL, 0, r};
  int status = exchange(e, call, messages, count, messages, count);
  free(messages);
  return status;
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* Tells members each other's ports over the group's endpoint. */
static int tell_ports(neapi_endpoint *e, const neapi_call *call, const int32_t *members,
                      int32_t rank, int32_t size, int32_t *ports)
{
  neap_message *send = neapi_alloc(2 * size * (int64_t)sizeof *send, "comm: split"), *recv = send;
  if (!send)
    return NEAP_MEMORY;
  int64_t count = 0;
  recv += size;
  for (int32_t r = 0; r < size; r++)
    if (r != rank) {
      send[count] = (neap_message){&ports[rank], sizeof *ports, members[r]};
      recv[count++] = (neap_message){&ports[r], sizeof *ports, members[r]};
    }
  int status = exchange(e, call, send, count, recv, count);
  free(send);
  return status;
}

static int split(neapi_endpoint *e, const neapi_call *call, const int32_t *members, int32_t rank,
                 int32_t size, neapi_endpoint **out)
{
  neap_listener *listener = NULL;
  int32_t *ports = neapi_alloc_zero(size * 4ll, "comm: split");
  uint64_t key = neap_random_bits(e->key, (uint64_t)call->number, (uint64_t)members[0]);
  neapi_endpoint *made = endpoint_open(rank, size, key);
  int status = ports && made ? neap_listener_open(e->hosts[e->rank], &listener) : NEAP_MEMORY;
  if (!status) {
    ports[rank] = listener->port;
    for (int32_t r = 0; r < size; r++)
      memcpy(made->hosts[r], e->hosts[members[r]], HOST_BYTES);
    status = tell_ports(e, call, members, rank, size, ports);
  }
  if (!status)
    status = meet(made, listener, ports);
  neap_listener_close(listener);
  free(ports);
  if (!status)
    *out = made;
  else if (made)
    endpoint_close(made);
  return status;
}

static const neapi_transport tcp = {"tcp", false, exchange, barrier, split, endpoint_close};

int neap_comm_open_tcp(const neap_listener *listener, int32_t rank, int32_t ranks,
                       const char *const *hosts, const int32_t *ports, uint64_t key,
                       neap_comm **out)
{
  if (!listener || !hosts || !ports)
    return neapi_fail(NEAP_ARGUMENT, "comm tcp: listener, hosts or ports are NULL");
  if (ranks < 1 || ranks > MOST_RANKS || rank < 0 || rank >= ranks)
    return neapi_fail(NEAP_ARGUMENT, "comm tcp: rank %d of %d; allowed are 0 to %d of 1 to %d",
                      rank, ranks, ranks - 1, MOST_RANKS);
  neapi_endpoint *e = endpoint_open(rank, ranks, key);
  if (!e)
    return NEAP_MEMORY;
  for (int32_t r = 0; r < ranks; r++)
    snprintf(e->hosts[r], HOST_BYTES, "%s", hosts[r]);
  snprintf(e->hosts[rank], HOST_BYTES, "%s", listener->host);
  neapi_watchdog_start(NULL);
  neapi_watchdog_connecting(true);
  int status = meet(e, listener, ports);
  neapi_watchdog_connecting(false);
  if (status) {
    endpoint_close(e);
    return status;
  }
  return neapi_comm_open(&tcp, e, rank, ranks, neapi_flight_open(rank, ranks, NULL, NULL), out);
}
