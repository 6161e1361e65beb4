/* SPDX-License-Identifier: Apache-2.0 */
/* Calls of libc that fail when a C test wants it: of those below, made by any thread while it is
 * armed, the k-th fails once.
 *
 *   for (int64_t k = 1; faults_arm(k, EIO), run(), faults_fired(); k++) …
 *
 * number: errno, or FAULTS_END for reads that find the end of the file. Under sanitizers, which
 * have an allocator of their own, memory does not fail. To be included by one file of a program. */
#ifndef NEAP_FAULTS_H
#define NEAP_FAULTS_H

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FAULTS_END = -1 };

static int64_t faults_left; /* atomic; calls until one fails; 0 or less: none */
static int faults_number;

static void faults_arm(int64_t k, int number)
{
  faults_number = number;
  __atomic_store_n(&faults_left, k, __ATOMIC_SEQ_CST);
}

/* Ends it; whether a call has failed. */
static bool faults_fired(void)
{
  return __atomic_exchange_n(&faults_left, 0, __ATOMIC_SEQ_CST) <= 0;
}

static bool faults_now(void)
{
  if (__atomic_load_n(&faults_left, __ATOMIC_SEQ_CST) <= 0 ||
      __atomic_sub_fetch(&faults_left, 1, __ATOMIC_SEQ_CST) != 0)
    return false;
  errno = faults_number;
  return true;
}

#pragma GCC visibility push(default) /* the library is to find them */

#define FAULTS_NEXT(name)                                                                          \
  ((__typeof__(name) *)(uintptr_t)dlsym(RTLD_NEXT, #name)) /* the one that libraries have */

#define FAULTS_OF(result, name, bad, parameters, ...)                                              \
  result name parameters                                                                           \
  {                                                                                                \
    static __typeof__(name) *next;                                                                 \
    next = next ? next : FAULTS_NEXT(name);                                                        \
    return faults_now() ? bad : next(__VA_ARGS__);                                                 \
  }

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define FAULTS_NO_MEMORY
#else
FAULTS_OF(void *, aligned_alloc, NULL, (size_t alignment, size_t bytes), alignment, bytes)
FAULTS_OF(void *, realloc, NULL, (void *memory, size_t bytes), memory, bytes)
FAULTS_OF(char *, strdup, NULL, (const char *text), text)
int asprintf(char **out, const char *format, ...)
{
  if (faults_now())
    return -1;
  va_list args;
  va_start(args, format);
  int length = vasprintf(out, format, args);
  va_end(args);
  return length;
}
#endif

FAULTS_OF(ssize_t, write, -1, (int file, const void *from, size_t bytes), file, from, bytes)
FAULTS_OF(int, fchmod, -1, (int file, mode_t mode), file, mode)
FAULTS_OF(int, fsync, -1, (int file), file)
FAULTS_OF(int, rename, -1, (const char *from, const char *to), from, to)
FAULTS_OF(int, mkdir, -1, (const char *path, mode_t mode), path, mode)
FAULTS_OF(int, rmdir, -1, (const char *path), path)
FAULTS_OF(int, unlink, -1, (const char *path), path)
FAULTS_OF(int, fstat, -1, (int file, struct stat *info), file, info)
FAULTS_OF(int, flock, -1, (int file, int how), file, how)
FAULTS_OF(DIR *, opendir, NULL, (const char *path), path)
FAULTS_OF(int, pthread_create, EAGAIN,
          (pthread_t * thread, const pthread_attr_t *how, void *(*run)(void *), void *argument),
          thread, how, run, argument)

ssize_t pread(int file, void *to, size_t bytes, off_t at)
{
  if (faults_now())
    return faults_number == FAULTS_END ? 0 : -1;
  return FAULTS_NEXT(pread)(file, to, bytes, at);
}

int open(const char *path, int flags, ...)
{
  va_list args;
  va_start(args, flags);
  mode_t mode = flags & O_CREAT ? va_arg(args, mode_t) : 0;
  va_end(args);
  return faults_now() ? -1 : FAULTS_NEXT(open)(path, flags, mode);
}

/* Linux closes the file whatever it answers. */
int close(int file)
{
  bool fails = faults_now();
  int was = errno, result = FAULTS_NEXT(close)(file);
  errno = fails ? was : errno;
  return fails ? -1 : result;
}

#pragma GCC visibility pop

#endif
