/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timelines: the exchanges of a shard store, recorded by whatever thread runs them, also when the
 * recorder's handle has gone.
 * Runs on: threads.
 */
#include "comm/threads.h"

#include <stdlib.h>

/* ---- exchanges ------------------------------------------------------------------------------- */

typedef struct {
  neap_topology *topology;
  neap_layout *layout;
  neap_shards *shards;
  neap_tensor *buffer;
} store;

static void open_store(store *s, neap_comm *comm)
{
  int32_t ranks = neap_comm_size(comm), slots[MOST], experts[2 * MOST];
  int64_t sizes[MOST];
  for (int r = 0; r < ranks; r++) {
    slots[r] = 2;
    experts[2 * r] = r;
    experts[2 * r + 1] = (r + 1) % ranks;
    sizes[r] = 100 + 7 * r;
  }
  check(!neap_topology_open(ranks, ranks, NULL, slots, NULL, NULL, &s->topology) &&
            !neap_layout_open(s->topology, &s->layout) && !neap_layout_set(s->layout, experts) &&
            !neap_shards_open(comm, s->topology, NEAP_F32, NEAP_TRAVEL_DTYPE, 0, sizes,
                              NEAP_GROUP_ALL, &s->shards),
        "%s", neap_error_message());
  int64_t dims[2] = {2, neap_shards_slot_size(s->shards)};
  check(!neap_tensor_open(NEAP_F32, 2, dims, &s->buffer), "%s", neap_error_message());
}

static void close_store(store *s)
{
  neap_tensor_close(s->buffer);
  neap_shards_close(s->shards);
  neap_layout_close(s->layout);
  neap_topology_close(s->topology);
}

static void unshard(store *s, neap_transfer **transfer)
{
  check(!neap_shards_unshard_start(s->shards, s->layout, s->buffer, 1, transfer), "%s",
        neap_error_message());
}

/* Unshards on their own stream, one after the other; waits on the compute stream say for what. */
static void check_recorded(const neap_timeline *timeline, int64_t unshards, int32_t layers)
{
  neap_span spans[64];
  int64_t kept = neap_timeline_spans(timeline, 64, spans), seen = 0;
  double end = 0;
  for (int64_t i = 0; i < kept; i++) {
    if (spans[i].id == NEAP_SPAN_WAIT)
      check(spans[i].stream == NEAP_COMPUTE && spans[i].waits_for == NEAP_UNSHARD &&
                spans[i].step == 5,
            "a wait of stream %d for %d", spans[i].stream, spans[i].waits_for);
    if (spans[i].stream != NEAP_UNSHARD)
      continue;
    check(spans[i].begin >= end && spans[i].layer == seen % layers && spans[i].step == 5,
          "unshard %lld of layer %d", (long long)seen, spans[i].layer);
    end = spans[i].end;
    seen++;
  }
  check(seen == unshards, "%lld unshards on record", (long long)seen);
}

static void test_exchanges(neap_comm *comm, neap_world *world, int which)
{
  (void)world, (void)which;
  store s = {0};
  neap_timeline *timeline;
  neap_transfer *transfer = NULL;
  open_store(&s, comm);
  check(!neap_timeline_open(64, &timeline), "%s", neap_error_message());
  unshard(&s, &transfer);
  neap_timeline_use(timeline);
  neap_timeline_step(5);
  neap_transfer_wait(transfer); /* started before: only the wait, if there was one */
  neap_timeline_clear(timeline);
  for (int32_t i = 0; i < 6; i++) {
    neap_timeline_layer(i % 3);
    unshard(&s, &transfer);
    neap_transfer_wait(transfer);
  }
  check_recorded(timeline, 6, 3);
  unshard(&s, &transfer);
  neap_timeline_close(timeline);
  check(neap_timeline_begin(NEAP_SPAN_HEAD) == 0, "a closed timeline records");
  neap_transfer_wait(transfer);
  close_store(&s);
}

int main(void)
{
  for (int ranks = 1; ranks <= 4; ranks++)
    run_threads(ranks, test_exchanges, 0);
  return check_done();
}
