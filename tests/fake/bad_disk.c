/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that fails, for programs that are started with this in LD_PRELOAD: of the calls that
 * change files below the folder BAD_DISK_FOLDER, the BAD_DISK_AT-th (from 0) fails with
 * BAD_DISK_ERRNO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int calls; /* atomic */

static int below(const char *path)
{
  const char *folder = getenv("BAD_DISK_FOLDER");
  return folder && !strncmp(path, folder, strlen(folder));
}

static int file_below(int file)
{
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  path[length > 0 ? length : 0] = 0;
  return below(path);
}

static int fails(int ours)
{
  const char *at = getenv("BAD_DISK_AT"), *number = getenv("BAD_DISK_ERRNO");
  if (!ours || !at || __atomic_fetch_add(&calls, 1, __ATOMIC_RELAXED) != atoi(at))
    return 0;
  errno = number ? atoi(number) : EIO;
  return 1;
}

ssize_t write(int file, const void *data, size_t bytes)
{
  ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
  return fails(file_below(file)) ? -1 : next(file, data, bytes);
}

int fsync(int file)
{
  int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
  return fails(file_below(file)) ? -1 : next(file);
}

int rename(const char *from, const char *to)
{
  int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
  return fails(below(to)) ? -1 : next(from, to);
}

int mkdir(const char *path, mode_t mode)
{
  int (*next)(const char *, mode_t) = dlsym(RTLD_NEXT, "mkdir");
  return fails(below(path)) ? -1 : next(path, mode);
}
