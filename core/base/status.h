/* SPDX-License-Identifier: Apache-2.0 */
/* How the engine reports failures: internal, shared by all objects of core. */
#ifndef NEAP_STATUS_H
#define NEAP_STATUS_H

#include "neap.h"

/* Writes this thread's message and returns status, so that "return neapi_fail(...)" reads well.
 * The first function that knows the cause calls it; callers pass the status on unchanged. */
int neapi_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "prefix: " before this thread's message, where the caller knows more. */
void neapi_fail_prefix(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
