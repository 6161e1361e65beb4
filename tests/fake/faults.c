/* SPDX-License-Identifier: Apache-2.0 */
/* For LD_PRELOAD: one call of a program and its children fails, as if there were no memory, or as
 * if a disk or a device did. FAULT_KIND: "memory" (malloc and its kin, mmap without a file) or
 * "files" (open, read, write, sync, rename, close, mmap, … and stdio's); FAULT_AT: which call of
 * the kind fails, from 1, counted over all threads and processes; 0: none. FAULT_ERRNO: with what,
 * of files. FAULT_LOG: a file of 4096 zeros, in which the calls are counted and the one that failed
 * is named. File 2 (stderr) never fails: nothing could be told then. Nor do calls before main:
 * those are of libraries that are being loaded, of which CUDA's runtime crashes. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LOG_BYTES = 4096, ERROR_SEEN = 0x20 /* glibc's flag of a stream */ };
enum { MEMORY, FILES };

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

typedef struct {
  atomic_long calls[2];
  atomic_int failed; /* 1 when it has */
  int process;
  char call[64];
} fault_log;

static fault_log *record;
static long chosen;
static int kind = -1, number = EIO;

static atomic_bool begun; /* main, of this process or of that which forked it */

typedef int main_function(int, char **, char **);

int __libc_start_main(main_function *main, int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*at_exit)(void), void *stack);
int __libc_start_main(main_function *main, int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*at_exit)(void), void *stack)
{
  __typeof__(__libc_start_main) *next =
      (__typeof__(__libc_start_main) *)(uintptr_t)dlsym(RTLD_NEXT, "__libc_start_main");
  atomic_store(&begun, true);
  return next(main, argc, argv, init, fini, at_exit, stack);
}

