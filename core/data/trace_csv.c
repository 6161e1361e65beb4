/* Loads from CSV: step,layer,rank,e0,e1,…, rows in any order, each exactly once. */
#include "data/trace.h"

#include "base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS = 3 };

typedef struct {
  const char *path, *at, *end;
  int64_t line;
  int64_t experts, rows, capacity;
  int32_t *cells; /* (rows, KEYS + experts) */
} csv;

static int fail(const csv *c, const char *what)
{
  return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": %s", c->path, c->line, what);
}

/* Takes text at the cursor if it stands there. */
static bool take(csv *c, const char *text)
{
  int64_t length = (int64_t)strlen(text);
  if (c->end - c->at < length || memcmp(c->at, text, (size_t)length))
    return false;
  c->at += length;
  return true;
}

static bool take_line_end(csv *c)
{
  if (take(c, "\r\n") || take(c, "\n")) {
    c->line++;
    return true;
  }
  return false;
}

static int parse_heading(csv *c)
{
  char name[32];
  if (!take(c, "step,layer,rank,e0"))
    return fail(c, "neither a safetensors file nor a CSV that begins with step,layer,rank,e0");
  for (c->experts = 1; take(c, ","); c->experts++) {
    snprintf(name, sizeof name, "e%" PRId64, c->experts);
    if (!take(c, name))
      return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": column %" PRId64 " must be %s", c->path,
                        c->line, KEYS + c->experts + 1, name);
  }
  return take_line_end(c) ? NEAP_OK : fail(c, "text after the last column");
}

/* What is wrong where a number should stand, or should have ended. */
static int fail_cell(const csv *c, int64_t column)
{
  if (c->at == c->end)
    return fail(c, "the file ends within the line: truncated");
  if (*c->at == '\n' || *c->at == '\r')
    return neapi_fail(NEAP_FORMAT,
                      "%s: line %" PRId64 ": %" PRId64 " columns; the heading has "
                      "%" PRId64,
                      c->path, c->line, column, KEYS + c->experts);
  const char *stop = c->at;
  while (stop < c->end && stop - c->at < 20 && *stop != ',' && *stop != '\n' && *stop != '\r')
    stop++;
  return neapi_fail(NEAP_FORMAT,
                    "%s: line %" PRId64 ", column %" PRId64 ": '%.*s': a whole number "
                    "from 0 to %d expected",
                    c->path, c->line, column + 1, (int)(stop - c->at), c->at, INT_MAX);
}

static int parse_cell(csv *c, int64_t column, int32_t *out)
{
  int64_t value = 0;
  const char *start = c->at, *at = start;
  for (; at < c->end && *at >= '0' && *at <= '9' && value <= INT32_MAX; at++)
    value = value * 10 + (*at - '0');
  if (at == start || value > INT32_MAX || (at < c->end && *at != ',' && *at != '\n' && *at != '\r'))
    return fail_cell(c, column);
  c->at = at;
  *out = (int32_t)value;
  return NEAP_OK;
}

static int parse_row(csv *c)
{
  int64_t width = KEYS + c->experts;
  if (c->rows == c->capacity) {
    int64_t capacity = c->capacity ? 2 * c->capacity : 1024;
    int64_t left = (c->end - c->at) / (2 * width) + 1; /* a cell is a digit and what ends it */
    c->capacity = capacity < c->rows + left ? capacity : c->rows + left;
    int32_t *larger = realloc(c->cells, (size_t)(c->capacity * width) * sizeof *larger);
    if (!larger)
      return neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " rows", c->path, c->capacity);
    c->cells = larger;
  }
  int32_t *cells = c->cells + c->rows * width;
  for (int64_t column = 0; column < width; column++) {
    if (column && !take(c, ","))
      return fail_cell(c, column);
    int status = parse_cell(c, column, &cells[column]);
    if (status)
      return status;
  }
  if (c->at < c->end && *c->at == ',')
    return neapi_fail(NEAP_FORMAT,
                      "%s: line %" PRId64 ": more than the %" PRId64 " columns of the "
                      "heading",
                      c->path, c->line, width);
  c->rows++;
  return take_line_end(c) ? NEAP_OK : fail_cell(c, width);
}

