/* SPDX-License-Identifier: Apache-2.0 */
/* What a policy's process may ask of the kernel: to compute, to read files, to print and to end. A
 * filter that the kernel applies to every system call refuses the rest with EPERM, so that a policy
 * sees an ordinary error; nothing can lift it again, in the process or in what it might start. */
#define _GNU_SOURCE
#include "worker/sandbox.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define MACHINE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MACHINE AUDIT_ARCH_AARCH64
#endif

/* Calls that change nothing outside the process. */
static const int harmless[] = {
    SYS_futex,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_clock_getres,
    SYS_nanosleep,
    SYS_gettimeofday,
    SYS_sched_yield,
    SYS_read,
    SYS_readv,
    SYS_pread64,
    SYS_preadv,
    SYS_close,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_lseek,
    SYS_getdents64,
    SYS_getcwd,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_dup,
    SYS_mmap,
    SYS_mprotect,
    SYS_munmap,
    SYS_mremap,
    SYS_getcpu,
    SYS_brk,
    SYS_exit,
    SYS_exit_group,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_getpid,
    SYS_getppid,
    SYS_gettid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getrusage,
    SYS_times,
    SYS_sysinfo,
    SYS_uname,
    SYS_getrandom,
    SYS_sched_getaffinity,
    SYS_set_robust_list,
    SYS_set_tid_address,
    SYS_ppoll,
    SYS_pselect6,
#ifdef SYS_rseq
    SYS_rseq,
#endif
#ifdef SYS_membarrier
    SYS_membarrier,
#endif
#ifdef SYS_faccessat2
    SYS_faccessat2,
#endif
#ifdef SYS_open /* calls of older machines, which newer ones do without */
    SYS_stat,
    SYS_lstat,
    SYS_access,
    SYS_readlink,
    SYS_time,
    SYS_arch_prctl,
    SYS_poll,
    SYS_select,
    SYS_getdents,
    SYS_getrlimit,
#endif
};

/* With any of these a file is opened for more than reading. */
enum { WRITING = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND | (O_TMPFILE & ~O_DIRECTORY) };

enum { MOST = 512, MOST_ADVICE = 25 }; /* of madvise: above are those that break memory for tests */

typedef struct {
  struct sock_filter code[MOST];
  unsigned short count;
} program;

static void add(program *p, unsigned short code, uint32_t k, uint8_t yes, uint8_t no)
{
  p->code[p->count++] = (struct sock_filter){code, yes, no, k};
}

enum {
  LOAD = BPF_LD | BPF_W | BPF_ABS,
  EQUAL = BPF_JMP | BPF_JEQ | BPF_K,
  ABOVE = BPF_JMP | BPF_JGT | BPF_K,
  ANY_BIT = BPF_JMP | BPF_JSET | BPF_K,
  ANSWER = BPF_RET | BPF_K,
};

static void load_call(program *p)
{
  add(p, LOAD, offsetof(struct seccomp_data, nr), 0, 0);
}

/* The low half of an argument; on the machines that this is for it stands first. */
static uint32_t argument(int index)
{
  return (uint32_t)(offsetof(struct seccomp_data, args) + 8 * (size_t)index);
}

static void allow(program *p, int call)
{
  add(p, EQUAL, (uint32_t)call, 0, 1);
  add(p, ANSWER, SECCOMP_RET_ALLOW, 0, 0);
}

/* Allows a call if its index-th argument equals value. */
static void allow_if(program *p, int call, int index, uint32_t value)
{
  add(p, EQUAL, (uint32_t)call, 0, 4);
  add(p, LOAD, argument(index), 0, 0);
  add(p, EQUAL, value, 0, 1);
  add(p, ANSWER, SECCOMP_RET_ALLOW, 0, 0);
  load_call(p);
}

/* Allows a call if its index-th argument is at most value. */
static void allow_to(program *p, int call, int index, uint32_t value)
{
  add(p, EQUAL, (uint32_t)call, 0, 4);
  add(p, LOAD, argument(index), 0, 0);
  add(p, ABOVE, value, 1, 0);
  add(p, ANSWER, SECCOMP_RET_ALLOW, 0, 0);
  load_call(p);
}

/* Allows a call if its index-th argument has none of these bits. */
static void allow_without(program *p, int call, int index, uint32_t bits)
{
  add(p, EQUAL, (uint32_t)call, 0, 4);
  add(p, LOAD, argument(index), 0, 0);
  add(p, ANY_BIT, bits, 1, 0);
  add(p, ANSWER, SECCOMP_RET_ALLOW, 0, 0);
  load_call(p);
}

/* Allows a call if its index-th argument is a null pointer. */
static void allow_null(program *p, int call, int index)
{
  add(p, EQUAL, (uint32_t)call, 0, 6);
  add(p, LOAD, argument(index), 0, 0);
  add(p, EQUAL, 0, 0, 3);
  add(p, LOAD, argument(index) + 4, 0, 0);
  add(p, EQUAL, 0, 0, 1);
  add(p, ANSWER, SECCOMP_RET_ALLOW, 0, 0);
  load_call(p);
}

static void build(program *p)
{
  uint32_t self = (uint32_t)getpid();
  add(p, LOAD, offsetof(struct seccomp_data, arch), 0, 0);
  add(p, EQUAL, MACHINE, 1, 0);
  add(p, ANSWER, SECCOMP_RET_ERRNO | EPERM, 0, 0);
  load_call(p);
  for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++)
    allow(p, harmless[i]);
  allow_to(p, SYS_write, 0, STDERR_FILENO);
  allow_to(p, SYS_writev, 0, STDERR_FILENO);
  allow_to(p, SYS_fcntl, 1, F_GETFL); /* and F_DUPFD, F_GETFD, F_SETFD */
  allow_to(p, SYS_madvise, 2, MOST_ADVICE);
  allow_if(p, SYS_ioctl, 1, TCGETS);
  allow_if(p, SYS_prctl, 0, PR_SET_NAME);
  allow_if(p, SYS_kill, 0, self);
  allow_if(p, SYS_tgkill, 0, self);
  allow_null(p, SYS_prlimit64, 2);
  allow_without(p, SYS_openat, 2, WRITING);
#ifdef SYS_open
  allow_without(p, SYS_open, 1, WRITING);
#endif
  add(p, ANSWER, SECCOMP_RET_ERRNO | EPERM, 0, 0);
}

bool neapi_sandbox_available(void)
{
#ifdef MACHINE
  uint32_t action = SECCOMP_RET_ERRNO;
  return !syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action);
#else
  return false;
#endif
}

int neapi_sandbox_enter(void)
{
#ifdef MACHINE
  program p = {.count = 0};
  build(&p);
  struct sock_fprog filter = {p.count, p.code};
  if (!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
      !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
    return NEAP_OK;
  return neapi_fail(NEAP_ABSENT, "sandbox: the kernel takes no filter of system calls: %s",
                    strerror(errno));
#else
  return neapi_fail(NEAP_ABSENT, "sandbox: not written for this kind of processor");
#endif
}
