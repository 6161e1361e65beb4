/* A binary min-heap of (key, id) for planners: smallest key first, ties by smallest id, so that a
 * plan never depends on anything but its input. A max-heap stores negated keys. */
#ifndef NEAP_HEAP_H
#define NEAP_HEAP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  double key;
  int32_t id;
} neapi_heap_item;

static inline bool neapi_heap_less(neapi_heap_item a, neapi_heap_item b)
{
  return a.key < b.key || (a.key == b.key && a.id < b.id);
}

/* Lets item sink from index i of heap[count]. */
static inline void neapi_heap_sink(neapi_heap_item *heap, int32_t count, int32_t i,
                                   neapi_heap_item item)
{
  for (int32_t child; (child = 2 * i + 1) < count; i = child) {
    if (child + 1 < count && neapi_heap_less(heap[child + 1], heap[child]))
      child++;
    if (!neapi_heap_less(heap[child], item))
      break;
    heap[i] = heap[child];
  }
  heap[i] = item;
}

/* Makes a heap of heap[count] in any order. */
static inline void neapi_heap_build(neapi_heap_item *heap, int32_t count)
{
  for (int32_t i = count / 2 - 1; i >= 0; i--)
    neapi_heap_sink(heap, count, i, heap[i]);
}

static inline void neapi_heap_push(neapi_heap_item *heap, int32_t *count, neapi_heap_item item)
{
  int32_t i = (*count)++;
  for (; i && neapi_heap_less(item, heap[(i - 1) / 2]); i = (i - 1) / 2)
    heap[i] = heap[(i - 1) / 2];
  heap[i] = item;
}

static inline neapi_heap_item neapi_heap_pop(neapi_heap_item *heap, int32_t *count)
{
  neapi_heap_item top = heap[0];
  if (--*count)
    neapi_heap_sink(heap, *count, 0, heap[*count]);
  return top;
}

#endif
