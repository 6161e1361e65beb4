/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of a run store: made, or checked to be those that this engine reads. */
#include "data/store.h"

#include "base/status.h"
#include "data/store_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

enum {
  WAL_TRIES = 200,
  WAL_PAUSE_MS = 10,
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

static int read_number(sqlite3 *db, const char *sql, int64_t *value)
{
  sqlite3_stmt *statement;
  if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL))
    return neapi_store_fail(db, "cannot be read");
  int code = sqlite3_step(statement);
  *value = code == SQLITE_ROW ? sqlite3_column_int64(statement, 0) : 0;
  sqlite3_finalize(statement);
  return code == SQLITE_ROW ? NEAP_OK : neapi_store_fail(db, "cannot be read");
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
  return code ? neapi_store_fail(db, "cannot be opened") : NEAP_OK;
}

static int create_tables(sqlite3 *db)
{
  char settings[128];
  snprintf(settings, sizeof settings, "PRAGMA application_id=%d; PRAGMA user_version=%d; COMMIT",
           APPLICATION, VERSION);
  if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) ||
      sqlite3_exec(db, schema, NULL, NULL, NULL) || sqlite3_exec(db, settings, NULL, NULL, NULL))
    return neapi_store_fail(
        db, "its tables cannot be made (move it away, or name another with --store)");
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

/* Runs SQL that was put together; its text is freed. */
static int execute_text(sqlite3 *db, sqlite3_str *text, const char *what)
{
  char *sql = sqlite3_str_finish(text);
  if (!sql)
    return neapi_fail(NEAP_MEMORY, "store: out of memory");
  int code = sqlite3_exec(db, sql, NULL, NULL, NULL);
  sqlite3_free(sql);
  return code ? neapi_store_fail(db, what) : NEAP_OK;
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

int neapi_store_add_columns(neap_store *store)
{
  int64_t found = 1;
  int status = NEAP_OK;
  for (int32_t i = 0; !status && found && i < store->count; i++)
    status = has_column(store->db, store->columns[i], &found);
  if (status || found)
    return status;
  if (sqlite3_exec(store->db, "BEGIN IMMEDIATE", NULL, NULL, NULL))
    return neapi_store_fail(store->db, "cannot be written");
  for (int32_t i = 0; !status && i < store->count; i++) {
    status = has_column(store->db, store->columns[i], &found);
    if (status || found)
      continue;
    sqlite3_str *text = sqlite3_str_new(store->db);
    sqlite3_str_appendf(text, "ALTER TABLE steps ADD COLUMN \"%w\" REAL", store->columns[i]);
    status = execute_text(store->db, text, "a column of its steps cannot be made");
  }
  if (!status && sqlite3_exec(store->db, "COMMIT", NULL, NULL, NULL))
    status = neapi_store_fail(store->db, "cannot be written");
  if (status)
    sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
  return status;
}

int neapi_store_check_file(neap_store *store, const char *path)
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
    status = neapi_store_add_columns(store);
  return status;
}
