/* SPDX-License-Identifier: Apache-2.0 */
/* Loads from CSV: columns step, layer, rank, e0, e1, … in any order, rows in any order, each
 * exactly once. Ids that leave gaps are renumbered, columns of other names left out; both are
 * noted. */
#include "data/trace.h"

#include "base/memory.h"
#include "data/csv.h"

#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
  KEYS = 3,
  LINE = KEYS, /* the cell of a row that holds its line in the file */
  HEAD,        /* cells of a row before its loads */
  NAME_SHOWN = 20,
  NOTE_BYTES = 512,
};
static const char *const KEY_NAMES[KEYS] = {"step", "layer", "rank"};

typedef struct {
  int32_t id, column; /* of an expert, and where it stands */
} expert_column;

typedef struct {
  neapi_csv csv;
  int64_t columns, column_capacity;
  int32_t *cell_of;       /* of every column: its cell in a row, or -1 */
  expert_column *experts; /* by id */
  int64_t expert_count;
  bool has_key[KEYS];
  int64_t left_out; /* columns */
  char left_out_first[NAME_SHOWN + 1];
  int64_t rows, capacity;
  int32_t *cells; /* (rows, HEAD + experts) */
  char notes[NOTE_BYTES];
} table;

static int fail(const table *t, const char *what)
{
  return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": %s", t->csv.path, t->csv.line, what);
}

/* As much of a cell as a message shows. */
static void show(neapi_csv_cell cell, char *to)
{
  snprintf(to, NAME_SHOWN + 1, "%.*s", (int)(cell.length < NAME_SHOWN ? cell.length : NAME_SHOWN),
           cell.at);
}

__attribute__((format(printf, 2, 3))) static void note(table *t, const char *format, ...)
{
  size_t used = strlen(t->notes);
  if (used && used + 1 < sizeof t->notes)
    used += (size_t)snprintf(t->notes + used, sizeof t->notes - used, "; ");
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(t->notes + used, sizeof t->notes - used, format, arguments);
  va_end(arguments);
}

/* ---- heading --------------------------------------------------------------------------------- */

static int which_key(neapi_csv_cell cell)
{
  for (int k = 0; k < KEYS; k++)
    if (cell.length == (int64_t)strlen(KEY_NAMES[k]) &&
        !strncasecmp(cell.at, KEY_NAMES[k], (size_t)cell.length))
      return k;
  return -1;
}

/* The number of an expert's column, e12 or expert_12; -1 for other names. */
static int32_t which_expert(neapi_csv_cell cell)
{
  static const char *const prefixes[] = {"expert_", "expert", "e_", "e"};
  enum { DIGITS = 9 };
  for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++) {
    int64_t from = (int64_t)strlen(prefixes[p]), digits = cell.length - from, id = 0;
    if (digits < 1 || digits > DIGITS || strncasecmp(cell.at, prefixes[p], (size_t)from))
      continue;
    for (int64_t i = from; i < cell.length && id >= 0; i++)
      id = isdigit((unsigned char)cell.at[i]) ? id * 10 + cell.at[i] - '0' : -1;
    if (id >= 0)
      return (int32_t)id;
  }
  return -1;
}

static int grow_columns(table *t)
{
  if (t->columns < t->column_capacity)
    return NEAP_OK;
  int64_t capacity = t->column_capacity ? 2 * t->column_capacity : 64;
  int32_t *cell_of = realloc(t->cell_of, (size_t)capacity * sizeof *cell_of);
  if (cell_of)
    t->cell_of = cell_of;
  expert_column *experts = cell_of ? realloc(t->experts, (size_t)capacity * sizeof *experts) : NULL;
  if (!experts)
    return neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " columns", t->csv.path, capacity);
  t->experts = experts;
  t->column_capacity = capacity;
  return NEAP_OK;
}