/* Shape from the largest ids; how many rows that makes, or INT64_MAX if too many to count. */
static int64_t find_shape(const csv *c, int64_t *shape)
{
  int64_t width = KEYS + c->experts, rows = 1;
  memset(shape, 0, KEYS * sizeof *shape);
  for (int64_t row = 0; row < c->rows; row++)
    for (int k = 0; k < KEYS; k++)
      if (shape[k] <= c->cells[row * width + k])
        shape[k] = (int64_t)c->cells[row * width + k] + 1;
  shape[NEAPI_EXPERTS] = c->experts;
  for (int k = 0; k < KEYS; k++)
    if (__builtin_mul_overflow(rows, shape[k], &rows))
      return INT64_MAX;
  return rows;
}

/* Where row belongs in the order of (step, layer, rank). */
static int64_t index_of(const int32_t *cells, const int64_t *shape)
{
  return (cells[0] * shape[NEAPI_LAYERS] + cells[1]) * shape[NEAPI_RANKS] + cells[2];
}

static int fail_twice(const csv *c, int64_t row, int64_t first)
{
  const int32_t *cells = c->cells + row * (KEYS + c->experts);
  return neapi_fail(
      NEAP_FORMAT, "%s: line %" PRId64 ": step %d, layer %d, rank %d again; first in line %" PRId64,
      c->path, row + 2, cells[0], cells[1], cells[2], first + 2);
}

static int fail_missing(const csv *c, int64_t index, const int64_t *shape)
{
  int64_t rest = index / shape[NEAPI_RANKS];
  return neapi_fail(NEAP_FORMAT,
                    "%s: line %" PRId64 ": the file ends without a row for step %" PRId64
                    ", layer %" PRId64 ", rank %" PRId64,
                    c->path, c->rows + 2, rest / shape[NEAPI_LAYERS], rest % shape[NEAPI_LAYERS],
                    index % shape[NEAPI_RANKS]);
}

/* row_at[rows + 1]: the row of each index plus 1, or 0. With more indices than rows, one of the
 * first rows + 1 indices is without a row. */
static int find_rows(const csv *c, const int64_t *shape, int64_t indices, int64_t *row_at)
{
  for (int64_t row = 0; row < c->rows; row++) {
    int64_t index = index_of(c->cells + row * (KEYS + c->experts), shape);
    if (index > c->rows)
      continue;
    if (row_at[index])
      return fail_twice(c, row, row_at[index] - 1);
    row_at[index] = row + 1;
  }
  for (int64_t index = 0; index < indices && index <= c->rows; index++)
    if (!row_at[index])
      return fail_missing(c, index, shape);
  return NEAP_OK;
}

/* Brings the rows into the order of a trace. */
static int arrange(const csv *c, neap_trace *trace)
{
  int64_t indices = find_shape(c, trace->shape);
  if (c->rows == 0)
    return fail(c, "no row after the heading");
  if (indices == INT64_MAX)
    return fail(c, "ids of step, layer and rank are too large");
  int64_t *row_at = neapi_alloc_zero((c->rows + 1) * (int64_t)sizeof *row_at, "CSV rows");
  int32_t *load = neapi_alloc(c->rows * c->experts * (int64_t)sizeof *load, "trace");
  int status = row_at && load ? find_rows(c, trace->shape, indices, row_at) : NEAP_MEMORY;
  for (int64_t index = 0; !status && index < c->rows; index++)
    memcpy(load + index * c->experts, c->cells + (row_at[index] - 1) * (KEYS + c->experts) + KEYS,
           (size_t)c->experts * sizeof *load);
  free(row_at);
  if (status) {
    free(load);
    return status;
  }
  trace->load = trace->memory = load;
  return NEAP_OK;
}

int neapi_trace_parse_csv(const char *path, const char *text, int64_t length, neap_trace *trace)
{
  csv c = {.path = path, .at = text, .end = text + length, .line = 1};
  int status = parse_heading(&c);
  while (!status && c.at < c.end)
    status = parse_row(&c);
  if (!status)
    status = arrange(&c, trace);
  free(c.cells);
  return status;
}
