/* SPDX-License-Identifier: Apache-2.0 */
/* A binary min-heap. NEAPI_HEAP makes its functions for a type of items and an order of them that
 * no two items share, so that what comes out depends on nothing but what went in. neapi_heap is
 * that of (key, id) for planners: smallest key first, ties by smallest id; a max-heap stores
 * negated keys. */
#ifndef NEAP_HEAP_H
#define NEAP_HEAP_H

#include <stdbool.h>
#include <stdint.h>

/* clang-format off */
/* less(a, b): whether a comes first.
 *   NAME_sink   lets item sink from index i of heap[count]
 *   NAME_build  makes a heap of heap[count] in any order
 *   NAME_push   adds an item, for which the array is large enough
 *   NAME_pop    takes the first item out */
#define NEAPI_HEAP(NAME, ITEM, COUNT, less)                                                        \
  static inline void NAME##_sink(ITEM *heap, COUNT count, COUNT i, ITEM item)                      \
  {                                                                                                \
    for (COUNT child; (child = 2 * i + 1) < count; i = child) {                                    \
      if (child + 1 < count && less(heap[child + 1], heap[child]))                                 \
        child++;                                                                                   \
      if (!less(heap[child], item))                                                                \
        break;                                                                                     \
      heap[i] = heap[child];                                                                       \
    }                                                                                              \
    heap[i] = item;                                                                                \
  }                                                                                                \
  __attribute__((unused)) static inline void NAME##_build(ITEM *heap, COUNT count)                 \
  {                                                                                                \
    for (COUNT i = count / 2 - 1; i >= 0; i--)                                                     \
      NAME##_sink(heap, count, i, heap[i]);                                                        \
  }                                                                                                \
  static inline void NAME##_push(ITEM *heap, COUNT *count, ITEM item)                              \
  {                                                                                                \
    COUNT i = (*count)++;                                                                          \
    for (; i && less(item, heap[(i - 1) / 2]); i = (i - 1) / 2)                                    \
      heap[i] = heap[(i - 1) / 2];                                                                 \
    heap[i] = item;                                                                                \
  }                                                                                                \
  static inline ITEM NAME##_pop(ITEM *heap, COUNT *count)                                          \
  {                                                                                                \
    ITEM top = heap[0];                                                                            \
    if (--*count)                                                                                  \
      NAME##_sink(heap, *count, 0, heap[*count]);                                                  \
    return top;                                                                                    \
  }
/* clang-format on */

typedef struct {
  double key;
  int32_t id;
} neapi_heap_item;

static inline bool neapi_heap_less(neapi_heap_item a, neapi_heap_item b)
{
  return a.key < b.key || (a.key == b.key && a.id < b.id);
}

NEAPI_HEAP(neapi_heap, neapi_heap_item, int32_t, neapi_heap_less)

#endif
