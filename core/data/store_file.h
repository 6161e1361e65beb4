/* Opening the file of a run store, also where it cannot be written. */
#ifndef NEAP_STORE_FILE_H
#define NEAP_STORE_FILE_H

#include <sqlite3.h>

/* create: makes the file if there is none. *db is set also on failure, for its message. Where
 * neither the file nor its folder can be written, *copy is a folder to be forgotten later, or NULL.
 * Errors: SYSTEM, MEMORY. */
int neapi_store_file_open(const char *path, int create, sqlite3 **db, char **copy);
/* Removes the folder, if any. */
void neapi_store_file_forget(char *copy);

#endif
