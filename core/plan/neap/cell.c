/* SPDX-License-Identifier: Apache-2.0 */
/* The risk of a cell of ranks; see cell.h. */
#include "plan/neap/cell.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

enum { VECTOR = 8 };

/* The set of all ranks has capacity for everything: what a whole node has too much of, no layout of
 * it can help. */
void neapi_cell_clear(neapi_cell *cell, int32_t ranks, const double *speed)
{
  memset(cell, 0, sizeof *cell);
  cell->sets = ranks < 3 ? VECTOR : 1 << ranks;
  for (int32_t set = 0; set < cell->sets; set++) {
    cell->capacity[set] = set && set < (1 << ranks) - 1 ? 0 : 1e9f;
    for (int32_t r = 0; r < ranks; r++)
      cell->capacity[set] += set >> r & 1 ? speed[r] : 0;
  }
  for (int32_t r = 0; r < ranks; r++)
    cell->speed += speed[r];
}

/* 1 where a set holds every rank of mask; a set never holds NEAPI_ABSENT. */
static inline float inside(int32_t set, int32_t mask)
{
  return (set & mask) == mask ? 1.0f : 0.0f;
}

static float appear(const neapi_move *move)
{
  return move->variance * ((move->to != NEAPI_ABSENT) - (move->from != NEAPI_ABSENT));
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

static float add_vector(const float sum[VECTOR])
{
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

/* above^4 where above is positive: what a normal variable is expected to exceed the capacity by is
 * within 30 % of deviation * (z + 3)^4 / 203 where that matters, z = (mean - capacity) /
 * deviation. */
static inline float fourth(float above)
{
  float positive = above > 0 ? above : 0, square = positive * positive;
  return square * square;
}

float neapi_cell_risk(const neapi_cell *cell, const neapi_move move[2])
{
  const neapi_move a = move[0], b = move[1];
  float sum[VECTOR] = {0};
  for (int32_t base = 0; base < cell->sets; base += VECTOR)
    for (int32_t i = 0; i < VECTOR; i++) {
      int32_t set = base + i;
      float first = inside(set, a.to) - inside(set, a.from);
      float second = inside(set, b.to) - inside(set, b.from);
      float above = cell->above[set] + first * a.work + second * b.work;
      sum[i] += cell->weight[set] * fourth(above);
    }
  return add_vector(sum);
}

/* Sums over supersets: work that lives on a set of ranks is in all sets that hold them. */
static void sum_supersets(float *price, int32_t sets)
{
  for (int32_t bit = 1; bit < sets; bit *= 2)
    for (int32_t base = 0; base < sets; base += 2 * bit)
      for (int32_t set = base; set < base + bit; set++)
        price[set] += price[set + bit];
}

/* The work of a set is a part of a total that is certain: its variance is less than that of its
 * experts together. */
float neapi_cell_settle(neapi_cell *cell)
{
  float sum[VECTOR] = {0}, scale = 1 / cell->speed;
  for (int32_t base = 0; base < cell->sets; base += VECTOR)
    for (int32_t i = 0; i < VECTOR; i++) {
      int32_t set = base + i;
      float part = cell->mean[set] * scale;
      float square = cell->spread[set] * (1 - 2 * part) + part * part * cell->variance;
      square = square > 1e-8f ? square : 1e-8f;
      float deviation = sqrtf(square);
      float above = cell->mean[set] - cell->capacity[set] + 3 * deviation;
      float positive = above > 0 ? above : 0;
      cell->above[set] = above;
      cell->weight[set] = (1 / 203.0f) / (square * deviation);
      cell->price[set] = 4 * cell->weight[set] * positive * positive * positive;
      sum[i] += cell->weight[set] * fourth(above);
    }
  sum_supersets(cell->price, cell->sets);
  cell->price[NEAPI_ABSENT] = 0;
  return add_vector(sum);
}
