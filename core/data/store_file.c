/* SPDX-License-Identifier: Apache-2.0 */
/* Opening the file of a run store. Where it lies on a file system that cannot be written, SQLite
 * cannot keep its log beside it: without a log the file is read as one that nobody changes, and
 * with one both are copied. */
#define _GNU_SOURCE
#include "data/store_file.h"

#include "base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, CHUNK = 1 << 16 };

static const char *const endings[] = {"", "-wal"};

/* Whether the file and its folder, where the log lies, can be written. */
static bool writable(const char *path)
{
  char folder[PATH_BYTES];
  const char *slash = strrchr(path, '/');
  snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
  bool there = !access(path, F_OK);
  return (!there || !access(path, W_OK)) && !access(*folder ? folder : "/", W_OK);
}

/* Whether there is a log that holds something. */
static bool has_log(const char *path)
{
  char log[PATH_BYTES];
  struct stat info;
  snprintf(log, sizeof log, "%s-wal", path);
  return !stat(log, &info) && info.st_size > 0;
}

static int copy_file(const char *from, const char *to)
{
  char data[CHUNK];
  int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  ssize_t got = in < 0 || out < 0 ? -1 : 1;
  while (got > 0 && (got = read(in, data, sizeof data)) > 0)
    if (write(out, data, (size_t)got) != got)
      got = -1;
  int why = errno;
  if (in >= 0)
    close(in);
  if (out >= 0 && close(out))
    got = -1;
  return got < 0 ? neapi_fail(NEAP_SYSTEM, "store %s: cannot be copied to %s: %s", from, to,
                              strerror(why))
                 : NEAP_OK;
}

/* Copies file and log into a folder of their own. */
static int copy_store(const char *path, char **folder)
{
  char from[PATH_BYTES], to[PATH_BYTES];
  const char *base = getenv("TMPDIR");
  if (asprintf(folder, "%s/neap-store-XXXXXX", base && *base ? base : "/tmp") < 0)
    return *folder = NULL, neapi_fail(NEAP_MEMORY, "store: no memory for a path");
  if (!mkdtemp(*folder)) {
    int status = neapi_fail(NEAP_SYSTEM, "store %s: cannot be copied to %s: %s", path, *folder,
                            strerror(errno));
    free(*folder);
    *folder = NULL;
    return status;
  }
  int status = NEAP_OK;
  for (size_t i = 0; i < sizeof endings / sizeof *endings && !status; i++) {
    snprintf(from, sizeof from, "%s%s", path, endings[i]);
    snprintf(to, sizeof to, "%s/store%s", *folder, endings[i]);
    status = copy_file(from, to);
  }
  return status;
}

static int open_database(const char *name, int flags, const char *path, sqlite3 **db)
{
  if (sqlite3_open_v2(name, db, flags | SQLITE_OPEN_NOMUTEX, NULL))
    return neapi_fail(NEAP_SYSTEM, "store %s: %s", path, sqlite3_errmsg(*db));
  return NEAP_OK;
}

static int open_unchanging(const char *path, sqlite3 **db)
{
  char uri[3 * PATH_BYTES + 32] = "file:", *at = uri + 5;
  for (const char *c = path; *c && at < uri + sizeof uri - 32; c++)
    at += strchr("%?#", *c) ? sprintf(at, "%%%02x", *c) : (*at = *c, 1);
  strcpy(at, "?immutable=1");
  return open_database(uri, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, path, db);
}

int neapi_store_file_open(const char *path, int create, sqlite3 **db, char **copy)
{
  char name[PATH_BYTES];
  if (create || access(path, F_OK) || writable(path))
    return open_database(path, SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0), path, db);
  if (!has_log(path))
    return open_unchanging(path, db);
  int status = copy_store(path, copy);
  snprintf(name, sizeof name, "%s/store", *copy ? *copy : "");
  return status ? status : open_database(name, SQLITE_OPEN_READWRITE, path, db);
}

void neapi_store_file_forget(char *copy)
{
  static const char *const all[] = {"", "-wal", "-shm", "-journal"};
  char name[PATH_BYTES];
  for (size_t i = 0; copy && i < sizeof all / sizeof *all; i++) {
    snprintf(name, sizeof name, "%s/store%s", copy, all[i]);
    unlink(name);
  }
  if (copy)
    rmdir(copy);
  free(copy);
}

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

int neapi_store_fail(sqlite3 *db, const char *what)
{
  int code = sqlite3_errcode(db);
  const char *path = sqlite3_db_filename(db, "main");
  return neapi_fail(status_of(code), "store %s: %s: %s", path ? path : "", what,
                    sqlite3_errmsg(db));
}

int neapi_store_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out)
{
  return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
}
