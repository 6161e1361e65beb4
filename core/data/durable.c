/* SPDX-License-Identifier: Apache-2.0 */
/* Files and folders that survive crashes: whole files, sealed texts, and folders for them. */
#define _GNU_SOURCE /* asprintf */
#include "data/durable.h"

#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static int system_error(const char *path, const char *what)
{
  return neapi_fail(NEAP_SYSTEM, "%s: %s: %s", path, what, strerror(errno));
}

/* ---- whole files ----------------------------------------------------------------------------- */

static void forget(neapi_durable *d)
{
  free(d->path);
  free(d->temporary);
  *d = (neapi_durable){.file = -1};
}

int neapi_durable_begin(neapi_durable *d, const char *path)
{
  *d = (neapi_durable){.path = strdup(path), .file = -1};
  if (!d->path || asprintf(&d->temporary, "%s.part", path) < 0) {
    d->temporary = NULL;
    forget(d);
    return neapi_fail(NEAP_MEMORY, "%s: no memory for its name", path);
  }
  d->file = open(d->temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
  if (d->file >= 0)
    return NEAP_OK;
  int status = system_error(d->temporary, "cannot be created");
  forget(d);
  return status;
}

int neapi_durable_write(neapi_durable *d, const void *data, int64_t bytes)
{
  while (bytes > 0) {
    ssize_t written = write(d->file, data, (size_t)bytes);
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return system_error(d->path, "cannot be written");
    data = (const char *)data + written;
    bytes -= written;
  }
  return NEAP_OK;
}

static int sync_folder(const char *folder)
{
  int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0)
    return system_error(folder, "cannot be opened");
  /* Some file systems keep names without being asked, and say EINVAL. */
  int status = fsync(file) && errno != EINVAL ? system_error(folder, "cannot be synced") : NEAP_OK;
  close(file);
  return status;
}

int neapi_folder_sync_of(const char *path)
{
  char *folder = strdup(path);
  if (!folder)
    return neapi_fail(NEAP_MEMORY, "%s: no memory for its name", path);
  char *slash = strrchr(folder, '/');
  if (slash)
    slash[slash == folder] = 0;
  int status = sync_folder(slash ? folder : ".");
  free(folder);
  return status;
}

static int commit(neapi_durable *d)
{
  if (fsync(d->file))
    return system_error(d->path, "cannot be synced");
  int failed = close(d->file);
  d->file = -1;
  if (failed)
    return system_error(d->path, "cannot be closed");
  if (rename(d->temporary, d->path))
    return system_error(d->path, "cannot be renamed from its temporary name");
  return neapi_folder_sync_of(d->path);
}

int neapi_durable_finish(neapi_durable *d)
{
  int status = commit(d);
  if (status)
    neapi_durable_abandon(d);
  else
    forget(d);
  return status;
}

void neapi_durable_abandon(neapi_durable *d)
{
  if (d->file >= 0)
    close(d->file);
  unlink(d->temporary);
  forget(d);
}

static bool same_file(const struct stat *a, int file)
{
  struct stat b;
  return !fstat(file, &b) && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* Whether another file cannot take the place of what has the name: a device, a pipe, or a file that
 * this process writes its results or messages to (/dev/stdout). */
static bool written_in_place(const char *path)
{
  struct stat info;
  return !stat(path, &info) && (!S_ISREG(info.st_mode) || same_file(&info, STDOUT_FILENO) ||
                                same_file(&info, STDERR_FILENO));
}

static int write_in_place(const char *path, const void *data, int64_t bytes)
{
  neapi_durable d = {.path = (char *)path, .file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC)};
  if (d.file < 0)
    return system_error(path, "cannot be opened");
  int status = neapi_durable_write(&d, data, bytes);
  if (close(d.file) && !status)
    status = system_error(path, "cannot be closed");
  return status;
}

static int replace(const char *path, const void *data, int64_t bytes)
{
  neapi_durable file;
  int status = neapi_durable_begin(&file, path);
  if (status)
    return status;
  struct stat info;
  if (!stat(path, &info) && fchmod(file.file, info.st_mode & 07777))
    status = system_error(path, "its new content cannot get the rights of the old one");
  if (!status)
    status = neapi_durable_write(&file, data, bytes);
  if (!status)
    return neapi_durable_finish(&file);
  neapi_durable_abandon(&file);
  return status;
}

int neap_file_replace(const char *path, const void *data, int64_t bytes)
{
  if (written_in_place(path))
    return write_in_place(path, data, bytes);
  char *target = realpath(path, NULL); /* a link stays one; NULL: there is no file yet */
  int status = replace(target ? target : path, data, bytes);
  free(target);
  return status;
}

/* ---- sealed texts ---------------------------------------------------------------------------- */

enum { SEAL_BYTES = 21, MOST_SEALED = 1 << 30 }; /* ,"crc32":"01234567"} and a line's end */

static void make_seal(char *seal, const char *text, int64_t bytes)
{
  snprintf(seal, SEAL_BYTES + 1, ",\"crc32\":\"%08lx\"}\n",
           crc32_z(0, (const Bytef *)text, (size_t)bytes));
}

