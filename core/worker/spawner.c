/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The spawner: a small process, forked before anything else runs, that starts worker processes for
 * its parent, ends them and reaps them, and passes on what they print. A process with MPI, CUDA or
 * threads must not fork; this one has none of them. It ends with its parent, and its workers with
 * it. What a worker starts and leaves behind comes to the spawner, which ends it.
 */
#define _GNU_SOURCE
#include "worker/channel.h"
#include "worker/printed.h"
#include "worker/processes.h"
#include "worker/sandbox.h"

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
#include <time.h>
#include <unistd.h>

enum {
  WORKERS = 64,
  FDS = 3,
  SPARE_PROCESSES = 64, /* that trusted workers may start, with what else the user starts */
  SEARCHES = 2000,      /* for processes that are left behind, a millisecond apart */
  LOOK = 100,           /* milliseconds between looks at how many processes there are */
};

/* ---- in the parent --------------------------------------------------------------------------- */

static int to_spawner = -1;
static pid_t spawner;

typedef union {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(FDS * sizeof(int))];
} fd_message;

int neapi_spawner_spawn(int requests_fd, int answers_fd, bool trusted, int *control)
{
  int pair[2];
  if (to_spawner < 0)
    return neapi_fail(NEAP_ABSENT, "worker: this program did not start a spawner for workers");
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
    return neapi_fail(NEAP_SYSTEM, "worker: socketpair: %s", strerror(errno));
  int fds[FDS] = {requests_fd, answers_fd, pair[1]};
  fd_message fd_list = {.header = {CMSG_LEN(sizeof fds), SOL_SOCKET, SCM_RIGHTS}};
  memcpy(CMSG_DATA(&fd_list.header), fds, sizeof fds);
  struct iovec byte = {trusted ? "t" : "s", 1};
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
  neapi_printed printed;
} child;

static const struct timespec PAUSE = {0, 1000000}; /* between searches */
/* The signal that says that the parent has ended: one that nobody else sends. */
static int parent_ended(void)
{
  return SIGRTMIN;
}

static child children[WORKERS];
static bool forking; /* some worker may have started processes of its own */

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

/* The rest of a child's life until it is the worker program: file descriptors 3 and 4, which are
 * taken in the spawner, become the regions, and what is printed goes to output. */
static void become_worker(const int *fds, int output, bool trusted, pid_t parent)
{
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(EXIT_FAILURE);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (dup2(output, STDOUT_FILENO) < 0 || dup2(output, STDERR_FILENO) < 0 || dup2(fds[0], 3) < 0 ||
      dup2(fds[1], 4) < 0)
    _exit(EXIT_FAILURE);
  close_range(5, ~0u, 0);
  limit(RLIMIT_CORE, 0);
  limit_memory();
  if (trusted)
    limit(RLIMIT_NPROC, (rlim_t)neapi_processes_count() + SPARE_PROCESSES);
  setenv("OPENBLAS_NUM_THREADS", "1", 1);
  execl("/proc/self/exe", "neap", "--worker", "3", "4", trusted ? "trusted" : (char *)NULL,
        (char *)NULL);
  _exit(EXIT_FAILURE);
}

/* Starts a worker in a free entry. Returns 0, or the number of the error. */
static int start_worker(child *c, const int *fds, bool trusted)
{
  int output;
  if (!neapi_printed_open(&c->printed, &output))
    return errno;
  pid_t self = getpid(), pid = fork();
  int why = errno;
  if (!pid)
    become_worker(fds, output, trusted, self);
  close(output);
  if (pid < 0) {
    neapi_printed_close(&c->printed);
    return why;
  }
  setpgid(pid, pid); /* as the child does; whoever is first */
  c->pid = pid;
  c->control = fds[2];
  return 0;
}

static void start_child(const int *fds, bool trusted)
{
  child *c = children;
  while (c < children + WORKERS && c->pid)
    c++;
  int why = c < children + WORKERS ? start_worker(c, fds, trusted) : EAGAIN;
  forking |= trusted || !neapi_sandbox_available();
  close(fds[0]);
  close(fds[1]);
  if (why) {
    int status = NEAPI_NOT_STARTED - why;
    send(fds[2], &status, sizeof status, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fds[2]);
  }
}

static void kill_child(const child *c)
{
  kill(-c->pid, SIGKILL); /* with what it has started */
  kill(c->pid, SIGKILL);
}

static void forget_child(child *c, int status)
{
  kill(-c->pid, SIGKILL);
  neapi_printed_close(&c->printed);
  if (c->control >= 0) {
    send(c->control, &status, sizeof status, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(c->control);
  }
  c->pid = 0;
}

static int workers(void)
{
  int count = 0;
  for (const child *c = children; c < children + WORKERS; c++)
    count += c->pid != 0;
  return count;
}

/* Takes leave of processes that have ended; returns how many of them were workers. */
static int reap(int options)
{
  int status, ended = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, options)) > 0;)
    for (child *c = children; c < children + WORKERS; c++)
      if (c->pid == pid) {
        forget_child(c, status);
        ended++;
      }
  return ended;
}

