/* SPDX-License-Identifier: Apache-2.0 */
/* The file of a run store: opened also where it cannot be written, and what SQLite says of it. */
#ifndef NEAP_STORE_FILE_H
#define NEAP_STORE_FILE_H

#include <sqlite3.h>

/* create: makes the file if there is none. *db is set also on failure, for its message. Where
 * neither the file nor its folder can be written, *copy is a folder to be forgotten later, or NULL.
 * Errors: SYSTEM, MEMORY. */
int neapi_store_file_open(const char *path, int create, sqlite3 **db, char **copy);
/* Removes the folder, if any. */
void neapi_store_file_forget(char *copy);

/* Fails with what the database says was wrong. */
int neapi_store_fail(sqlite3 *db, const char *what);
/* Prepares a statement that is used again and again. Returns SQLite's code. */
int neapi_store_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out);

#endif
