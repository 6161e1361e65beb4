/* SPDX-License-Identifier: Apache-2.0 */
/* What the unwinder is told of code that LuaJIT has compiled. libgcc's own of these functions
 * writes to what malloc gives without a look, and so crashes where memory ends: here there is a
 * reserve. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { OBJECT_BYTES = 128 /* libgcc has 48 */, RESERVED = 64 };

extern void __register_frame_info(const void *begin, void *object);
extern void *__deregister_frame_info(const void *begin);

__attribute__((visibility("default"))) void __register_frame(void *begin);
__attribute__((visibility("default"))) void __deregister_frame(void *begin);

static _Alignas(64) char reserve[RESERVED][OBJECT_BYTES];
static atomic_bool taken[RESERVED];

static void *take(void)
{
  for (int i = 0; i < RESERVED; i++)
    if (!atomic_exchange(&taken[i], 1))
      return reserve[i];
  return NULL;
}

/* begin: the code's table of frames, which is empty if its first word is 0. */
void __register_frame(void *begin)
{
  if (!*(const uint32_t *)begin)
    return;
  void *object = calloc(1, OBJECT_BYTES);
  if (!object && !(object = take()))
    abort(); /* nothing can be unwound through it */
  __register_frame_info(begin, object);
}

void __deregister_frame(void *begin)
{
  if (!*(const uint32_t *)begin)
    return;
  char *object = __deregister_frame_info(begin);
  if (object >= reserve[0] && object < reserve[RESERVED])
    atomic_store(&taken[(object - reserve[0]) / OBJECT_BYTES], 0);
  else
    free(object);
}
