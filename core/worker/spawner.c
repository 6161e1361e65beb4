/*
 * The spawner: a small process, forked before anything else runs, that starts worker processes for
 * its parent, ends them and reaps them. A process with MPI, CUDA or threads must not fork; this one
 * has none of them. It ends with its parent, and its workers with it.
 */
#define _GNU_SOURCE
#include "worker/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 64, FDS = 3, HIGH_FD = 16, PARENT_ENDED = SIGTERM };

/* ---- in the parent --------------------------------------------------------------------------- */

static int to_spawner = -1;
static pid_t spawner;

typedef union {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(FDS * sizeof(int))];
} fd_message;

int neapi_spawner_spawn(int requests_fd, int answers_fd, int *control)
{
  int pair[2];
  if (to_spawner < 0)
    return neapi_fail(NEAP_ABSENT, "worker: this program did not start a spawner for workers");
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    return neapi_fail(NEAP_SYSTEM, "worker: socketpair: %s", strerror(errno));
  int fds[FDS] = {requests_fd, answers_fd, pair[1]};
  fd_message fd_list = {.header = {CMSG_LEN(sizeof fds), SOL_SOCKET, SCM_RIGHTS}};
  memcpy(CMSG_DATA(&fd_list.header), fds, sizeof fds);
  struct iovec byte = {"s", 1};
  struct msghdr message = {.msg_iov = &byte,
                           .msg_iovlen = 1,
                           .msg_control = &fd_list,
                           .msg_controllen = sizeof fd_list.bytes};
  ssize_t sent = sendmsg(to_spawner, &message, MSG_NOSIGNAL);
  int why = errno;
  close(pair[1]);
  if (sent != 1) {
    close(pair[0]);
    return neapi_fail(NEAP_SYSTEM, "worker: the spawner has ended: %s", strerror(why));
  }
  *control = pair[0];
  return NEAP_OK;
}

bool neapi_spawner_ended(int control, int *status)
{
  ssize_t got = recv(control, status, sizeof *status, MSG_DONTWAIT);
  if (got == (ssize_t)sizeof *status)
    return true;
  *status = -1;
  return got >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* ---- in the spawner -------------------------------------------------------------------------- */

typedef struct {
  pid_t pid; /* 0: free */
  int control;
} child;

static child children[WORKERS];

static void limit(int what, rlim_t value)
{
  struct rlimit old, now = {value, value};
  if (!getrlimit(what, &old) && (old.rlim_max == RLIM_INFINITY || old.rlim_max > value))
    setrlimit(what, &now);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Sanitizers need a lot of it; and what a policy leaves behind is no leak of ours. */
static void limit_memory(void)
{
  char options[1024];
  const char *given = getenv("ASAN_OPTIONS");
  snprintf(options, sizeof options, "%s:detect_leaks=0:handle_segv=0", given ? given : "");
  setenv("ASAN_OPTIONS", options, 1);
}
#else
/* What a policy's heap may take; one that needs more is told "not enough memory". */
static void limit_memory(void)
{
  limit(RLIMIT_DATA, 4ull << 30);
}
#endif

/* The rest of a child's life until it is the worker program: file descriptors 3 and 4 are the
 * regions. */
static void become_worker(const int *fds, pid_t parent)
{
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(EXIT_FAILURE);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int requests = fcntl(fds[0], F_DUPFD, HIGH_FD), answers = fcntl(fds[1], F_DUPFD, HIGH_FD);
  if (dup2(requests, 3) < 0 || dup2(answers, 4) < 0)
    _exit(EXIT_FAILURE);
  close_range(5, ~0u, 0);
  limit(RLIMIT_CORE, 0);
  limit_memory();
  setenv("OPENBLAS_NUM_THREADS", "1", 1);
  execl("/proc/self/exe", "neap", "--worker", "3", "4", (char *)NULL);
  _exit(EXIT_FAILURE);
}

static void start_child(const int *fds)
{
  child *c = children;
  while (c < children + WORKERS && c->pid)
    c++;
  pid_t self = getpid(), pid = c < children + WORKERS ? fork() : -1;
  if (!pid)
    become_worker(fds, self);
  close(fds[0]);
  close(fds[1]);
  if (pid < 0) {
    close(fds[2]); /* the parent sees that as an end of unknown cause */
    return;
  }
  setpgid(pid, pid); /* as the child does; whoever is first */
  *c = (child){pid, fds[2]};
}

static void kill_child(const child *c)
{
  kill(-c->pid, SIGKILL); /* with what it has started */
  kill(c->pid, SIGKILL);
}

static void reap(int options)
{
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, options)) > 0;)
    for (child *c = children; c < children + WORKERS; c++)
      if (c->pid == pid) {
        kill(-pid, SIGKILL);
        if (c->control >= 0) {
          send(c->control, &status, sizeof status, MSG_NOSIGNAL | MSG_DONTWAIT);
          close(c->control);
        }
        c->pid = 0;
      }
}