static int add_column(table *t, neapi_csv_cell cell, int64_t line)
{
  int status = grow_columns(t), key = which_key(cell);
  int32_t expert = key < 0 ? which_expert(cell) : -1;
  if (status)
    return status;
  if (key >= 0 && t->has_key[key])
    return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": column %s twice", t->csv.path, line,
                      KEY_NAMES[key]);
  if (key >= 0) {
    t->has_key[key] = true;
  } else if (expert >= 0) {
    t->experts[t->expert_count++] = (expert_column){expert, (int32_t)t->columns};
  } else if (t->left_out++ == 0) {
    show(cell, t->left_out_first);
  }
  t->cell_of[t->columns++] = key;
  return NEAP_OK;
}

static int compare_experts(const void *a, const void *b)
{
  int32_t x = ((const expert_column *)a)->id, y = ((const expert_column *)b)->id;
  return (x > y) - (x < y);
}

/* Experts in the order of their numbers; notes where these are not 0, 1, …. */
static int sort_experts(table *t)
{
  qsort(t->experts, (size_t)t->expert_count, sizeof *t->experts, compare_experts);
  for (int64_t e = 1; e < t->expert_count; e++)
    if (t->experts[e].id == t->experts[e - 1].id)
      return neapi_fail(NEAP_FORMAT, "%s: line 1: column e%d twice", t->csv.path, t->experts[e].id);
  for (int64_t e = 0; e < t->expert_count; e++)
    t->cell_of[t->experts[e].column] = (int32_t)(HEAD + e);
  int32_t first = t->experts[0].id, last = t->experts[t->expert_count - 1].id;
  if (last != t->expert_count - 1)
    note(t, "experts e%d to e%d are renumbered 0 to %" PRId64, first, last, t->expert_count - 1);
  return NEAP_OK;
}

static int parse_heading(table *t)
{
  neapi_csv_cell cell;
  bool last = !neapi_csv_row(&t->csv);
  int64_t line = t->csv.line;
  while (!last) {
    int status = neapi_csv_next(&t->csv, &cell, &last);
    if (!status)
      status = add_column(t, cell, line);
    if (status)
      return status;
  }
  bool *has = t->has_key;
  if (!has[0] && !has[1] && !has[2])
    return neapi_fail(NEAP_FORMAT,
                      "%s: line %" PRId64 ": neither a safetensors file nor a CSV with the columns "
                      "step, layer, rank, e0, e1, … (neap trace import reads other formats)",
                      t->csv.path, line);
  for (int k = 0; k < KEYS; k++)
    if (!has[k])
      return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": there is no column %s", t->csv.path,
                        line, KEY_NAMES[k]);
  if (!t->expert_count)
    return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": there are no columns e0, e1, …",
                      t->csv.path, line);
  if (t->left_out)
    note(t, "%" PRId64 " column%s left out: '%s'%s", t->left_out,
         t->left_out == 1 ? " is" : "s are", t->left_out_first, t->left_out == 1 ? "" : ", …");
  return sort_experts(t);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static int64_t width_of(const table *t)
{
  return HEAD + t->expert_count;
}

static int reserve_row(table *t)
{
  if (t->rows < t->capacity)
    return NEAP_OK;
  int64_t capacity = t->capacity ? 2 * t->capacity : 1024;
  /* a cell is a digit and what ends it */
  int64_t left = (t->csv.end - t->csv.at) / (2 * t->columns) + 1;
  capacity = capacity < t->rows + left ? capacity : t->rows + left;
  int32_t *larger = realloc(t->cells, (size_t)(capacity * width_of(t)) * sizeof *larger);
  if (!larger)
    return neapi_fail(NEAP_MEMORY, "%s: no memory for %" PRId64 " rows", t->csv.path, capacity);
  t->cells = larger;
  t->capacity = capacity;
  return NEAP_OK;
}

