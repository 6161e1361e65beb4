/* SPDX-License-Identifier: Apache-2.0 */
/* Status names and the thread's error message. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local char message[MESSAGE_BYTES];

#define STATUS_NAME(name) #name,
static const char *const names[] = {NEAP_STATUS_LIST(STATUS_NAME)};

const char *neap_status_name(int status)
{
  return status >= 0 && status < NEAP_STATUS_COUNT ? names[status] : "?";
}

const char *neap_error_message(void)
{
  return message;
}

int neapi_fail(int status, const char *format, ...)
{
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  return status;
}

void neapi_fail_prefix(const char *format, ...)
{
  char old[MESSAGE_BYTES];
  memcpy(old, message, sizeof old);
  va_list args;
  va_start(args, format);
  int used = vsnprintf(message, sizeof message, format, args);
  va_end(args);
  if (used < 0 || used > MESSAGE_BYTES - 3)
    return;
  memcpy(message + used, ": ", 3);
  size_t most = sizeof message - (size_t)used - 3, length = strlen(old);
  length = length < most ? length : most;
  memcpy(message + used + 2, old, length);
  message[(size_t)used + 2 + length] = 0;
}
