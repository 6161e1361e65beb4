/* SPDX-License-Identifier: Apache-2.0 */
/* A filter of system calls around a policy's process: sandbox.c says what passes. */
#ifndef NEAP_SANDBOX_H
#define NEAP_SANDBOX_H

#include <stdbool.h>

/* Whether this kernel, on this kind of processor, has such filters. */
bool neapi_sandbox_available(void);
/* Puts the filter around this process, for good. Errors: ABSENT. */
int neapi_sandbox_enter(void);

#endif