static int fail_cell(const table *t, int64_t line, int64_t column, neapi_csv_cell cell)
{
  char shown[NAME_SHOWN + 1];
  show(cell, shown);
  return neapi_fail(NEAP_FORMAT,
                    "%s: line %" PRId64 ", column %" PRId64 ": '%s': a whole number from 0 to %d "
                    "expected",
                    t->csv.path, line, column + 1, shown, INT_MAX);
}

static int fail_columns(const table *t, int64_t line, int64_t columns)
{
  bool at_end = t->csv.at == t->csv.end;
  return neapi_fail(NEAP_FORMAT,
                    "%s: line %" PRId64 ": %s%" PRId64 " columns; the heading has %" PRId64 "%s",
                    t->csv.path, line, columns > t->columns ? "more than " : "",
                    columns > t->columns ? t->columns : columns, t->columns,
                    at_end && columns < t->columns ? ": the file is truncated" : "");
}

static int parse_row(table *t)
{
  int status = reserve_row(t);
  if (status)
    return status;
  int32_t *cells = t->cells + t->rows * width_of(t);
  int64_t line = t->csv.line, column = 0;
  neapi_csv_cell cell;
  for (bool last = false; !last; column++) {
    if ((status = neapi_csv_next(&t->csv, &cell, &last)))
      return status;
    if (column == t->columns)
      return fail_columns(t, line, column + 1);
    int32_t to = t->cell_of[column];
    if (to >= 0 && !neapi_csv_number(&t->csv, cell, &cells[to]))
      return fail_cell(t, line, column, cell);
  }
  if (column < t->columns)
    return fail_columns(t, line, column);
  cells[LINE] = (int32_t)(line < INT32_MAX ? line : INT32_MAX);
  t->rows++;
  return NEAP_OK;
}

/* ---- ids ------------------------------------------------------------------------------------- */

static int compare_ids(const void *a, const void *b)
{
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

/* The ids that a key has in all rows, ascending, each once; their number, or -1 without memory. */
static int64_t collect_ids(const table *t, int key, int32_t **out)
{
  int32_t *ids = neapi_alloc(t->rows * (int64_t)sizeof *ids, "CSV ids");
  if (!ids)
    return -1;
  int64_t count = 0;
  for (int64_t row = 0; row < t->rows; row++) {
    int32_t id = t->cells[row * width_of(t) + key];
    if (!count || ids[count - 1] != id) /* rows are mostly in order */
      ids[count++] = id;
  }
  qsort(ids, (size_t)count, sizeof *ids, compare_ids);
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++)
    if (!kept || ids[kept - 1] != ids[i])
      ids[kept++] = ids[i];
  *out = ids;
  return kept;
}

static int32_t find_id(const int32_t *ids, int64_t count, int32_t id)
{
  int64_t low = 0, high = count;
  while (high - low > 1) {
    int64_t middle = (low + high) / 2;
    if (ids[middle] <= id)
      low = middle;
    else
      high = middle;
  }
  return (int32_t)low;
}

/* Ids become 0 to count - 1. */
static int renumber(table *t, int key, int32_t **ids, int64_t *count)
{
  *count = collect_ids(t, key, ids);
  if (*count < 0)
    return NEAP_MEMORY;
  int32_t last = (*ids)[*count - 1];
  if (last == *count - 1)
    return NEAP_OK;
  for (int64_t row = 0; row < t->rows; row++) {
    int32_t *cell = &t->cells[row * width_of(t) + key];
    *cell = find_id(*ids, *count, *cell);
  }
  note(t, "%ss %d to %d are renumbered 0 to %" PRId64, KEY_NAMES[key], (*ids)[0], last, *count - 1);
  return NEAP_OK;
}

/* ---- order ----------------------------------------------------------------------------------- */

static int fail_twice(const table *t, int32_t *const *ids, const int32_t *row, const int32_t *first)
{
  return neapi_fail(NEAP_FORMAT, "%s: line %d: step %d, layer %d, rank %d again; first in line %d",
                    t->csv.path, row[LINE], ids[0][row[0]], ids[1][row[1]], ids[2][row[2]],
                    first[LINE]);
}