/* By system calls alone: the first call may be dlsym's. */
static bool prepare(void)
{
  static atomic_int state; /* 0: not yet, 1: somebody does, 2: done */
  int none = 0;
  if (atomic_load(&state) == 2)
    return record != NULL;
  if (!environ || !atomic_compare_exchange_strong(&state, &none, 1))
    return false;
  const char *path = getenv("FAULT_LOG"), *which = getenv("FAULT_KIND"), *at = getenv("FAULT_AT"),
             *error = getenv("FAULT_ERRNO");
  long file = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
  if (file >= 0) {
    long address = syscall(SYS_mmap, NULL, LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    record = address > 0 || address < -4095 ? (fault_log *)address : NULL;
  }
  kind = which && !strcmp(which, "files") ? FILES : MEMORY;
  chosen = at ? atol(at) : 0;
  number = error ? atoi(error) : EIO;
  atomic_store(&state, 2);
  return record != NULL;
}

/* Counts a call; whether it is the one that fails, and then sets errno. */
static bool fails(int of, const char *call)
{
  if (!atomic_load(&begun) || !prepare())
    return false;
  long at = atomic_fetch_add(&record->calls[of], 1) + 1;
  if (of != kind || at != chosen || atomic_exchange(&record->failed, 1))
    return false;
  record->process = getpid();
  strncpy(record->call, call, sizeof record->call - 1);
  errno = of == MEMORY ? ENOMEM : number;
  return true;
}

#define NEXT(name)                                                                                 \
  static __typeof__(name) *next;                                                                   \
  if (!next)                                                                                       \
  next = (__typeof__(name) *)(uintptr_t)dlsym(RTLD_NEXT, #name)

/* ---- memory ---------------------------------------------------------------------------------- */

void *malloc(size_t bytes)
{
  return fails(MEMORY, "malloc") ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
  return fails(MEMORY, "calloc") ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
  return bytes && fails(MEMORY, "realloc") ? NULL : __libc_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
  return fails(MEMORY, "aligned_alloc") ? NULL : __libc_memalign(alignment, bytes);
}

void *memalign(size_t alignment, size_t bytes);
void *memalign(size_t alignment, size_t bytes)
{
  return fails(MEMORY, "memalign") ? NULL : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
  void *memory = fails(MEMORY, "posix_memalign") ? NULL : __libc_memalign(alignment, bytes);
  if (!memory)
    return ENOMEM;
  *out = memory;
  return 0;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
  bool memory = flags & MAP_ANONYMOUS;
  if (fails(memory ? MEMORY : FILES, memory ? "mmap of memory" : "mmap of a file"))
    return MAP_FAILED;
  return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
  return mmap(at, bytes, protection, flags, file, offset);
}

/* ---- files by number ------------------------------------------------------------------------- */

#define OPENS(name, ...)                                                                           \
  {                                                                                                \
    NEXT(name);                                                                                    \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                           \
      va_list args;                                                                                \
      va_start(args, flags);                                                                       \
      mode = va_arg(args, mode_t);                                                                 \
      va_end(args);                                                                                \
    }                                                                                              \
    return fails(FILES, #name) ? -1 : next(__VA_ARGS__, flags, mode);                              \
  }

int open(const char *path, int flags, ...) OPENS(open, path) int open64(const char *path, int flags,
                                                                        ...)
    OPENS(open64, path) int openat(int folder, const char *path, int flags, ...)
        OPENS(openat, folder, path) int openat64(int folder, const char *path, int flags,
                                                 ...) OPENS(openat64, folder, path)

#define CALL(result, name, bad, parameters, ...)                                                   \
  result name parameters                                                                           \
  {                                                                                                \
    NEXT(name);                                                                                    \
    return fails(FILES, #name) ? bad : next(__VA_ARGS__);                                          \
  }

            CALL(ssize_t, read, -1, (int f, void *to, size_t n), f, to,
                 n) CALL(ssize_t, pread, -1, (int f, void *to, size_t n, off_t at), f, to, n, at)
                CALL(ssize_t, pread64, -1, (int f, void *to, size_t n, off64_t at), f, to, n,
                     at) CALL(ssize_t, pwrite, -1, (int f, const void *from, size_t n, off_t at), f,
                              from, n, at) CALL(ssize_t, pwrite64, -1,
                                                (int f, const void *from, size_t n, off64_t at),
                                                f, from, n, at) CALL(int, fsync, -1, (int f), f)
                    CALL(int, fdatasync, -1, (int f), f) CALL(int, ftruncate, -1,
                                                              (int f, off_t bytes), f, bytes)
                        CALL(int, ftruncate64, -1, (int f, off64_t bytes), f, bytes)
                            CALL(int, rename, -1, (const char *from, const char *to), from,
                                 to) CALL(int, unlink, -1, (const char *path),
                                          path) CALL(int, rmdir, -1, (const char *path), path)
                                CALL(int, mkdir, -1, (const char *path, mode_t mode), path,
                                     mode) CALL(int, fstat, -1, (int f, struct stat *info), f, info)
                                    CALL(int, stat, -1, (const char *path, struct stat *info), path,
                                         info) CALL(int, memfd_create, -1,
                                                    (const char *name, unsigned flags), name, flags)
                                        CALL(DIR *, opendir, NULL, (const char *path), path)

                                            ssize_t write(int file, const void *from, size_t bytes)
{
  NEXT(write);
  return file != STDERR_FILENO && fails(FILES, "write") ? -1 : next(file, from, bytes);
}

/* The file is closed all the same, as Linux does. */
int close(int file)
{
  NEXT(close);
  bool bad = file != STDERR_FILENO && fails(FILES, "close");
  int was = errno, result = next(file);
  if (!bad)
    return result;
  errno = was;
  return -1;
}

/* ---- stdio ----------------------------------------------------------------------------------- */

CALL(FILE *, fopen, NULL, (const char *path, const char *mode), path, mode)
CALL(FILE *, fopen64, NULL, (const char *path, const char *mode), path, mode)
CALL(FILE *, fdopen, NULL, (int file, const char *mode), file, mode)

/* Whether a stream's call fails, which the stream remembers. */
static bool stream_fails(FILE *stream, const char *call)
{
  if (!stream || stream == stderr || !fails(FILES, call))
    return false;
  stream->_flags |= ERROR_SEEN;
  return true;
}

#define STREAM(result, name, bad, stream, parameters, ...)                                         \
  result name parameters                                                                           \
  {                                                                                                \
    NEXT(name);                                                                                    \
    return stream_fails(stream, #name) ? bad : next(__VA_ARGS__);                                  \
  }

STREAM(size_t, fread, 0, s, (void *to, size_t size, size_t n, FILE *s), to, size, n, s)
STREAM(size_t, fwrite, 0, s, (const void *from, size_t size, size_t n, FILE *s), from, size, n, s)
STREAM(char *, fgets, NULL, s, (char *to, int bytes, FILE *s), to, bytes, s)
STREAM(int, fputs, EOF, s, (const char *text, FILE *s), text, s)
STREAM(int, fflush, EOF, s, (FILE * s), s)

int fclose(FILE *stream)
{
  NEXT(fclose);
  bool bad = stream_fails(stream, "fclose");
  int was = errno, result = next(stream);
  if (!bad)
    return result;
  errno = was;
  return EOF;
}
