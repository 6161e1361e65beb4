/* SPDX-License-Identifier: Apache-2.0 */
/* CSV as people have it (RFC 4180, and what spreadsheets and scripts make of it): a byte-order
 * mark, quotes, spaces around, ';' or tabs between, line ends of any kind, blank lines, no last
 * newline. */
#ifndef NEAP_CSV_H
#define NEAP_CSV_H

#include "base/status.h"

#include <stdbool.h>

typedef struct {
  const char *path, *at, *end;
  int64_t line; /* of at, from 1 */
  char separator;
} neapi_csv;

typedef struct {
  const char *at;
  int64_t length; /* without quotes and the spaces around */
} neapi_csv_cell;

/* Begins: passes a byte-order mark and finds the separator in the first line. Errors: FORMAT. */
int neapi_csv_open(neapi_csv *csv, const char *path, const char *text, int64_t length);
/* Passes blank lines; whether there is another row. */
bool neapi_csv_row(neapi_csv *csv);
/* The next cell of the row; *last: the row ends with it, and the cursor is behind its line end.
 * Errors: FORMAT. */
int neapi_csv_next(neapi_csv *csv, neapi_csv_cell *cell, bool *last);
/* A whole number from 0 to 2^31 - 1: 10, 10.0, 1e1, and 10,0 where ';' is between. */
bool neapi_csv_number(const neapi_csv *csv, neapi_csv_cell cell, int32_t *out);

#endif
