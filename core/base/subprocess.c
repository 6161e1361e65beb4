/* SPDX-License-Identifier: Apache-2.0 */
/* Programs that run beside this one: what a sweep starts its runs with. */
#define _GNU_SOURCE /* environ */
#include "base/status.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOT_STARTED = 127, BY_SIGNAL = 128, LAST_WARNING = 3, INTERRUPTED = 130 };

struct neap_child {
  pid_t pid;
  int ended, status;
  int output[2]; /* files without a name, for its stdout and stderr: nobody has to remove them */
};

static atomic_int interrupts;

/* In the child, after the fork: becomes the program, or ends. */
static void become(const char *const *argv, const char *const *names, const char *const *values,
                   const int *output, pid_t parent)
{
  int nothing = open("/dev/null", O_RDONLY);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  signal(SIGXFSZ, SIG_DFL);
  if (getppid() != parent || dup2(nothing, STDIN_FILENO) < 0 ||
      dup2(output[0], STDOUT_FILENO) < 0 || dup2(output[1], STDERR_FILENO) < 0)
    _exit(NOT_STARTED);
  for (int i = 0; names[i]; i++)
    setenv(names[i], values[i], 1);
  execvp(argv[0], (char *const *)(uintptr_t)argv);
  static const char text[] = "neap: the program to launch was not found\n";
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) {
    /* nobody reads it */
  }
  _exit(NOT_STARTED);
}

/* A file in memory whose writes go to its end, as two programs that share it want. */
static int open_output(const char *name)
{
  int file = memfd_create(name, MFD_CLOEXEC);
  if (file >= 0)
    fcntl(file, F_SETFL, O_APPEND);
  return file;
}

static void free_child(neap_child *child)
{
  for (int i = 0; i < 2; i++)
    if (child->output[i] >= 0)
      close(child->output[i]);
  free(child);
}

int neap_child_open(const char *const *argv, const char *const *names, const char *const *values,
                    neap_child **out)
{
  neap_child *child = neapi_alloc_zero(sizeof *child, "child");
  if (!child)
    return NEAP_MEMORY;
  pid_t parent = getpid();
  child->output[0] = open_output("stdout");
  child->output[1] = open_output("stderr");
  child->pid = child->output[0] < 0 || child->output[1] < 0 ? -1 : fork();
  if (child->pid < 0) {
    int status =
        neapi_fail(NEAP_SYSTEM, "child %s: cannot be started: %s", argv[0], strerror(errno));
    free_child(child);
    return status;
  }
  if (child->pid == 0)
    become(argv, names, values, child->output, parent);
  setpgid(child->pid, child->pid);
  *out = child;
  return NEAP_OK;
}

static void reap(neap_child *child, int flags)
{
  int status;
  if (child->ended || waitpid(child->pid, &status, flags) != child->pid)
    return;
  child->ended = 1;
  child->status = WIFSIGNALED(status) ? BY_SIGNAL + WTERMSIG(status) : WEXITSTATUS(status);
}

int neap_child_ended(neap_child *child, int *status)
{
  reap(child, WNOHANG);
  *status = child->status;
  return child->ended;
}

void neap_child_stop(neap_child *child, int kill_it)
{
  if (!child->ended)
    kill(-child->pid, kill_it ? SIGKILL : SIGINT);
}

void neap_child_close(neap_child *child)
{
  if (!child)
    return;
  neap_child_stop(child, 1);
  reap(child, 0);
  free_child(child);
}

int64_t neap_child_output(const neap_child *child, int errors, int64_t from, void *to,
                          int64_t bytes)
{
  ssize_t got = pread(child->output[errors != 0], to, (size_t)bytes, from);
  return got > 0 ? got : 0;
}

static void on_interrupt(int number)
{
  (void)number;
  if (atomic_fetch_add(&interrupts, 1) + 1 >= LAST_WARNING)
    _exit(INTERRUPTED);
}

void neap_interrupts_catch(void)
{
  signal(SIGINT, on_interrupt);
  signal(SIGTERM, on_interrupt);
}

int32_t neap_interrupts(void)
{
  return atomic_load(&interrupts);
}
