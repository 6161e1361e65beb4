/* Runs, results and steps in one SQLite file. */
#include "base/status.h"

#include "base/memory.h"
#include "data/store_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
  KEPT_ROWS = 1024,    /* of steps, before they are written */
  MOST_ROWS = 1 << 18, /* and at most, while the store cannot be written */
  BUSY_MS = 30000,
  RECORD_MS = 50, /* that a step waits for a store in use */
  WAL_TRIES = 200,
  WAL_PAUSE_MS = 10,
  MOST_COLUMNS = 256,
};

#define APPLICATION 0x4e454150 /* "NEAP", where SQLite keeps what a file is for */
#define VERSION 2              /* of the tables; 1 had no sweeps */
#define TABLES 5

/* runs.key: hash of everything that decides what a run computes. pid, pid_start, boot: who writes,
 * so that a reader can tell a run that goes on from one that was killed. */
static const char schema[] =
    "CREATE TABLE IF NOT EXISTS texts(sha256 TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS runs(id INTEGER PRIMARY KEY, kind TEXT NOT NULL,"
    " command TEXT NOT NULL, key TEXT, sweep TEXT, script TEXT, script_sha256 TEXT,"
    " parameters TEXT, seed INTEGER, ranks INTEGER, node_size INTEGER, transport TEXT, device TEXT,"
    " engine TEXT, git_commit TEXT, git_dirty INTEGER, host TEXT, machine TEXT, libraries TEXT,"
    " corpora TEXT, pid INTEGER, pid_start INTEGER, boot TEXT, started REAL NOT NULL,"
    " heartbeat REAL NOT NULL, ended REAL, state TEXT NOT NULL, exit_status INTEGER, error TEXT);"
    "CREATE INDEX IF NOT EXISTS runs_key ON runs(key);"
    "CREATE TABLE IF NOT EXISTS results(id INTEGER PRIMARY KEY,"
    " run INTEGER NOT NULL REFERENCES runs(id), policy TEXT NOT NULL, policy_file TEXT,"
    " policy_sha256 TEXT, seed INTEGER, trace TEXT, steps INTEGER, context TEXT,"
    " started REAL NOT NULL, ended REAL, summary TEXT);"
    "CREATE INDEX IF NOT EXISTS results_run ON results(run);"
    "CREATE TABLE IF NOT EXISTS sweeps(name TEXT NOT NULL, number INTEGER NOT NULL,"
    " key TEXT NOT NULL, arguments TEXT NOT NULL, PRIMARY KEY(name, number)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS steps(result INTEGER NOT NULL, step INTEGER NOT NULL,"
    " layouts TEXT, PRIMARY KEY(result, step)) WITHOUT ROWID;";

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

struct neap_statement {
  sqlite3_stmt *statement;
  sqlite3 *db;
};

/* ---- errors ---------------------------------------------------------------------------------- */

static int status_of(int code)
{
  switch (code & 0xff) {
  case SQLITE_CORRUPT:
  case SQLITE_NOTADB:
    return NEAP_FORMAT;
  case SQLITE_CONSTRAINT:
  case SQLITE_MISMATCH:
  case SQLITE_RANGE:
  case SQLITE_ERROR:
    return NEAP_ARGUMENT;
  case SQLITE_NOMEM:
    return NEAP_MEMORY;
  default:
    return NEAP_SYSTEM;
  }
}

static int fail(sqlite3 *db, const char *what)
{
  int code = sqlite3_errcode(db);
  const char *path = sqlite3_db_filename(db, "main");
  return neapi_fail(status_of(code), "store %s: %s: %s", path ? path : "", what,
                    sqlite3_errmsg(db));
}

/* ---- opening --------------------------------------------------------------------------------- */

static int read_number(sqlite3 *db, const char *sql, int64_t *value)
{
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL))
    return fail(db, "cannot be read");
  int code = sqlite3_step(statement);
  *value = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
  sqlite3_finalize(statement);
  return code == SQLITE_ROW ? NEAP_OK : fail(db, "cannot be read");
}

