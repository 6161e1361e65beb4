/* SPDX-License-Identifier: Apache-2.0 */
/* Processes of this machine, as /proc tells of them. */
#define _GNU_SOURCE
#include "worker/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
  pid_t pid, parent;
  uid_t user;
  int threads;
  char state;
} process;

/* Reads /proc/NAME/stat; the second field is a name in brackets, which may hold anything. */
static bool read_process(const char *name, process *out)
{
  char path[64], text[1024];
  struct stat info;
  snprintf(path, sizeof path, "/proc/%.20s/stat", name);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return false;
  ssize_t got = fstat(file, &info) ? -1 : read(file, text, sizeof text - 1);
  close(file);
  text[got > 0 ? got : 0] = 0;
  const char *after = strrchr(text, ')');
  *out = (process){.pid = atoi(name), .user = info.st_uid};
  return after && sscanf(after + 1,
                         " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                         "%*d %d",
                         &out->state, &out->parent, &out->threads) == 3;
}

/* Calls visit for every process; the sum of what it returns. */
static int visit_all(int (*visit)(const process *, const void *), const void *argument)
{
  int sum = 0;
  DIR *folder = opendir("/proc");
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    process found;
    if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && read_process(entry->d_name, &found))
      sum += visit(&found, argument);
  }
  if (folder)
    closedir(folder);
  return sum;
}

typedef struct {
  const pid_t *pids;
  int count;
} pid_list;

static int kill_child(const process *p, const void *argument)
{
  const pid_list *keep = argument;
  if (p->parent != getpid() || p->state == 'Z')
    return 0;
  for (int i = 0; i < keep->count; i++)
    if (keep->pids[i] == p->pid)
      return 0;
  return !kill(p->pid, SIGKILL);
}

int neapi_processes_kill(const pid_t *keep, int count)
{
  pid_list list = {keep, count};
  return visit_all(kill_child, &list);
}

/* ---- descendants ----------------------------------------------------------------------------- */

typedef struct {
  process *items;
  int count, capacity;
} process_list;

static int add_to_list(const process *p, const void *argument)
{
  process_list *list = *(process_list *const *)argument;
  if (list->count == list->capacity) {
    int capacity = list->capacity ? 2 * list->capacity : 256;
    process *items = realloc(list->items, (size_t)capacity * sizeof *items);
    if (!items)
      return 0;
    list->items = items;
    list->capacity = capacity;
  }
  list->items[list->count++] = *p;
  return 1;
}

/* Whether one of the first count processes, which are below this one, is the parent. */
static bool is_parent(const process_list *list, int count, pid_t parent)
{
  bool found = parent == getpid();
  for (int i = 0; i < count && !found; i++)
    found = list->items[i].pid == parent;
  return found;
}

/* Moves those that are below this process to the front; returns how many. */
static int gather_below(process_list *list)
{
  int below = 0;
  for (int before = -1; before != below;) {
    before = below;
    for (int i = below; i < list->count; i++)
      if (is_parent(list, below, list->items[i].parent)) {
        process found = list->items[i];
        list->items[i] = list->items[below];
        list->items[below++] = found;
      }
  }
  return below;
}

int neapi_processes_below(bool end)
{
  process_list list = {0}, *out = &list;
  visit_all(add_to_list, &out);
  int below = gather_below(&list), alive = 0;
  for (int i = 0; i < below; i++) {
    alive += list.items[i].state != 'Z';
    if (end)
      kill(list.items[i].pid, SIGKILL);
  }
  free(list.items);
  return alive;
}

/* ---- the user's ------------------------------------------------------------------------------ */

static int count_own(const process *p, const void *argument)
{
  return p->user == *(const uid_t *)argument ? p->threads : 0;
}

int neapi_processes_count(void)
{
  uid_t self = getuid();
  return visit_all(count_own, &self);
}
