/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker prints, passed on to stderr up to a limit. */
#define _GNU_SOURCE /* pipe2 */
#include "worker/printed.h"

#include "neap.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

/* Bytes per second, and in all, that are passed on; CHUNK fits into any pipe that takes
 * anything. */
enum { A_SECOND = 64 << 10, IN_ALL = 16 << 20, CHUNK = 4096, PATIENCE_MS = 100, READS = 64 };

bool neapi_printed_open(neapi_printed *p, int *end)
{
  int pair[2];
  *p = (neapi_printed){.fd = -1};
  if (pipe2(pair, O_CLOEXEC))
    return false;
  fcntl(pair[0], F_SETFL, O_NONBLOCK);
  p->fd = pair[0];
  *end = pair[1];
  return true;
}

/* Writes to stderr; gives up on one that nobody reads, since this process has more to do. */
static void put(const char *text, int64_t bytes)
{
  struct pollfd out = {STDERR_FILENO, POLLOUT, 0};
  while (bytes > 0 && poll(&out, 1, PATIENCE_MS) > 0 && !(out.revents & (POLLERR | POLLNVAL))) {
    ssize_t written = write(STDERR_FILENO, text, (size_t)bytes);
    if (written < 0 && errno != EINTR)
      return;
    text += written > 0 ? written : 0;
    bytes -= written > 0 ? written : 0;
  }
}

static void tell(neapi_printed *p, const char *text)
{
  if (!p->told)
    put(text, (int64_t)strlen(text));
  p->told = true;
}

static void pass_on(neapi_printed *p, const char *text, int64_t bytes)
{
  double now = neap_clock();
  if (now - p->since >= 1) {
    p->since = now;
    p->second = 0;
    p->told = p->all >= IN_ALL;
  }
  int64_t left = A_SECOND - p->second < IN_ALL - p->all ? A_SECOND - p->second : IN_ALL - p->all;
  int64_t some = bytes < left ? bytes : left;
  put(text, some);
  p->second += some;
  p->all += some;
  if (some == bytes)
    return;
  if (p->all >= IN_ALL)
    tell(p, "\nneap: a policy has printed 16 MB: what else it prints is not shown\n");
  else
    tell(p, "\nneap: a policy prints more than 64 kB per second: the rest is not shown\n");
}

void neapi_printed_forward(neapi_printed *p)
{
  char text[CHUNK];
  for (int i = 0; i < READS && p->fd >= 0; i++) {
    ssize_t got = read(p->fd, text, sizeof text);
    if (got > 0)
      pass_on(p, text, got);
    else if (got == 0 || (errno != EINTR && errno != EAGAIN)) {
      close(p->fd);
      p->fd = -1;
    } else if (errno == EAGAIN)
      return;
  }
}

void neapi_printed_close(neapi_printed *p)
{
  neapi_printed_forward(p);
  if (p->fd >= 0)
    close(p->fd);
  p->fd = -1;
}
