/* SPDX-License-Identifier: Apache-2.0 */
/* The shared memory between a rank and its worker: two regions, each written by one side only.
 *
 *   requests (the rank writes)     header | setup text | slots of message + payload
 *   answers  (the worker writes)   header | bulk | slots of message + payload
 *
 * Every request gets one answer, in any order, and no more requests are under way than there are
 * slots; so both rings have a free slot whenever they are written to. The setup text counts as
 * request 0. The rank trusts nothing that stands in answers: a policy may write anywhere in its
 * process. */
#ifndef NEAP_CHANNEL_H
#define NEAP_CHANNEL_H

#include "base/status.h"

#include <stdbool.h>

typedef struct {
  int64_t request_bytes, answer_bytes, bulk_bytes, setup_bytes;
  int32_t slots;
} neapi_channel_size;

typedef struct {
  neapi_channel_size size;
  _Alignas(64) uint32_t sent; /* requests so far; the worker sleeps on it */
  uint32_t asleep;            /* the rank sleeps on answers.sent */
} neapi_requests;

typedef struct {
  uint32_t sent;   /* answers so far; the rank sleeps on it */
  uint32_t asleep; /* the worker sleeps on requests.sent */
  uint32_t turn;   /* odd while a hook runs */
  int32_t kind, layer;
  int64_t step;
  double since; /* neap_clock of its start */
} neapi_answers;

/* Both regions in this process. */
typedef struct {
  neapi_requests *requests;
  neapi_answers *answers;
  int64_t requests_bytes, answers_bytes;
} neapi_channel;

/* Bytes of the regions for a size. */
int64_t neapi_requests_bytes(const neapi_channel_size *size);
int64_t neapi_answers_bytes(const neapi_channel_size *size);

char *neapi_channel_setup(const neapi_channel *channel);
void *neapi_channel_bulk(const neapi_channel *channel);
/* Slot of the index-th request or answer. */
neap_policy_message *neapi_channel_request(const neapi_channel *channel,
                                           const neapi_channel_size *size, uint32_t index);
neap_policy_message *neapi_channel_answer(const neapi_channel *channel,
                                          const neapi_channel_size *size, uint32_t index);
void *neapi_message_payload(neap_policy_message *message);

/* Says that *count has a new value, and wakes the other side if it sleeps on it. */
void neapi_channel_publish(uint32_t *count, uint32_t value, const uint32_t *other_asleep);
/* Waits until *count differs from old, at most seconds: some microseconds awake, then asleep, which
 * *asleep tells the other side. Returns whether it differs. */
bool neapi_channel_wait(const uint32_t *count, uint32_t old, uint32_t *asleep, double seconds);

/* ---- spawner --------------------------------------------------------------------------------- */

/* Asks the spawner for a worker process with the two regions; *control is a socket whose closing
 * kills it. trusted: without a sandbox. */
int neapi_spawner_spawn(int requests_fd, int answers_fd, bool trusted, int *control);
/* Whether the process behind control has ended; *status is then its wait status, -1 if that is not
 * known, or NEAPI_NOT_STARTED less the number of the error for which it was not started. */
enum { NEAPI_NOT_STARTED = -1000 };
bool neapi_spawner_ended(int control, int *status);

#endif
