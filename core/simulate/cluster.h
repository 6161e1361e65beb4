/* SPDX-License-Identifier: Apache-2.0 */
/* The inside of a simulated cluster: what its files share.
 *
 * A program is a list of operations that all ranks execute. An operation of compute takes a rank
 * some time. An exchange is one transfer for every group of ranks: the transfer begins when its
 * last rank has arrived, and ends for all its ranks at once. Each rank works through its queues in
 * order: compute, and one for each stream of exchanges (or one for all of them, if the links are
 * queued).
 *
 * While it moves, a transfer uses every link of its ranks in proportion to the bytes that pass
 * there: alone, it moves as fast as its slowest link allows; where transfers want more than a link
 * has, the link divides itself evenly, and what one transfer does not need the others get. */
#ifndef NEAP_CLUSTER_H
#define NEAP_CLUSTER_H

#include "layout/topology.h"

#include <stdbool.h>

enum { NEAPI_AFTER = 8 };

/* One group's part of an exchange. */
typedef struct {
  int32_t op;
  int32_t first, last;           /* ranks [first, last) */
  int32_t first_node, last_node; /* nodes [first_node, last_node) */
  int32_t missing;               /* ranks that have not arrived */
  int32_t latest;                /* rank that arrived last; of several, the one seen first */
  int32_t computing;             /* ranks that compute while it moves; counted if that matters */
  int32_t version;               /* of the planned end: older events are void */
  int64_t visit;                 /* last visit that saw it */
  double begin;                  /* when the last rank arrived */
  double set_up;                 /* seconds until its messages move */
  double alone;                  /* least seconds of messages of their size, or 0 */
  double full;                   /* seconds that it moves if it is alone */
  double left, rate, since;      /* seconds left at full speed, share of that speed, since when */
  bool moving;
} neapi_sim_transfer;

typedef struct {
  int32_t stream, queue;
  int32_t index; /* in its queue */
  int32_t count, after[NEAPI_AFTER];
  double common;  /* of compute: seconds of every rank */
  double *each;   /* [ranks] compute: more seconds; exchange: seconds of the ports; or NULL */
  double *uplink; /* [nodes] exchange: seconds of the nodes' links, or NULL */
  int32_t group;  /* of an exchange: as neap_cluster_exchange takes it */
  int32_t peers;  /* likewise */
  int32_t transfer_count;
  neapi_sim_transfer *transfers; /* [transfer_count] */
  double *begin, *end;           /* [ranks] */
} neapi_cluster_op;

typedef struct {
  double time;
  int64_t order;                /* of equal times, first come first served */
  neapi_sim_transfer *transfer; /* that moves on; NULL: a rank has computed */
  int32_t rank, version;
} neapi_sim_event;

/* Where a rank is in its program. */
typedef struct {
  int32_t cursor[NEAP_STREAMS]; /* operations done, of each queue */
  bool arrived[NEAP_STREAMS];   /* waits for or takes part in the transfer at the cursor */
  double last[NEAP_STREAMS];    /* end of the last one */
  neapi_sim_transfer *moving[NEAP_STREAMS];
  /* An operation of compute in progress, where exchanges may slow it: */
  bool working;
  int32_t version; /* of its planned end */
  double left, rate, since;
} neapi_sim_rank;

typedef struct neapi_block neapi_block;

struct neap_cluster {
  neap_topology *topology;
  neap_links links;
  neapi_cluster_op *ops;
  int32_t count, capacity;
  int32_t *queue[NEAP_STREAMS]; /* ids of operations, in order */
  int32_t queued[NEAP_STREAMS];
  neapi_block *blocks, *block; /* memory of the program; the one in use */
  bool done;                   /* has been run since it was changed */
  bool slowed[2];              /* interference: with work, with exchanges, is any */
  double total;                /* seconds of the step */

  neapi_sim_rank *state; /* [ranks] */
  double *rate_at; /* [queues][ranks] a transfer's possible rate on each of its nodes, from its
                              first rank on */
  neapi_sim_event *events; /* heap */
  int64_t event_count, event_capacity, order, visit;
  neapi_sim_transfer **seen; /* [queues x ranks] scratch */
  double *wants;             /* [queues x ranks] scratch */
};

/* Memory that lives as long as the program; NULL: out of memory, reported. */
void *neapi_cluster_take(neap_cluster *cluster, int64_t bytes);

/* Sets up what messages to peers cost every transfer of an exchange, before its bytes become
 * seconds; port[ranks]: bytes, or NULL. */
void neapi_cluster_set_up(const neap_cluster *cluster, neapi_cluster_op *op, const double *port);

/* Posts an event of a transfer; those that were posted for it before are void. */
int neapi_cluster_post(neap_cluster *cluster, double time, neapi_sim_transfer *transfer);
/* The same of the computation of a rank. */
int neapi_cluster_post_work(neap_cluster *cluster, double time, int32_t rank);
/* Takes the first event out; there is one. */
neapi_sim_event neapi_cluster_take_first(neap_cluster *cluster);

/* A transfer of the cluster's links starts or has stopped to move at a time: changes the rates and
 * planned ends of all transfers that it meets. */
int neapi_cluster_share(neap_cluster *cluster, const neapi_sim_transfer *changed, double time);

/* How long an exchange takes, times what it would undisturbed. */
double neapi_cluster_slowdown(const neap_cluster *cluster, const neapi_sim_transfer *transfer);
/* A transfer's rate may have changed, though not its share of links. */
int neapi_cluster_update(neap_cluster *cluster, neapi_sim_transfer *transfer, double time);
/* What moves on a rank has changed: so may how fast it computes. */
int neapi_cluster_pace(neap_cluster *cluster, int32_t rank, double time);
/* A rank begins (1) or ends (-1) to compute: so may what moves there. */
int neapi_cluster_computes(neap_cluster *cluster, int32_t rank, int32_t change, double time);

#endif
