/* SPDX-License-Identifier: Apache-2.0 */
/* CSV, cell by cell. */
#include "data/csv.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MARK_BYTES = 3, LONGEST_NUMBER = 40 };
static const char MARK[] = "\xef\xbb\xbf";

static int fail(const neapi_csv *csv, const char *what)
{
  return neapi_fail(NEAP_FORMAT, "%s: line %" PRId64 ": %s", csv->path, csv->line, what);
}

int neapi_csv_open(neapi_csv *csv, const char *path, const char *text, int64_t length)
{
  *csv = (neapi_csv){.path = path, .at = text, .end = text + length, .line = 1, .separator = ','};
  if (length >= MARK_BYTES && !memcmp(text, MARK, MARK_BYTES))
    csv->at += MARK_BYTES;
  else if (length >= 2 && (!memcmp(text, "\xff\xfe", 2) || !memcmp(text, "\xfe\xff", 2)))
    return fail(csv, "this is UTF-16; save it as UTF-8");
  for (const char *c = csv->at; c < csv->end && *c != '\n' && *c != '\r'; c++)
    if (*c == ',' || *c == ';' || *c == '\t') {
      csv->separator = *c;
      break;
    }
  return NEAP_OK;
}

static bool take_line_end(neapi_csv *csv)
{
  if (csv->at == csv->end || (*csv->at != '\n' && *csv->at != '\r'))
    return false;
  bool two = *csv->at == '\r' && csv->end - csv->at > 1 && csv->at[1] == '\n';
  csv->at += two ? 2 : 1;
  csv->line++;
  return true;
}

static void skip_spaces(neapi_csv *csv)
{
  while (csv->at < csv->end && (*csv->at == ' ' || (*csv->at == '\t' && csv->separator != '\t')))
    csv->at++;
}

bool neapi_csv_row(neapi_csv *csv)
{
  for (;;) {
    neapi_csv ahead = *csv;
    skip_spaces(&ahead);
    if (ahead.at == ahead.end)
      return false;
    if (!take_line_end(&ahead))
      return true;
    *csv = ahead;
  }
}

/* What stands between quotes; a doubled quote stays as it is. */
static int take_quoted(neapi_csv *csv, neapi_csv_cell *cell)
{
  cell->at = ++csv->at;
  for (;; csv->at++) {
    const char *c = csv->at;
    if (c == csv->end)
      return fail(csv, "a quote does not end");
    bool doubled = *c == '"' && csv->end - c > 1 && c[1] == '"';
    if (*c == '"' && !doubled)
      break;
    csv->line += *c == '\n';
    csv->at += doubled;
  }
  cell->length = csv->at++ - cell->at;
  skip_spaces(csv);
  return NEAP_OK;
}

int neapi_csv_next(neapi_csv *csv, neapi_csv_cell *cell, bool *last)
{
  int status = NEAP_OK;
  skip_spaces(csv);
  if (csv->at < csv->end && *csv->at == '"') {
    status = take_quoted(csv, cell);
  } else {
    const char *c = cell->at = csv->at;
    while (c < csv->end && *c != csv->separator && *c != '\n' && *c != '\r')
      c++;
    csv->at = c;
    while (c > cell->at && (c[-1] == ' ' || c[-1] == '\t'))
      c--;
    cell->length = c - cell->at;
  }
  if (status)
    return status;
  *last = csv->at == csv->end || *csv->at != csv->separator;
  if (!*last)
    csv->at++;
  else if (csv->at < csv->end && !take_line_end(csv))
    return fail(csv, "text after a quote");
  return NEAP_OK;
}

/* A number that is not just digits. */
static bool read_float(const neapi_csv *csv, neapi_csv_cell cell, int32_t *out)
{
  char text[LONGEST_NUMBER + 1];
  if (cell.length < 1 || cell.length > LONGEST_NUMBER)
    return false;
  for (int64_t i = 0; i < cell.length; i++) {
    char c = cell.at[i];
    text[i] = c == ',' && csv->separator == ';' ? '.' : c;
    if (!strchr("0123456789+-.eE", text[i]) || !c)
      return false;
  }
  text[cell.length] = 0;
  char *end = NULL;
  double value = strtod(text, &end);
  if (*end || !(value >= 0 && value <= INT32_MAX) || value != (double)(int32_t)value)
    return false;
  *out = (int32_t)value;
  return true;
}

bool neapi_csv_number(const neapi_csv *csv, neapi_csv_cell cell, int32_t *out)
{
  int64_t value = 0, i = 0;
  for (; i < cell.length && cell.at[i] >= '0' && cell.at[i] <= '9' && value <= INT32_MAX; i++)
    value = value * 10 + (cell.at[i] - '0');
  if (i == 0 || i < cell.length)
    return read_float(csv, cell, out);
  *out = (int32_t)value;
  return value <= INT32_MAX;
}
