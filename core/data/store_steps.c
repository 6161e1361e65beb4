/* SPDX-License-Identifier: Apache-2.0 */
/* Steps on their way to a run store: kept in memory until they are written many at a time, and for
 * as long as the store cannot be written. */
#include "data/store.h"

#include "base/status.h"
#include "data/store_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  KEPT_ROWS = 1024,    /* of steps, before they are written */
  MOST_ROWS = 1 << 18, /* and at most, while the store cannot be written */
  RECORD_MS = 50,      /* that a step waits for a store in use */
};

/* ---- memory and statements ------------------------------------------------------------------- */

static int prepare_insert(neap_store *store)
{
  sqlite3_str *text = sqlite3_str_new(store->db);
  sqlite3_str_appendall(text, "INSERT OR REPLACE INTO steps(result, step, layouts");
  for (int32_t i = 0; i < store->count; i++)
    sqlite3_str_appendf(text, ", \"%w\"", store->columns[i]);
  sqlite3_str_appendall(text, ") VALUES(?, ?, ?");
  for (int32_t i = 0; i < store->count; i++)
    sqlite3_str_appendall(text, ", ?");
  sqlite3_str_appendall(text, ")");
  char *sql = sqlite3_str_finish(text);
  int code = sql ? neapi_store_prepare(store->db, sql, &store->insert) : SQLITE_NOMEM;
  sqlite3_free(sql);
  return code;
}

static int prepare_all(neap_store *store)
{
  static const char beat[] = "UPDATE runs SET heartbeat=? WHERE id=(SELECT run FROM results "
                             "WHERE id=?)";
  if (prepare_insert(store) || neapi_store_prepare(store->db, beat, &store->beat) ||
      neapi_store_prepare(store->db, "BEGIN IMMEDIATE", &store->begin) ||
      neapi_store_prepare(store->db, "COMMIT", &store->commit) ||
      neapi_store_prepare(store->db, "ROLLBACK", &store->rollback))
    return neapi_store_fail(store->db, "cannot be read");
  return NEAP_OK;
}

/* Room for twice as many rows. */
static int grow(neap_store *store)
{
  int32_t capacity = store->capacity ? 2 * store->capacity : KEPT_ROWS;
  if (capacity > MOST_ROWS)
    return neapi_fail(NEAP_MEMORY, "store: %d rows wait for being written", store->kept);
  double *values =
      realloc(store->values, ((size_t)capacity * (size_t)store->count + 1) * sizeof *values);
  store->values = values ? values : store->values;
  kept_row *rows = values ? realloc(store->rows, (size_t)capacity * sizeof *rows) : NULL;
  store->rows = rows ? rows : store->rows;
  if (!rows)
    return neapi_fail(NEAP_MEMORY, "store: no memory for %d rows", capacity);
  store->capacity = capacity;
  return NEAP_OK;
}

/* Only a store that keeps steps needs the statements and the memory for it. */
static int ready_to_record(neap_store *store)
{
  if (store->rows)
    return NEAP_OK;
  int status = neapi_store_add_columns(store);
  if (!status && !store->insert)
    status = prepare_all(store);
  return status ? status : grow(store);
}

