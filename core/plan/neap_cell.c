/* The risk of a cell of ranks; see neap_cell.h. */
#include "neap_cell.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { LANES = 8 };

void neapi_cell_clear(neapi_cell *cell, int32_t ranks, const double *speed)
{
  memset(cell, 0, sizeof *cell);
  cell->sets = ranks < 3 ? LANES : 1 << ranks;
  for (int32_t set = 0; set < cell->sets; set++) {
    cell->room[set] = set && set < 1 << ranks ? 0 : 1e9f;
    for (int32_t r = 0; r < ranks; r++)
      cell->room[set] += set >> r & 1 ? speed[r] : 0;
  }
  for (int32_t r = 0; r < ranks; r++)
    cell->speed += speed[r];
}

/* 1 where a set holds every rank of mask; a set never holds NEAPI_ABSENT. */
static inline float inside(int32_t set, int32_t mask)
{
  return (set & mask) == mask ? 1.0f : 0.0f;
}

/* What a normal variable is expected to exceed room by: deviation * (z + 3)^4 / 203, within 30 % of
 * the exact value where that matters. The variance is that of a part of a total that is certain. */
static inline float excess(float mean, float spread, float room, float part, float variance)
{
  float square = spread * (1 - 2 * part) + part * part * variance;
  float deviation = sqrtf(square > 1e-8f ? square : 1e-8f);
  float z = (mean - room) / deviation + 3;
  z = z > 0 ? z : 0;
  return z * z * z * z * deviation * (1 / 203.0f);
}

static float appear(const neapi_move *move)
{
  return move->variance * ((move->to != NEAPI_ABSENT) - (move->from != NEAPI_ABSENT));
}

float neapi_cell_risk(const neapi_cell *cell, const neapi_move *move)
{
  static const neapi_move none[2] = {{0, 0, NEAPI_ABSENT, NEAPI_ABSENT},
                                     {0, 0, NEAPI_ABSENT, NEAPI_ABSENT}};
  const neapi_move a = (move ? move : none)[0], b = (move ? move : none)[1];
  float sum[LANES] = {0}, scale = 1 / cell->speed;
  float variance = cell->variance + appear(&a) + appear(&b);
  for (int32_t base = 0; base < cell->sets; base += LANES)
    for (int32_t i = 0; i < LANES; i++) {
      int32_t set = base + i;
      float first = inside(set, a.to) - inside(set, a.from);
      float second = inside(set, b.to) - inside(set, b.from);
      float mean = cell->mean[set] + first * a.work + second * b.work;
      float spread = cell->spread[set] + first * a.variance + second * b.variance;
      sum[i] += excess(mean, spread, cell->room[set], mean * scale, variance);
    }
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

void neapi_cell_apply(neapi_cell *cell, const neapi_move *move)
{
  cell->variance += appear(move);
  for (int32_t set = 0; set < cell->sets; set++) {
    float sign = inside(set, move->to) - inside(set, move->from);
    cell->mean[set] += sign * move->work;
    cell->spread[set] += sign * move->variance;
  }
}