/* One order of the parent; false when it has gone. */
static bool serve_parent(int socket)
{
  char byte;
  fd_message fd_list;
  struct iovec text = {&byte, 1};
  struct msghdr message = {.msg_iov = &text,
                           .msg_iovlen = 1,
                           .msg_control = &fd_list,
                           .msg_controllen = sizeof fd_list.bytes};
  ssize_t got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (got < 0 && (errno == EINTR || errno == EAGAIN))
    return true;
  if (got <= 0)
    return false;
  int fds[FDS];
  memcpy(fds, CMSG_DATA(&fd_list.header), sizeof fds);
  if (CMSG_FIRSTHDR(&message) && fd_list.header.cmsg_len == CMSG_LEN(sizeof fds))
    start_child(fds);
  return true;
}

/* A control socket says something only by being closed. */
static void serve_child(child *c)
{
  kill_child(c);
  close(c->control);
  c->control = -1;
}

static void serve(int socket, int signals)
{
  for (bool parent = true; parent;) {
    struct pollfd polls[WORKERS + 2] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
    for (int i = 0; i < WORKERS; i++)
      polls[i + 2] = (struct pollfd){children[i].pid ? children[i].control : -1, POLLIN, 0};
    if (poll(polls, WORKERS + 2, -1) < 0)
      continue;
    struct signalfd_siginfo info;
    if (polls[1].revents && read(signals, &info, sizeof info) > 0) {
      reap(WNOHANG);
      parent = info.ssi_signo != PARENT_ENDED;
    }
    for (int i = 0; i < WORKERS; i++)
      if (polls[i + 2].revents && children[i].pid && children[i].control == polls[i + 2].fd)
        serve_child(&children[i]);
    if (parent && polls[0].revents)
      parent = serve_parent(socket);
  }
  for (child *c = children; c < children + WORKERS; c++)
    if (c->pid)
      kill_child(c);
  reap(0);
}

/* stdout becomes stderr, so that what a policy prints never mixes with results. */
static int leave_parents_files(int socket)
{
  int nothing = open("/dev/null", O_RDWR);
  dup2(nothing, STDIN_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  dup2(socket, 3);
  close_range(4, ~0u, 0);
  fcntl(3, F_SETFD, FD_CLOEXEC);
  return 3;
}

static void spawner_main(int socket)
{
  setpgid(0, 0); /* out of reach of the terminal's Ctrl-C, which is the parent's to answer */
  prctl(PR_SET_NAME, "neap-spawner");
  prctl(PR_SET_PDEATHSIG, PARENT_ENDED);
  socket = leave_parents_files(socket);
  sigset_t news;
  sigemptyset(&news);
  sigaddset(&news, SIGCHLD);
  sigaddset(&news, PARENT_ENDED);
  sigprocmask(SIG_SETMASK, &news, NULL);
  serve(socket, signalfd(-1, &news, SFD_CLOEXEC));
  _exit(EXIT_SUCCESS);
}

int neap_spawner_open(void)
{
  int pair[2];
  if (to_spawner >= 0)
    return NEAP_OK;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    return neapi_fail(NEAP_SYSTEM, "spawner: socketpair: %s", strerror(errno));
  fflush(NULL);
  spawner = fork();
  if (!spawner)
    spawner_main(pair[1]);
  close(pair[1]);
  if (spawner < 0) {
    close(pair[0]);
    return neapi_fail(NEAP_SYSTEM, "spawner: fork: %s", strerror(errno));
  }
  to_spawner = pair[0];
  return NEAP_OK;
}

void neap_spawner_close(void)
{
  if (to_spawner < 0)
    return;
  close(to_spawner);
  to_spawner = -1;
  while (waitpid(spawner, NULL, 0) < 0 && errno == EINTR)
    continue;
}
