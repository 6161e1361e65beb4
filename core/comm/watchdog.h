/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog: one thread of the process that looks whether operations end. If one takes longer
 * than the limit, it asks the other processes where they are, names the rank that is missing, lets
 * all operations fail with that, and ends the process if that does not help.
 */
#ifndef NEAP_WATCHDOG_H
#define NEAP_WATCHDOG_H

#include "comm/flight.h"

/* How the watchdogs of processes talk: a state, or a question (which brings one along). */
typedef struct {
  void (*send)(int32_t peer, const void *data, int32_t bytes);
  bool (*receive)(void *data, int32_t bytes); /* false: nothing has come */
} neapi_watch_peers;

/* Starts it, if it does not run. peers: NULL where all ranks are threads of this process. */
void neapi_watchdog_start(const neapi_watch_peers *peers);
/* Processes are being connected, or that has ended: it may take as long as an operation, but at
 * least half a minute. */
void neapi_watchdog_connecting(bool begins);
/* Seconds that an operation may take; 0: any. */
double neapi_watchdog_limit(void);
/* An operation on a GPU has taken too long. */
void neapi_watchdog_late(const neapi_call *call, double begun);
/* Why all operations are to fail, or NULL. */
const char *neapi_watchdog_verdict(void);

#endif