void neapi_store_steps_close(neap_store *store)
{
  sqlite3_stmt *all[] = {store->insert, store->beat, store->begin, store->commit, store->rollback};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    sqlite3_finalize(all[i]);
  free(store->rows);
  free(store->values);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Runs a statement without rows. */
static int execute(neap_store *store, sqlite3_stmt *statement)
{
  int code = sqlite3_step(statement);
  sqlite3_reset(statement);
  return code == SQLITE_DONE ? NEAP_OK : neapi_store_fail(store->db, "cannot be written");
}

static int write_row(neap_store *store, int32_t index)
{
  const kept_row *row = &store->rows[index];
  const double *values = store->values + (int64_t)index * store->count;
  char hash[17];
  snprintf(hash, sizeof hash, "%016" PRIx64, row->layouts);
  sqlite3_bind_int64(store->insert, 1, row->result);
  sqlite3_bind_int64(store->insert, 2, row->step);
  sqlite3_bind_text(store->insert, 3, hash, -1, SQLITE_TRANSIENT);
  for (int32_t i = 0; i < store->count; i++)
    if (isnan(values[i]))
      sqlite3_bind_null(store->insert, 4 + i);
    else
      sqlite3_bind_double(store->insert, 4 + i, values[i]);
  return execute(store, store->insert);
}

static int write_rows(neap_store *store)
{
  int status = NEAP_OK;
  for (int32_t i = 0; i < store->kept && !status; i++)
    status = write_row(store, i);
  if (status)
    return status;
  sqlite3_bind_double(store->beat, 1, (double)time(NULL));
  sqlite3_bind_int64(store->beat, 2, store->rows[store->kept - 1].result);
  return execute(store, store->beat);
}

int neap_store_flush(neap_store *store)
{
  if (!store->kept)
    return NEAP_OK;
  store->failing = true;
  store->flushed = neap_clock();
  int status = execute(store, store->begin);
  if (status)
    return status;
  if (!(status = write_rows(store)))
    status = execute(store, store->commit);
  if (status) {
    sqlite3_step(store->rollback);
    sqlite3_reset(store->rollback);
    return status;
  }
  store->kept = 0;
  store->failing = false;
  return NEAP_OK;
}

int neap_store_record(neap_store *store, int64_t result, int64_t step, const double *values,
                      uint64_t layouts)
{
  int status = ready_to_record(store);
  if (status)
    return status;
  if (neap_clock() - store->flushed >= 1 || (store->kept >= KEPT_ROWS && !store->failing)) {
    neap_store_patience(store, RECORD_MS);
    neap_store_flush(store); /* or later: a step does not fail for it */
    neap_store_patience(store, NEAPI_STORE_BUSY_MS);
  }
  if (store->kept == store->capacity && grow(store)) {
    store->lost++;
    return NEAP_OK;
  }
  size_t bytes = sizeof *values * (size_t)store->count;
  memcpy(store->values + (int64_t)store->kept * store->count, values, bytes);
  store->rows[store->kept++] = (kept_row){.result = result, .step = step, .layouts = layouts};
  return NEAP_OK;
}

void neap_store_patience(neap_store *store, int32_t milliseconds)
{
  sqlite3_busy_timeout(store->db, milliseconds);
}

int64_t neap_store_waiting(const neap_store *store)
{
  return (store->failing ? store->kept : 0) + store->lost;
}

static void spill_row(const neap_store *store, int32_t index, FILE *file)
{
  const kept_row *row = &store->rows[index];
  const double *values = store->values + (int64_t)index * store->count;
  fprintf(file, "INSERT OR REPLACE INTO steps(result, step, layouts");
  for (int32_t i = 0; i < store->count; i++)
    fprintf(file, ", \"%s\"", store->columns[i]);
  fprintf(file, ") VALUES(%" PRId64 ", %" PRId64 ", '%016" PRIx64 "'", row->result, row->step,
          row->layouts);
  for (int32_t i = 0; i < store->count; i++) {
    if (isfinite(values[i]))
      fprintf(file, ", %.17g", values[i]);
    else
      fprintf(file, ", NULL");
  }
  fprintf(file, ");\n");
}

int neap_store_spill(neap_store *store, const char *path)
{
  FILE *file = fopen(path, "a");
  for (int32_t i = 0; file && i < store->kept; i++)
    spill_row(store, i, file);
  bool failed = !file || ferror(file);
  if (file && fclose(file))
    failed = true;
  if (failed)
    return neapi_fail(NEAP_SYSTEM, "%s: cannot be written: %s", path, strerror(errno));
  store->kept = 0;
  return NEAP_OK;
}
