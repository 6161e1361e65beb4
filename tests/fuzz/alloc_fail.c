/* For LD_PRELOAD: the ALLOC_FAIL-th allocation of the process, and no other, finds no memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static atomic_long calls;

static int fails(void)
{
  static long chosen = -1;
  if (chosen < 0) {
    const char *text = getenv("ALLOC_FAIL");
    chosen = text ? atol(text) : 0;
  }
  return chosen && atomic_fetch_add(&calls, 1) + 1 == chosen;
}

void *malloc(size_t bytes)
{
  return fails() ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
  return fails() ? NULL : __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
  return fails() ? NULL : __libc_realloc(memory, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
  return fails() ? NULL : __libc_memalign(alignment, bytes);
}
