/* SPDX-License-Identifier: Apache-2.0 */
/* Runs, results and steps in one SQLite file. */
#include "data/store.h"

#include "base/memory.h"
#include "base/status.h"
#include "data/store_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 256 };

struct neap_statement {
  sqlite3_stmt *statement;
  sqlite3 *db;
};

/* ---- columns --------------------------------------------------------------------------------- */

static bool good_name(const char *name)
{
  size_t letters = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
  return *name >= 'a' && *name <= 'z' && !name[letters];
}

static int check_column(const char *const *columns, int32_t i)
{
  static const char *const own[] = {"result", "step", "layouts"};
  bool taken = false;
  for (size_t j = 0; j < sizeof own / sizeof *own; j++)
    taken = taken || !strcmp(columns[i], own[j]);
  for (int32_t j = 0; j < i; j++)
    taken = taken || !strcmp(columns[i], columns[j]);
  if (taken)
    return neapi_fail(NEAP_ARGUMENT, "store: steps have a column '%s' already", columns[i]);
  if (!good_name(columns[i]))
    return neapi_fail(
        NEAP_ARGUMENT,
        "store: column '%s' of the steps: its name must begin with a letter of a to z "
        "and have only these, digits and _",
        columns[i]);
  return NEAP_OK;
}

/* Checks the names and keeps a copy of them. */
static int take_columns(neap_store *store, const char *const *columns, int32_t count)
{
  if (count < 0 || count > MOST_COLUMNS)
    return neapi_fail(NEAP_ARGUMENT, "store: %d columns of the steps; allowed are 0 to %d", count,
                      MOST_COLUMNS);
  store->columns = neapi_alloc_zero((count + 1) * (int64_t)sizeof *store->columns, "store");
  if (!store->columns)
    return NEAP_MEMORY;
  int status = NEAP_OK;
  for (int32_t i = 0; !status && i < count; i++) {
    int64_t bytes = (int64_t)strlen(columns[i]) + 1;
    status = check_column(columns, i);
    if (!status && !(store->columns[i] = neapi_alloc(bytes, "store")))
      status = NEAP_MEMORY;
    if (!status)
      memcpy(store->columns[i], columns[i], (size_t)bytes);
    store->count = i + 1;
  }
  return status;
}

/* ---- life ------------------------------------------------------------------------------------ */

static void release(neap_store *store)
{
  neapi_store_steps_close(store);
  sqlite3_close_v2(store->db);
  for (int32_t i = 0; i < store->count; i++)
    free(store->columns[i]);
  free(store->columns);
  neapi_store_file_forget(store->copy);
  free(store);
}

int neap_store_open(const char *path, int create, const char *const *columns, int32_t count,
                    neap_store **out)
{
  neap_store *store = neapi_alloc_zero(sizeof *store, "store");
  if (!store)
    return NEAP_MEMORY;
  int status = take_columns(store, columns, count);
  if (!status)
    status = neapi_store_file_open(path, create, &store->db, &store->copy);
  if (!status) {
    sqlite3_busy_timeout(store->db, NEAPI_STORE_BUSY_MS);
    status = neapi_store_check_file(store, path);
  }
  if (status) {
    release(store);
    return status;
  }
  store->flushed = neap_clock();
  *out = store;
  return NEAP_OK;
}

void neap_store_close(neap_store *store)
{
  if (!store)
    return;
  neap_store_flush(store);
  release(store);
}

int64_t neap_store_last_id(const neap_store *store)
{
  return sqlite3_last_insert_rowid(store->db);
}

/* ---- statements ------------------------------------------------------------------------------ */

int neap_store_prepare(neap_store *store, const char *sql, neap_statement **out)
{
  neap_statement *statement = neapi_alloc_zero(sizeof *statement, "statement");
  if (!statement)
    return NEAP_MEMORY;
  statement->db = store->db;
  if (neapi_store_prepare(store->db, sql, &statement->statement)) {
    free(statement);
    return neapi_store_fail(store->db, sql);
  }
  *out = statement;
  return NEAP_OK;
}

void neap_statement_close(neap_statement *statement)
{
  if (!statement)
    return;
  sqlite3_finalize(statement->statement);
  free(statement);
}

int neap_statement_bind_text(neap_statement *statement, int32_t index, const char *text,
                             int64_t bytes)
{
  int code =
      text ? sqlite3_bind_text(statement->statement, index, text, (int)bytes, SQLITE_TRANSIENT)
           : sqlite3_bind_null(statement->statement, index);
  return code ? neapi_store_fail(statement->db, "parameter") : NEAP_OK;
}

int neap_statement_bind_number(neap_statement *statement, int32_t index, double value)
{
  sqlite3_stmt *s = statement->statement;
  int whole = value == floor(value) && fabs(value) < 9e15;
  int code =
      whole ? sqlite3_bind_int64(s, index, (int64_t)value) : sqlite3_bind_double(s, index, value);
  return code ? neapi_store_fail(statement->db, "parameter") : NEAP_OK;
}

int neap_statement_step(neap_statement *statement, int *row)
{
  int code = sqlite3_step(statement->statement);
  if (code == SQLITE_ROW) {
    *row = 1;
    return NEAP_OK;
  }
  int status =
      code == SQLITE_DONE ? NEAP_OK : neapi_store_fail(statement->db, "a statement failed");
  sqlite3_reset(statement->statement);
  *row = 0;
  return status;
}

int32_t neap_statement_columns(const neap_statement *statement)
{
  return sqlite3_column_count(statement->statement);
}

const char *neap_statement_name(const neap_statement *statement, int32_t column)
{
  return sqlite3_column_name(statement->statement, column);
}

int neap_statement_type(const neap_statement *statement, int32_t column)
{
  switch (sqlite3_column_type(statement->statement, column)) {
  case SQLITE_NULL:
    return '-';
  case SQLITE_INTEGER:
  case SQLITE_FLOAT:
    return 'n';
  default:
    return 't';
  }
}

double neap_statement_number(const neap_statement *statement, int32_t column)
{
  return sqlite3_column_double(statement->statement, column);
}

const char *neap_statement_text(const neap_statement *statement, int32_t column, int64_t *bytes)
{
  const char *text = (const char *)sqlite3_column_text(statement->statement, column);
  *bytes = sqlite3_column_bytes(statement->statement, column);
  return text;
}