/* Two processes that switch to the log at once see each other as busy whatever the timeout. */
static int use_log(sqlite3 *db)
{
  struct timespec pause = {0, 1000000L * WAL_PAUSE_MS};
  int code = SQLITE_BUSY;
  for (int i = 0; i < WAL_TRIES && (code & 0xff) == SQLITE_BUSY; i++) {
    if (i)
      nanosleep(&pause, NULL);
    code =
        sqlite3_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;", NULL, NULL, NULL);
  }
  return code ? fail(db, "cannot be opened") : NEAP_OK;
}

static int create_tables(sqlite3 *db)
{
  char settings[128];
  snprintf(settings, sizeof settings, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
           APPLICATION, VERSION);
  if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) ||
      sqlite3_exec(db, schema, NULL, NULL, NULL) || sqlite3_exec(db, settings, NULL, NULL, NULL))
    return fail(db, "its tables cannot be made (move it away, or name another with --store)");
  return NEAP_OK;
}

/* Whether the tables are those that this engine reads. */
static int check_tables(sqlite3 *db, const char *path)
{
  static const char count[] = "SELECT count(*) FROM sqlite_master WHERE type='table' AND name IN "
                              "('texts', 'runs', 'results', 'steps', 'sweeps')";
  int64_t tables;
  int status = read_number(db, count, &tables);
  if (!status && tables != TABLES)
    return neapi_fail(NEAP_FORMAT,
                      "store %s: has %" PRId64 " of the %d tables of a run store; move it away, or "
                      "name another with --store",
                      path, tables, TABLES);
  return status;
}

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out)
{
  return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
}

/* Runs SQL that was put together; its text is freed. */
static int execute_text(sqlite3 *db, sqlite3_str *text, const char *what)
{
  char *sql = sqlite3_str_finish(text);
  if (!sql)
    return neapi_fail(NEAP_MEMORY, "store: out of memory");
  int code = sqlite3_exec(db, sql, NULL, NULL, NULL);
  sqlite3_free(sql);
  return code ? fail(db, what) : NEAP_OK;
}

/* Whether the steps have a column. */
static int has_column(sqlite3 *db, const char *name, int64_t *found)
{
  sqlite3_str *text = sqlite3_str_new(db);
  sqlite3_str_appendf(text, "SELECT count(*) FROM pragma_table_info('steps') WHERE name = %Q",
                      name);
  char *sql = sqlite3_str_finish(text);
  int status = sql ? read_number(db, sql, found) : neapi_fail(NEAP_MEMORY, "store: out of memory");
  sqlite3_free(sql);
  return status;
}

/* Gives the steps the columns that they lack, all of them or none. */
static int add_columns(neap_store *store)
{
  int64_t found = 1;
  int status = NEAP_OK;
  for (int32_t i = 0; !status && found && i < store->count; i++)
    status = has_column(store->db, store->columns[i], &found);
  if (status || found)
    return status;
  if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL))
    return fail(store->db, "cannot be written");
  for (int32_t i = 0; !status && i < store->count; i++) {
    status = has_column(store->db, store->columns[i], &found);
    if (status || found)
      continue;
    sqlite3_str *text = sqlite3_str_new(store->db);
    sqlite3_str_appendf(text, "ALTER TABLE steps ADD COLUMN \"%w\" REAL", store->columns[i]);
    status = execute_text(store->db, text, "a column of its steps cannot be made");
  }
  if (!status && sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL))
    status = fail(store->db, "cannot be written");
  if (status)
    sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
  return status;
}