static int fail_missing(const table *t, int32_t *const *ids, int64_t index, const int64_t *shape)
{
  int64_t rest = index / shape[NEAPI_RANKS];
  return neapi_fail(NEAP_FORMAT,
                    "%s: line %" PRId64 ": the file ends without a row for step %d, layer %d, rank "
                    "%d",
                    t->csv.path, t->csv.line, ids[0][rest / shape[NEAPI_LAYERS]],
                    ids[1][rest % shape[NEAPI_LAYERS]], ids[2][index % shape[NEAPI_RANKS]]);
}

/* row_at[rows + 1]: the row of each index plus 1, or 0. With more indices than rows, one of the
 * first rows + 1 indices is without a row. */
static int find_rows(const table *t, int32_t *const *ids, const int64_t *shape, int64_t indices,
                     int64_t *row_at)
{
  int64_t width = width_of(t);
  for (int64_t row = 0; row < t->rows; row++) {
    const int32_t *c = t->cells + row * width;
    int64_t index = (c[0] * shape[NEAPI_LAYERS] + c[1]) * shape[NEAPI_RANKS] + c[2];
    if (index > t->rows)
      continue;
    if (row_at[index])
      return fail_twice(t, ids, c, t->cells + (row_at[index] - 1) * width);
    row_at[index] = row + 1;
  }
  for (int64_t index = 0; index < indices && index <= t->rows; index++)
    if (!row_at[index])
      return fail_missing(t, ids, index, shape);
  return NEAP_OK;
}

/* Brings the rows into the order of a trace. */
static int arrange(const table *t, int32_t *const *ids, neap_trace *trace)
{
  int64_t indices = 1;
  for (int k = 0; k < KEYS; k++)
    if (__builtin_mul_overflow(indices, trace->shape[k], &indices))
      return fail(t, "there are too few rows for so many steps, layers and ranks");
  int64_t *row_at = neapi_alloc_zero((t->rows + 1) * (int64_t)sizeof *row_at, "CSV rows");
  int32_t *load = neapi_alloc(t->rows * t->expert_count * (int64_t)sizeof *load, "trace");
  int status = row_at && load ? find_rows(t, ids, trace->shape, indices, row_at) : NEAP_MEMORY;
  for (int64_t index = 0; !status && index < t->rows; index++)
    memcpy(load + index * t->expert_count, t->cells + (row_at[index] - 1) * width_of(t) + HEAD,
           (size_t)t->expert_count * sizeof *load);
  free(row_at);
  if (status) {
    free(load);
    return status;
  }
  trace->load = trace->memory = load;
  return NEAP_OK;
}

static int order_rows(table *t, neap_trace *trace)
{
  int32_t *ids[KEYS] = {NULL};
  int status = t->rows ? NEAP_OK : fail(t, "no row after the heading");
  for (int k = 0; !status && k < KEYS; k++)
    status = renumber(t, k, &ids[k], &trace->shape[k]);
  trace->shape[NEAPI_EXPERTS] = t->expert_count;
  if (!status)
    status = arrange(t, ids, trace);
  if (!status && t->notes[0] && !(trace->notes = strdup(t->notes)))
    status = neapi_fail(NEAP_MEMORY, "%s: no memory for a note", t->csv.path);
  for (int k = 0; k < KEYS; k++)
    free(ids[k]);
  return status;
}

int neapi_trace_parse_csv(const char *path, const char *text, int64_t length, neap_trace *trace)
{
  table t = {0};
  int status = neapi_csv_open(&t.csv, path, text, length);
  if (!status)
    status = parse_heading(&t);
  while (!status && neapi_csv_row(&t.csv))
    status = parse_row(&t);
  if (!status)
    status = order_rows(&t, trace);
  free(t.cells);
  free(t.cell_of);
  free(t.experts);
  return status;
}
