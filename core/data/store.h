/* SPDX-License-Identifier: Apache-2.0 */
/* The run store's own parts: its tables, the rows of steps that it keeps, statements. */
#ifndef NEAP_STORE_H
#define NEAP_STORE_H

#include "neap.h"

#include <sqlite3.h>
#include <stdbool.h>

enum { NEAPI_STORE_BUSY_MS = 30000 };

typedef struct {
  int64_t result, step;
  uint64_t layouts;
} kept_row;

struct neap_store {
  sqlite3 *db;
  sqlite3_stmt *insert, *beat, *begin, *commit, *rollback;
  int32_t count;  /* of the columns of a step */
  char **columns; /* [count] */
  kept_row *rows; /* [capacity]; NULL until a step is recorded */
  double *values; /* [capacity][count] */
  int32_t kept, capacity;
  int64_t lost;   /* rows for which there was no memory */
  bool failing;   /* the last attempt to write them failed */
  double flushed; /* when that was tried, by neap_clock */
  char *copy;     /* folder of a copy, if the store cannot be written */
};

/* Looks at what the file is, and makes the tables that a new or earlier one lacks. */
int neapi_store_check_file(neap_store *store, const char *path);
/* Gives the steps the columns that they lack, all of them or none. */
int neapi_store_add_columns(neap_store *store);

/* Frees the rows that are kept, and their statements. */
void neapi_store_steps_close(neap_store *store);

#endif
