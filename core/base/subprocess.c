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
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOT_STARTED = 127, BY_SIGNAL = 128, LAST_WARNING = 3, INTERRUPTED = 130 };

struct neap_child {
  pid_t pid;
  int ended, status;
};

static atomic_int interrupts;

static int redirect(int fd, const char *path, int flags)
{
  int file = open(path, flags, 0666);
  return file < 0 || dup2(file, fd) < 0 || (file != fd && close(file));
}

/* In the child, after the fork: becomes the program, or ends. */
static void become(const char *const *argv, const char *const *names, const char *const *values,
                   const char *output, const char *errors, pid_t parent)
{
  int out = O_WRONLY | O_CREAT | O_TRUNC;
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  if (getppid() != parent || redirect(STDIN_FILENO, "/dev/null", O_RDONLY) ||
      redirect(STDOUT_FILENO, output, out) || redirect(STDERR_FILENO, errors, out))
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

int neap_child_open(const char *const *argv, const char *const *names, const char *const *values,
                    const char *output, const char *errors, neap_child **out)
{
  neap_child *child = neapi_alloc_zero(sizeof *child, "child");
  if (!child)
    return NEAP_MEMORY;
  pid_t parent = getpid();
  child->pid = fork();
  if (child->pid < 0) {
    free(child);
    return neapi_fail(NEAP_SYSTEM, "child %s: cannot be started: %s", argv[0], strerror(errno));
  }
  if (child->pid == 0)
    become(argv, names, values, output, errors, parent);
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
  free(child);
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
