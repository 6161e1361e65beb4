/* SPDX-License-Identifier: Apache-2.0 */
/* Processes of this machine, as /proc tells of them. */
#ifndef NEAP_PROCESSES_H
#define NEAP_PROCESSES_H

#include <stdbool.h>
#include <sys/types.h>

/* Kills the children of this process but those of keep[count]: what has lost its own parent and
 * came to this one. Returns how many there were; theirs come next. */
int neapi_processes_kill(const pid_t *keep, int count);
/* How many processes come from this one, over any number of parents in between; end: kills them. */
int neapi_processes_below(bool end);
/* Processes and threads of this user. */
int neapi_processes_count(void);

#endif
