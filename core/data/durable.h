/* SPDX-License-Identifier: Apache-2.0 */
/* Files that appear whole or not at all: written under another name, made durable, then renamed. A
 * crash, a full disk or a failed write leaves what had the name before. */
#ifndef NEAP_DURABLE_H
#define NEAP_DURABLE_H

#include "base/status.h"

typedef struct {
  char *path, *temporary;
  int file;
} neapi_durable;

/* Opens PATH.part. Errors: SYSTEM, MEMORY; nothing is to be abandoned then. */
int neapi_durable_begin(neapi_durable *durable, const char *path);
/* Appends. */
int neapi_durable_write(neapi_durable *durable, const void *data, int64_t bytes);
/* The file and its name are on the disk when this returns without an error. Whatever it returns,
 * the durable is over. */
int neapi_durable_finish(neapi_durable *durable);
/* Removes what has been written. */
void neapi_durable_abandon(neapi_durable *durable);

/* Names of files in the folder of path are on the disk. */
int neapi_folder_sync_of(const char *path);
/* Reads so many bytes from offset on; fewer in the file are FORMAT. */
int neapi_read_at(int file, const char *path, void *to, int64_t bytes, int64_t offset);

#endif