int neap_sealed_write(const char *path, const char *text, int64_t bytes)
{
  if (bytes < 3 || bytes >= MOST_SEALED - SEAL_BYTES || text[0] != '{' || text[bytes - 1] != '}')
    return neapi_fail(NEAP_ARGUMENT, "%s: %" PRId64 " bytes are not the text of a JSON object",
                      path, bytes);
  char *sealed = neapi_alloc(bytes + SEAL_BYTES, "sealed text");
  if (!sealed)
    return NEAP_MEMORY;
  memcpy(sealed, text, (size_t)bytes - 1);
  make_seal(sealed + bytes - 1, text, bytes - 1);
  int status = neap_file_replace(path, sealed, bytes - 1 + SEAL_BYTES);
  free(sealed);
  return status;
}

int neapi_read_at(int file, const char *path, void *to, int64_t bytes, int64_t offset)
{
  while (bytes > 0) {
    ssize_t got = pread(file, to, (size_t)bytes, offset);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return system_error(path, "cannot be read");
    if (got == 0)
      return neapi_fail(NEAP_FORMAT, "%s: byte %" PRId64 ": truncated: the file ends here", path,
                        offset);
    to = (char *)to + got;
    bytes -= got;
    offset += got;
  }
  return NEAP_OK;
}

struct neap_sealed {
  int64_t bytes;
  char text[];
};

static int check_seal(const char *path, const neap_sealed *sealed)
{
  char seal[SEAL_BYTES + 1];
  int64_t body = sealed->bytes - SEAL_BYTES;
  make_seal(seal, sealed->text, body);
  if (memcmp(sealed->text + body, seal, SEAL_BYTES))
    return neapi_fail(NEAP_FORMAT,
                      "%s: the checksum at its end is not that of its text: the file is damaged",
                      path);
  return NEAP_OK;
}

static int read_sealed(const char *path, int file, neap_sealed **out)
{
  struct stat info;
  if (fstat(file, &info))
    return system_error(path, "cannot be read");
  if (!S_ISREG(info.st_mode) || info.st_size < SEAL_BYTES || info.st_size > MOST_SEALED)
    return neapi_fail(NEAP_FORMAT, "%s: %" PRId64 " bytes; a sealed text has %d to %d", path,
                      (int64_t)info.st_size, SEAL_BYTES, MOST_SEALED);
  neap_sealed *sealed = neapi_alloc((int64_t)sizeof *sealed + info.st_size, "sealed text");
  if (!sealed)
    return NEAP_MEMORY;
  sealed->bytes = info.st_size;
  int status = neapi_read_at(file, path, sealed->text, sealed->bytes, 0);
  if (!status)
    status = check_seal(path, sealed);
  if (status)
    free(sealed);
  else
    *out = sealed;
  return status;
}

int neap_sealed_read(const char *path, neap_sealed **out)
{
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return system_error(path, "cannot be opened");
  int status = read_sealed(path, file, out);
  close(file);
  return status;
}

const char *neap_sealed_text(const neap_sealed *sealed, int64_t *bytes)
{
  *bytes = sealed->bytes;
  return sealed->text;
}

void neap_sealed_close(neap_sealed *sealed)
{
  free(sealed);
}

/* ---- folders --------------------------------------------------------------------------------- */

/* Makes the folder that path is in. */
static int make_parent(const char *path)
{
  char *parent = strdup(path), *slash = parent ? strrchr(parent, '/') : NULL;
  int status = parent ? NEAP_OK : neapi_fail(NEAP_MEMORY, "%s: no memory for its name", path);
  if (slash && slash != parent) {
    *slash = 0;
    status = neap_folder_make(parent);
  }
  free(parent);
  return status;
}

int neap_folder_make(const char *path)
{
  struct stat info;
  if (!stat(path, &info))
    return S_ISDIR(info.st_mode) ? NEAP_OK
                                 : neapi_fail(NEAP_SYSTEM, "%s: is a file, not a folder", path);
  int status = make_parent(path);
  if (status)
    return status;
  if (mkdir(path, 0777) && errno != EEXIST)
    return system_error(path, "cannot be made a folder");
  return neapi_folder_sync_of(path);
}

/* Removes an entry of a folder: a file, or a folder with its files. */
static int remove_entry(const char *path, int depth)
{
  if (!unlink(path) || errno == ENOENT)
    return NEAP_OK;
  DIR *folder = depth > 0 && (errno == EISDIR || errno == EPERM) ? opendir(path) : NULL;
  if (!folder)
    return system_error(path, "cannot be removed");
  int status = NEAP_OK;
  for (struct dirent *entry; !status && (entry = readdir(folder));) {
    char *inner = NULL;
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
      continue;
    if (asprintf(&inner, "%s/%s", path, entry->d_name) < 0)
      status = neapi_fail(NEAP_MEMORY, "%s: no memory for a name", path);
    else
      status = remove_entry(inner, depth - 1);
    free(inner);
  }
  closedir(folder);
  if (!status && rmdir(path))
    status = system_error(path, "cannot be removed");
  return status;
}

int neap_folder_remove(const char *path)
{
  return remove_entry(path, 1);
}

int neap_file_lock(const char *path, int *file)
{
  int opened = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (opened < 0)
    return system_error(path, "cannot be opened");
  if (!flock(opened, LOCK_EX | LOCK_NB)) {
    *file = opened;
    return NEAP_OK;
  }
  int status = errno == EWOULDBLOCK
                   ? neapi_fail(NEAP_BUSY, "%s: another process holds this lock", path)
                   : system_error(path, "cannot be locked");
  close(opened);
  return status;
}

void neap_file_unlock(int file)
{
  if (file >= 0)
    close(file);
}