/* Looks at what the file is, and makes the tables that a new or earlier one lacks. */
static int check_file(neap_store *store, const char *path)
{
  sqlite3 *db = store->db;
  int64_t application, version, tables;
  int status;
  if ((status = read_number(db, "PRAGMA application_id", &application)) ||
      (status = read_number(db, "PRAGMA user_version", &version)) ||
      (status = read_number(db, "SELECT count(*) FROM sqlite_master", &tables)))
    return status;
  if (application != APPLICATION && tables > 0)
    return neapi_fail(NEAP_FORMAT,
                      "store %s: is a database of another program; name another file with --store",
                      path);
  if (version > VERSION)
    return neapi_fail(NEAP_FORMAT,
                      "store %s: was made by a later Neap (store version %" PRId64
                      ", this one reads up to %d); use that one, or another file with --store",
                      path, version, VERSION);
  if (sqlite3_db_readonly(db, "main") == 1)
    return NEAP_OK;
  if ((status = use_log(db)))
    return status;
  if (version == VERSION)
    return check_tables(db, path);
  if (!(status = create_tables(db)) && !(status = check_tables(db, path)))
    status = add_columns(store);
  return status;
}

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
  int code = sql ? prepare(store->db, sql, &store->insert) : SQLITE_NOMEM;
  sqlite3_free(sql);
  return code;
}

static int prepare_all(neap_store *store)
{
  static const char beat[] = "UPDATE runs SET heartbeat=? WHERE id=(SELECT run FROM results "
                             "WHERE id=?)";
  if (prepare_insert(store) || prepare(store->db, beat, &store->beat) ||
      prepare(store->db, "BEGIN IMMEDIATE", &store->begin) ||
      prepare(store->db, "COMMIT", &store->commit) ||
      prepare(store->db, "ROLLBACK", &store->rollback))
    return fail(store->db, "cannot be read");
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
  int status = add_columns(store);
  if (!status && !store->insert)
    status = prepare_all(store);
  return status ? status : grow(store);
}

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
  sqlite3_stmt *all[] = {store->insert, store->beat, store->begin, store->commit, store->rollback};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    sqlite3_finalize(all[i]);
  sqlite3_close_v2(store->db);
  for (int32_t i = 0; i < store->count; i++)
    free(store->columns[i]);
  free(store->columns);
  free(store->rows);
  free(store->values);
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
    sqlite3_busy_timeout(store->db, BUSY_MS);
    status = check_file(store, path);
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

/* ---- steps ----------------------------------------------------------------------------------- */

/* Runs a statement without rows. */
static int execute(neap_store *store, sqlite3_stmt *statement)
{
  int code = sqlite3_step(statement);
  sqlite3_reset(statement);
  return code == SQLITE_DONE ? NEAP_OK : fail(store->db, "cannot be written");
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
    neap_store_patience(store, BUSY_MS);
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

/* ---- statements ------------------------------------------------------------------------------ */

int neap_store_prepare(neap_store *store, const char *sql, neap_statement **out)
{
  neap_statement *statement = neapi_alloc_zero(sizeof *statement, "statement");
  if (!statement)
    return NEAP_MEMORY;
  statement->db = store->db;
  if (prepare(store->db, sql, &statement->statement)) {
    free(statement);
    return fail(store->db, sql);
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
  return code ? fail(statement->db, "parameter") : NEAP_OK;
}

int neap_statement_bind_number(neap_statement *statement, int32_t index, double value)
{
  sqlite3_stmt *s = statement->statement;
  int whole = value == floor(value) && fabs(value) < 9e15;
  int code =
      whole ? sqlite3_bind_int64(s, index, (int64_t)value) : sqlite3_bind_double(s, index, value);
  return code ? fail(statement->db, "parameter") : NEAP_OK;
}

int neap_statement_step(neap_statement *statement, int *row)
{
  int code = sqlite3_step(statement->statement);
  if (code == SQLITE_ROW) {
    *row = 1;
    return NEAP_OK;
  }
  int status = code == SQLITE_DONE ? NEAP_OK : fail(statement->db, "a statement failed");
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