/* Ends what workers have left behind: each search finds the children of those that the one before
 * has killed. */
static void end_orphans(void)
{
  for (int i = 0; forking && i < SEARCHES; i++) {
    pid_t keep[WORKERS];
    int count = 0;
    for (const child *c = children; c < children + WORKERS; c++)
      if (c->pid)
        keep[count++] = c->pid;
    if (!neapi_processes_kill(keep, count))
      return;
    nanosleep(&PAUSE, NULL);
    reap(WNOHANG);
  }
}

/* A limit of the kernel's is the user's, and root has none: whatever comes from workers is counted,
 * and too many of them are ended with all workers. */
static void end_swarm(void)
{
  static const char text[] = "neap: a policy has started more than 64 processes; they are ended\n";
  static double next;
  double now = neap_clock();
  if (!forking || now < next)
    return;
  next = now + LOOK * 1e-3;
  if (neapi_processes_below(false) <= workers() + SPARE_PROCESSES)
    return;
  for (int i = 0; i < SEARCHES && neapi_processes_below(true); i++)
    nanosleep(&PAUSE, NULL);
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) {
    /* nobody reads it */
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
  if (!CMSG_FIRSTHDR(&message))
    return true; /* none of them could be opened here: the parent sees its control socket close */
  int fds[FDS], count = (int)((fd_list.header.cmsg_len - CMSG_LEN(0)) / sizeof(int));
  memcpy(fds, CMSG_DATA(&fd_list.header), (size_t)count * sizeof(int));
  if (count == FDS)
    start_child(fds, byte == 't');
  for (int i = 0; count < FDS && i < count; i++)
    close(fds[i]);
  return true;
}

/* A control socket says something only by being closed. */
static void serve_child(child *c)
{
  kill_child(c);
  close(c->control);
  c->control = -1;
}

/* What to wait for: the parent, signals, and of every worker its control socket and what it prints;
 * no more entries than are open, since a limit on open files is one on them too. */
static nfds_t list_polls(struct pollfd *polls, child **of, int socket, int signals)
{
  nfds_t count = 2;
  polls[0] = (struct pollfd){socket, POLLIN, 0};
  polls[1] = (struct pollfd){signals, POLLIN, 0};
  for (child *c = children; c < children + WORKERS; c++) {
    int fds[2] = {c->control, c->printed.fd};
    for (int i = 0; c->pid && i < 2; i++)
      if (fds[i] >= 0) {
        of[count] = c;
        polls[count++] = (struct pollfd){fds[i], POLLIN, 0};
      }
  }
  return count;
}

static void serve_polls(const struct pollfd *polls, child **of, nfds_t count)
{
  for (nfds_t i = 2; i < count; i++) {
    child *c = of[i];
    if (!polls[i].revents || !c->pid)
      continue;
    if (polls[i].fd == c->printed.fd)
      neapi_printed_forward(&c->printed);
    else if (polls[i].fd == c->control)
      serve_child(c);
  }
}

static void serve(int socket, int signals)
{
  for (bool parent = true; parent;) {
    struct pollfd polls[2 * WORKERS + 2];
    child *of[2 * WORKERS + 2];
    nfds_t count = list_polls(polls, of, socket, signals);
    if (poll(polls, count, forking && workers() ? LOOK : -1) < 0) {
      parent = errno == EINTR || errno == EAGAIN;
      continue;
    }
    end_swarm();
    struct signalfd_siginfo info;
    serve_polls(polls, of, count);
    if (polls[1].revents && read(signals, &info, sizeof info) > 0) {
      if (reap(WNOHANG))
        end_orphans();
      parent = (int)info.ssi_signo != parent_ended();
    }
    if (parent && polls[0].revents)
      parent = serve_parent(socket);
  }
  for (child *c = children; c < children + WORKERS; c++)
    if (c->pid)
      kill_child(c);
  for (int i = 0; i < SEARCHES && reap(WNOHANG) + workers(); i++)
    nanosleep(&PAUSE, NULL);
  end_orphans();
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

/* What asks a whole job to end (SIGTERM of a batch system, Ctrl-C) is the parent's to answer: it
 * may want its policies for another step, and then ends them. */
static void leave_signals_to_parent(void)
{
  signal(SIGTERM, SIG_IGN);
  signal(SIGINT, SIG_IGN);
}

static void spawner_main(int socket)
{
  leave_signals_to_parent();
  setpgid(0, 0); /* out of reach of the terminal's Ctrl-C, which is the parent's to answer */
  prctl(PR_SET_NAME, "neap-spawner");
  prctl(PR_SET_PDEATHSIG, parent_ended());
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  socket = leave_parents_files(socket);
  sigset_t news;
  sigemptyset(&news);
  sigaddset(&news, SIGCHLD);
  sigaddset(&news, parent_ended());
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
