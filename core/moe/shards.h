/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a shard store, shared by the store (shards.c) and its transfers (transfer.c). */
#ifndef NEAP_SHARDS_H
#define NEAP_SHARDS_H

#include "device/buffer.h"
#include "layout/topology.h"

#include <e4m3.h>
#include <kernels.h>
#include <stdbool.h>

/* Elements begin to end - 1 of an expert. */
typedef struct {
  int64_t begin, end;
} neapi_shard_range;

/* What unshards read of the masters, in one of the ways to travel. */
typedef struct {
  int64_t *current_at; /* [experts + 1] byte where an expert's range starts in current */
  int64_t *working_at; /* [experts + 1] the same of working */
  char *current;       /* of dtype or packed: the master's parameters, as refresh last saw them, or
                          part[NEAP_SHARD_PARAMETER] where that is of dtype; NULL: not needed */
  char *working;       /* current where the group is all ranks */
} neapi_shard_copy;

struct neap_shards {
  neap_comm *comm;
  neap_comm *reduces; /* comm, or another one for the way back of gradients */
  neap_topology *topology;
  const neapi_kernels *kernels;     /* of dtype */
  const neapi_kernels *acc_kernels; /* of acc: what the optimiser and sums of gradients use */
  int dtype, acc; /* of working parameters; of the master's arrays and gradients */
  bool exact;
  bool resident;                       /* experts are whole at their homes */
  bool packed;                         /* working parameters are kept, and travel, in FP8 */
  bool either;                         /* that may change */
  int64_t granule;                     /* of its ranges */
  int64_t element;                     /* bytes of a working parameter in a slot */
  int32_t rank, ranks, experts, slots; /* slots: of this rank */
  int32_t *group_first;                /* [ranks] first rank of a rank's shard group */
  int32_t *group_size;                 /* [ranks] */
  int64_t *sizes;                      /* [experts] */
  int64_t slot_size, count, owned, largest_range;
  int64_t *master_at; /* [experts + 1] where an expert's range starts in the master's arrays */
  char *part[4];      /* by neap_shard_part: [owned] of acc */
  neapi_shard_copy now, other; /* the way they travel, and the one that they do not just now */
  neapi_memory_kind memory;    /* of part and copies */
  neapi_buffer counts;         /* [ranks] of get */
  neapi_buffer scratch;        /* of finishing a reduce, in the same memory */
  neap_transfer *active, *idle;
  neap_shard_traffic traffic;
};

/* Fails unless this is a way to travel; name: who is asked to. */
int neapi_travel_check(const char *name, int travel);

/* Which elements of an expert a rank owns, and which it sends to its shard group. */
neapi_shard_range neapi_shards_master(const neap_shards *shards, int32_t expert, int32_t rank);
neapi_shard_range neapi_shards_working(const neap_shards *shards, int32_t expert, int32_t rank);

/* Bytes that so many working parameters of an expert take, from its first on. */
static inline int64_t neapi_shards_bytes(const neap_shards *shards, int64_t elements)
{
  return shards->packed ? neapi_e4m3_bytes(elements) : elements * shards->element;
}

/* Whether a slot's expert is resident on its rank, so that the slot needs no row of a buffer. */
bool neapi_shards_resident(const neap_shards *shards, int32_t expert, int32_t rank);
/* The working parameters of an expert that is resident on this rank; NULL: it is not. */
const void *neapi_shards_own(const neap_shards *shards, int32_t expert);

/* Waits until a slot of this rank (from 0) has its expert's parameters; *end: then the slots before
 * it, from this one, have theirs too, if *end is not fewer. Slots are asked for in order. */
int neapi_transfer_wait_slot(neap_transfer *unshard, int32_t slot, int32_t *end);

/* Waits for what is under way and frees all transfers. */
void neapi_transfers_close(neap_shards *shards);

#endif
