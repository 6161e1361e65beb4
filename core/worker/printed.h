/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker prints, passed on to stderr as far as that is readable: a policy that prints
 * without end fills no disk. */
#ifndef NEAP_PRINTED_H
#define NEAP_PRINTED_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  int fd;         /* end of the pipe to read from; -1: there is none */
  double since;   /* when the second began that is being counted */
  int64_t second; /* bytes passed on in it */
  int64_t all;    /* and ever */
  bool told;      /* that more is not shown, in this second or for good */
} neapi_printed;

/* Opens a pipe; *end is what the worker writes to. Returns whether it could. */
bool neapi_printed_open(neapi_printed *printed, int *end);
/* Passes on what is there, without waiting for more. */
void neapi_printed_forward(neapi_printed *printed);
/* The same once more, and closes the pipe. */
void neapi_printed_close(neapi_printed *printed);

#endif
