/* Places of choices: how many an expert has, and which row each is given. */
#include "real.h"

int NAME(count_choices)(int64_t n, int64_t e, const int32_t *ids, int64_t *counts, STREAM)
{
  memset(counts, 0, (size_t)e * sizeof *counts);
  for (int64_t i = 0; i < n; i++)
    counts[ids[i]]++;
  return NEAPI_KERNEL_OK;
}

int NAME(place_choices)(int64_t n, int64_t e, const int32_t *ids, const int32_t *first,
                        const neapi_room *rooms, int32_t *position, STREAM)
{
  /* Of every expert: the room that is being filled, and what it has left. */
  neapi_room *now = NAME(scratch)(SCRATCH_PLACES, e * (int64_t)(sizeof *now + sizeof(int32_t)));
  if (!now)
    return NEAPI_KERNEL_MEMORY;
  int32_t *next = (int32_t *)(now + e);
  memset(now, 0, (size_t)e * sizeof *now);
  memcpy(next, first, (size_t)e * sizeof *next);
  for (int64_t i = 0; i < n; i++) {
    neapi_room *room = &now[ids[i]];
    while (!room->rows)
      *room = rooms[next[ids[i]]++];
    room->rows--;
    position[i] = room->row++;
  }
  return NEAPI_KERNEL_OK;
}
