/* SPDX-License-Identifier: Apache-2.0 */
/*
 * neap.h: the public interface of the Neap engine, and its only public header.
 *
 * Conventions, valid for every function unless its comment says otherwise:
 *   - int results are a neap_status; on failure neap_error_message() tells operation, value,
 *     allowed range and where, and no output has been written;
 *   - open gives a handle that the caller closes; close(NULL) does nothing; a child keeps its
 *     parent alive, so the order of closing does not matter;
 *   - sizes and token counts are int64_t; ids (rank, node, expert, slot) are int32_t from 0;
 *   - "collective" functions are called by every rank of the communicator, in the same order;
 *     all others are local;
 *   - buffers that the caller passes stay the caller's and are not kept past the call, except
 *     by asynchronous functions, which use them until their request has been waited for.
 *
 * The Lua binding's cdef is this file run through the preprocessor: declarations only.
 */
#ifndef NEAP_H
#define NEAP_H

#ifdef NEAP_CDEF /* for LuaJIT, which knows the fixed-size integers by itself */
#define NEAP_API
#else
#include <stdint.h>
#define NEAP_API __attribute__((visibility("default")))
#endif

/* ---- status ---------------------------------------------------------------------------------- */

#define NEAP_STATUS_LIST(X)                                                                        \
  X(OK)       /* done */                                                                           \
  X(ARGUMENT) /* an argument is out of its range */                                                \
  X(SHAPE)    /* shapes or types of the arguments do not fit together */                           \
  X(MEMORY)   /* not enough memory */                                                              \
  X(SYSTEM)   /* the operating system refused */                                                   \
  X(LAYOUT)   /* a layout is not valid for its topology */                                         \
  X(SPLIT)    /* a split does not conserve tokens or leaves the layout */                          \
  X(FORMAT)   /* a file is damaged, truncated or of another format */                              \
  X(COMM)     /* a transport failed, or ranks disagree */                                          \
  X(POLICY)   /* a policy failed: error, crash, deadline, invalid answer */                        \
  X(ABSENT)   /* this build or machine lacks what was asked for */                                 \
  X(BUSY)     /* another process has it */

#define NEAP_STATUS_ENUM(name) NEAP_##name,
typedef enum { NEAP_STATUS_LIST(NEAP_STATUS_ENUM) NEAP_STATUS_COUNT } neap_status;

/* "0.1.0 (release, avx2, openblas …)": version, build type and what was found at build time. */
NEAP_API const char *neap_version(void);
/* Name of a status ("ARGUMENT"), or "?" for a number that is none. */
NEAP_API const char *neap_status_name(int status);
/* Message of this thread's last failure; valid until the thread's next failure. */
NEAP_API const char *neap_error_message(void);
/* Seconds of a monotonic clock. */
NEAP_API double neap_clock(void);
/* Seconds since 1970. */
NEAP_API double neap_time(void);
/* Facts about this machine: name of the index-th ("processor", "processors", "memory", "blas",
 * "mpi") and its value, or NULL past the last. */
NEAP_API const char *neap_machine(int32_t index, const char **value);
/* Seconds of processor time that the calling thread has used. */
NEAP_API double neap_thread_seconds(void);
/* Processors that this process may run on. */
NEAP_API int32_t neap_processors(void);
/* Which ones: set[64] has a bit for each of the first 4096. */
NEAP_API void neap_processor_set(uint64_t *set);

/* ---- random: counter-based, so that a value depends on its key and not on who draws it ------- */

/* 64 random bits of (seed, stream, index). Source: SplitMix64 finaliser over a keyed counter. */
NEAP_API uint64_t neap_random_bits(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, 1), 53 bits. */
NEAP_API double neap_random_uniform(uint64_t seed, uint64_t stream, uint64_t index);
/* Standard normal (Box-Muller over two uniforms of the same key). */
NEAP_API double neap_random_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* ---- hashes, child processes ----------------------------------------------------------------- */

/* SHA-256 (FIPS 180-4) of bytes: 64 digits in small letters and a zero byte, at hex[65]. */
NEAP_API void neap_sha256(const void *data, int64_t bytes, char *hex);

/* A program that runs beside this one, in a process group of its own; it ends when the thread that
 * started it ends. */
typedef struct neap_child neap_child;
/* argv: program (found as the shell finds it) and arguments, NULL-terminated. names, values:
 * variables that its environment gets besides, names ending with NULL. stdin is empty; stdout and
 * stderr go to memory. For a process without MPI, CUDA or other threads. Errors: SYSTEM. */
NEAP_API int neap_child_open(const char *const *argv, const char *const *names,
                             const char *const *values, neap_child **out);
/* Copies what it has written to stdout, or to stderr, from a byte on; how many bytes it copied. */
NEAP_API int64_t neap_child_output(const neap_child *child, int errors, int64_t from, void *to,
                                   int64_t bytes);
/* 1 once the program has ended; status: its exit status, or 128 + the signal that ended it. */
NEAP_API int neap_child_ended(neap_child *child, int *status);
/* Asks the child's whole group to end (SIGINT), or kills it. */
NEAP_API void neap_child_stop(neap_child *child, int kill);
/* Kills what still runs. */
NEAP_API void neap_child_close(neap_child *child);
/* From now on SIGINT and SIGTERM are counted and do nothing else; the third ends the process. */
NEAP_API void neap_interrupts_catch(void);
NEAP_API int32_t neap_interrupts(void);

/* ---- devices --------------------------------------------------------------------------------- */

/* GPUs that CUDA finds; 0 where there are none, no driver or no GPU code in this build. */
NEAP_API int32_t neap_device_count(void);
/* The calling thread computes on a GPU from now on, or with -1 on the CPU, which it does at first.
 * Threads may share a GPU; each has a stream of its own. What is opened on a GPU is used and closed
 * by threads that use that GPU. On a GPU, tensors of reals (F32, BF16) are in its memory and those
 * of integers in page-locked host memory; operations return when they are enqueued, apart from
 * those that give a number to the caller; transfers and exchanges between ranks start when what
 * came before them on the starter's stream is done. F64 is there for exact sums alone. Errors:
 * ABSENT, SYSTEM. */
NEAP_API int neap_device_use(int32_t ordinal);
/* The calling thread enqueues on this stream of its GPU from now on (a cudaStream_t of the
 * caller's, such as a framework's current one), so that its work and the caller's follow each other
 * without a wait; NULL: on its own again. It stays the caller's. Errors: ARGUMENT (the thread does
 * not use a GPU). */
NEAP_API int neap_device_stream(void *stream);
/* Waits for what the calling thread has enqueued. Errors: SYSTEM, if any of it failed. */
NEAP_API int neap_device_wait(void);
/* Writes name, compute capability and versions of CUDA and driver to text[size]. */
NEAP_API int neap_device_describe(int32_t ordinal, char *text, int64_t size);
/* Bytes of the calling thread's GPU. */
NEAP_API int neap_device_memory(int64_t *free_bytes, int64_t *total_bytes);
/* Bytes that tensors, shards, buffers and exchanges of all this process's ranks hold on the calling
 * thread's device: now, and at most since the last forget. Small things and what CUDA keeps for
 * itself are not counted. */
NEAP_API int neap_device_held(int64_t *now, int64_t *most);
NEAP_API int neap_device_forget_most(void);

/* ---- timeline: what the streams of a rank did, and when -------------------------------------- */

/* The streams of a rank: computation, and exchanges of tokens, of parameters, of gradients. */
typedef enum {
  NEAP_COMPUTE,
  NEAP_TOKENS,
  NEAP_UNSHARD,
  NEAP_REDUCE,
  NEAP_LATE, /* parameters that plans on the exact counts have changed */
  NEAP_STREAMS
} neap_stream;

/* What streams do, in measured and in simulated timelines alike: name, phase. */
#define NEAP_SPAN_LIST(X)                                                                          \
  X(STEP, "step", "") /* a whole training step */                                                  \
  X(PLAN, "plan", "") /* what the policy costs the rank: layouts, splits */                        \
  X(HOST, "host", "") /* a GPU's stream waits for what the host finds out or decides */            \
  X(EMBED, "embed", "forward")                                                                     \
  X(ATTENTION, "attention", "forward") /* with its normalisation */                                \
  X(ROUTE, "route", "forward")         /* the router */                                            \
  X(COUNTS, "counts", "forward")       /* tokens: gathering of the counts */                       \
  X(DISPATCH, "dispatch", "forward")   /* tokens: to the experts; compute: placing them */         \
  X(EXPERT, "expert", "forward")       /* the experts' products */                                 \
  X(FFN, "ffn", "forward")             /* those of shared experts and of layers without experts */ \
  X(COMBINE, "combine", "forward")     /* tokens: the way back */                                  \
  X(FINISH, "finish", "forward")       /* weighted sums of what has come back */                   \
  X(HEAD, "head", "forward")                                                                       \
  X(LOSS, "loss", "forward")                                                                       \
  X(HEAD_BACK, "head", "backward")                                                                 \
  X(FINISH_BACK, "finish", "backward")                                                             \
  X(DISPATCH_BACK, "dispatch", "backward")                                                         \
  X(EXPERT_BACK, "expert", "backward") /* gradients of inputs, then of weights */                  \
  X(FFN_BACK, "ffn", "backward")                                                                   \
  X(COMBINE_BACK, "combine", "backward")                                                           \
  X(ROUTE_BACK, "route", "backward")                                                               \
  X(ATTENTION_BACK, "attention", "backward")                                                       \
  X(EMBED_BACK, "embed", "backward")                                                               \
  X(OPTIMIZER, "optimizer", "step")                                                                \
  X(UNSHARD, "unshard", "") /* unshard: parameters travel; compute: copies within the rank */      \
  X(LATE, "late", "")       /* late: parameters of slots that a plan on the counts has changed */  \
  X(REDUCE, "reduce", "")   /* reduce: gradients travel; compute: adding them up */                \
  X(REFRESH, "refresh", "") /* unshard: new parameters to the shard groups */                      \
  X(WAIT, "wait", "")       /* compute: for an exchange, that is, exposed communication */

#define NEAP_SPAN_ENUM(id, name, phase) NEAP_SPAN_##id,
typedef enum { NEAP_SPAN_LIST(NEAP_SPAN_ENUM) NEAP_SPANS } neap_span_id;

/* Name and phase ("forward", "backward", "step" or "") by number, or NULL past the last. */
NEAP_API const char *neap_span_name(int32_t id);
NEAP_API const char *neap_span_phase(int32_t id);
NEAP_API const char *neap_stream_name(int32_t stream);

typedef struct {
  double begin, end; /* seconds: neap_clock */
  int64_t step;
  int32_t id, stream;   /* neap_span_id, neap_stream */
  int32_t layer, chunk; /* -1: none */
  int32_t waits_for;    /* of a wait: the stream, or -1 for any other exchange */
} neap_span;

/* A recorder of one rank's spans: a ring, so the latest spans, as many as its capacity, are kept.
 * Recording allocates nothing. The spans of a stream nest or are disjoint. */
typedef struct neap_timeline neap_timeline;

NEAP_API int neap_timeline_open(int64_t capacity, neap_timeline **out);
/* Not before the thread that uses it has stopped to, or is the caller. */
NEAP_API void neap_timeline_close(neap_timeline *timeline);
/* From now on the engine records what the calling thread does, and the exchanges that it starts,
 * wherever they run. NULL, at first: nothing, at no cost. On a GPU the bounds of spans are events
 * in its streams, which the host does not wait for; resolve does, afterwards. */
NEAP_API void neap_timeline_use(neap_timeline *timeline);
/* Step and layer (-1, at first: none) of the calling thread's spans and exchanges to come. The
 * second returns the layer until now. */
NEAP_API void neap_timeline_step(int64_t step);
NEAP_API int32_t neap_timeline_layer(int32_t layer);
/* A span of the compute stream in the calling thread's recorder: begin gives the time that end
 * takes. Both are told to a profiler that knows NVTX; without a recorder they do nothing else. */
NEAP_API double neap_timeline_begin(int id);
NEAP_API void neap_timeline_end(int id, double begin);
NEAP_API void neap_timeline_clear(neap_timeline *timeline);
/* Gives spans of a GPU the times at which it came to their bounds, on neap_clock's scale, to some
 * microseconds; those of one rank agree among each other to 1. To be called once, when their last
 * exchange has been waited for and before they are read; waits for the GPU. Errors: SYSTEM. */
NEAP_API int neap_timeline_resolve(neap_timeline *timeline);
/* Spans that are there; *lost: earlier ones that were overwritten since the last clear. */
NEAP_API int64_t neap_timeline_count(const neap_timeline *timeline, int64_t *lost);
/* Copies the latest spans, at most capacity, in the order of their ends; returns how many. */
NEAP_API int64_t neap_timeline_spans(const neap_timeline *timeline, int64_t capacity,
                                     neap_span *out);

/* Where the time of a rank goes, of its spans, measured or simulated alike; all figures of exposed
 * communication are these. */
typedef struct {
  double seconds;   /* of its outermost spans of the compute stream: a step */
  double computing; /* own time of the spans of the compute stream that neap_span_computes tells */
  /* Exposed communication: of the waits of the compute stream, by the stream of the exchange that
   * they are for. [NEAP_COMPUTE]: for any other exchange, and for the end of a simulated step. */
  double exposed[NEAP_STREAMS];
} neap_time_use;

/* Whether the compute stream does in such a span what the step is for: no waits, copies, plans. */
NEAP_API int neap_span_computes(int32_t id);
/* spans: of one rank, in the order of their ends, those inside one before it. Errors: MEMORY. */
NEAP_API int neap_spans_time_use(const neap_span *spans, int64_t count, neap_time_use *out);
/* Of what a recorder holds, after resolve. */
NEAP_API int neap_timeline_time_use(const neap_timeline *timeline, neap_time_use *out);

/* ---- communicators --------------------------------------------------------------------------- */

/* A group of ranks. Operations of one communicator run in the order in which they were started;
 * those of different communicators run side by side, and progress while the caller computes. */
typedef struct neap_comm neap_comm;
typedef struct neap_request neap_request;
/* Meeting point of the ranks of a local (threads) communicator. */
typedef struct neap_world neap_world;

typedef enum { NEAP_F32, NEAP_F64, NEAP_I32, NEAP_I64, NEAP_BF16, NEAP_U8 } neap_dtype;
typedef enum { NEAP_SUM, NEAP_MAX, NEAP_MIN } neap_reduction;

/* One piece of an exchange: bytes at data, to or from peer. */
typedef struct {
  void *data;
  int64_t bytes;
  int32_t peer;
} neap_message;

/* Bytes of one element, or 0 for a number that is no dtype. */
NEAP_API int64_t neap_dtype_size(int dtype);

NEAP_API int neap_world_open(int32_t ranks, neap_world **out);
NEAP_API void neap_world_close(neap_world *world);
/* Makes every pending and later operation of the world fail with COMM: for a rank that died. */
NEAP_API void neap_world_abort(neap_world *world, const char *why);
/* Collective over the threads of the world. */
NEAP_API int neap_comm_open_local(neap_world *world, int32_t rank, neap_comm **out);
/* Collective over MPI_COMM_WORLD; starts MPI (thread support multiple) if it is not started. */
NEAP_API int neap_comm_open_mpi(neap_comm **out);
/* As open_mpi, for ranks that compute on GPUs: buffers on a GPU travel by NCCL, those of the host
 * by MPI. The calling thread computes on the GPU with the number of the rank on its host from now
 * on; where ranks outnumber GPUs they share them in turn. NCCL is found at run time: libnccl.so.2,
 * or what the environment's NEAP_NCCL names; 2.14 or later, and 2.30 or later where ranks share a
 * GPU. An operation that NCCL fails, or that is not done in time (neap_watch), fails the
 * communicator with COMM. Errors: ABSENT, with what to install. */
NEAP_API int neap_comm_open_nccl(neap_comm **out);
/* The same for the ranks of a communicator, however it was opened, whose transport carries what is
 * in host memory; it may be closed before. Every rank computes on the GPU that its calling thread
 * uses (neap_device_use). Collective. Errors: as open_nccl, ARGUMENT (no GPU in use). */
NEAP_API int neap_comm_open_nccl_over(neap_comm *comm, neap_comm **out);
/* Where the other ranks reach this process, for neap_comm_open_tcp: a port of one of this host's
 * addresses; 127.0.0.1 where all ranks are on one host. Errors: ARGUMENT, SYSTEM, MEMORY. */
typedef struct neap_listener neap_listener;
NEAP_API int neap_listener_open(const char *host, neap_listener **out);
NEAP_API int32_t neap_listener_port(const neap_listener *listener);
/* Once the communicator is open it is needed no more. */
NEAP_API void neap_listener_close(neap_listener *listener);
/* Collective, for processes that any launcher has started: buffers of the host travel over TCP.
 * hosts[ranks], ports[ranks]: of all ranks' listeners. key: the same on all ranks, and nobody
 * else's: whoever connects has to show it; what travels is not encrypted. Errors: ARGUMENT, SYSTEM,
 * MEMORY, COMM (a rank cannot be reached, or has not come in the time of neap_watch). */
NEAP_API int neap_comm_open_tcp(const neap_listener *listener, int32_t rank, int32_t ranks,
                                const char *const *hosts, const int32_t *ports, uint64_t key,
                                neap_comm **out);
/* Version and path of the NCCL that would be used, and whether ranks could share a GPU, in
 * text[size]. Errors: ABSENT. */
NEAP_API int neap_nccl_describe(char *text, int64_t size);
/* The training step of the operations that the calling thread starts from now on, for errors; -1,
 * at first: none. */
NEAP_API void neap_comm_step(int64_t step);
/* A thread of the process looks whether operations end. If one takes longer than so many seconds
 * (600 at first; 0: no limit), all operations of all ranks fail with COMM and a verdict: which rank
 * has not reached which operation, and where it is. For programs: exit_status, if not 0, is that
 * of a process which 2 s later has not ended by itself (it then tells the verdict, unless that was
 * told); folder, if not NULL, is where the flight recorder is written to. Call it before
 * communicators are opened. */
NEAP_API void neap_watch(double seconds, int32_t exit_status, const char *folder);
/* The verdict, waited for while one is being reached; NULL: nothing has hung. *tell, unless NULL:
 * whether the caller is to tell it, as one of all ranks is. */
NEAP_API const char *neap_watch_verdict(int32_t *tell);
/* In a signal's handler: SIGUSR1 writes the flight recorder, any other also ends the process by the
 * signal. 0: nobody watches, and the handler has to end it. */
NEAP_API int32_t neap_watch_signal(int32_t number);
/* Writes the last 256 operations of every rank of the process as JSON to the folder that neap_watch
 * was given; returns the file's path, owned by the library, or NULL. */
NEAP_API const char *neap_flight_write(const char *reason);
/* Collective: a communicator of the same ranks with an order of its own. */
NEAP_API int neap_comm_duplicate(neap_comm *comm, neap_comm **out);
/* Collective: ranks that pass the same colour form a communicator, in their old order. */
NEAP_API int neap_comm_split(neap_comm *comm, int32_t colour, neap_comm **out);
/* Collective over the ranks of comm. Waits for what was started. */
NEAP_API void neap_comm_close(neap_comm *comm);
NEAP_API int32_t neap_comm_rank(const neap_comm *comm);
NEAP_API int32_t neap_comm_size(const neap_comm *comm);
/* Its transport: NAME of the neap_comm_open_NAME that it comes from. */
NEAP_API const char *neap_comm_transport(const neap_comm *comm);
/* Bytes that this rank has sent to other ranks over comm since it was opened. */
NEAP_API int64_t neap_comm_bytes_sent(const neap_comm *comm);

/* Collective. Results are the same to the bit under every transport: reductions add in rank
 * order. */
NEAP_API int neap_comm_barrier(neap_comm *comm);
NEAP_API int neap_comm_broadcast(neap_comm *comm, void *data, int64_t bytes, int32_t root);
/* data[count], in place. dtype: F32, F64, I32, I64. Sums of integers wrap around; a NaN of any rank
 * stays a NaN under every operation. */
NEAP_API int neap_comm_all_reduce(neap_comm *comm, void *data, int64_t count, int dtype, int op);
/* Rank r contributes counts[r] elements at send; recv gets all, in rank order. send may be this
 * rank's part of recv. */
NEAP_API int neap_comm_all_gather(neap_comm *comm, const void *send, void *recv,
                                  const int64_t *counts, int dtype);
/* send: sum of counts elements; rank r gets the reduction of its counts[r] elements in recv. */
NEAP_API int neap_comm_reduce_scatter(neap_comm *comm, const void *send, void *recv,
                                      const int64_t *counts, int dtype, int op);
/* Elements for rank r: send_counts[r], packed in rank order; likewise for recv. */
NEAP_API int neap_comm_all_to_all(neap_comm *comm, const void *send, const int64_t *send_counts,
                                  void *recv, const int64_t *recv_counts, int dtype);
/* Grouped sends and receives: the i-th message to p pairs with p's i-th message from this rank and
 * has the same bytes. The lists are copied; what they point to is not. */
NEAP_API int neap_comm_exchange(neap_comm *comm, const neap_message *send, int64_t sends,
                                const neap_message *recv, int64_t recvs);
/* The same, and returns at once with a request that must be waited for. */
NEAP_API int neap_comm_exchange_start(neap_comm *comm, const neap_message *send, int64_t sends,
                                      const neap_message *recv, int64_t recvs, neap_request **out);
/* Blocks until the operation is done, frees the request and returns the operation's status. */
NEAP_API int neap_request_wait(neap_request *request);
/* 1 if a wait would not block. */
NEAP_API int neap_request_done(const neap_request *request);

/* ---- topology: ranks, nodes, slots, experts -------------------------------------------------- */

/* Immutable. Slots are numbered 0..S-1 over all ranks, rank by rank. */
typedef struct neap_topology neap_topology;

/* node_of[ranks]: node of each rank, from 0, never decreasing, without gaps; NULL: one node.
 * slots_of[ranks]: expert slots of each rank, >= 1.
 * cost[experts]: work of one token of an expert, > 0, relative; NULL: all 1.
 * speed[ranks]: relative speed of each rank, > 0; NULL: all 1. Neither costs nor speeds may differ
 * by a factor above 1e12.
 * Errors: ARGUMENT (ranges; more experts than slots). */
NEAP_API int neap_topology_open(int32_t ranks, int32_t experts, const int32_t *node_of,
                                const int32_t *slots_of, const double *cost, const double *speed,
                                neap_topology **out);
NEAP_API void neap_topology_close(neap_topology *topology);
/* From now on experts have homes, for systems that keep them there (plain expert parallelism):
 * every expert one in each run of group ranks, contiguous ranges of experts, by slots. Planner
 * static then keeps every expert at home, and planners that move load away from homes plan each run
 * by itself. To be called before anything else uses the topology. Errors: ARGUMENT (group does not
 * divide the ranks, or a run has fewer slots than there are experts). */
NEAP_API int neap_topology_set_homes(neap_topology *topology, int32_t group);
/* Ranks of such a run; 0: experts have no homes. */
NEAP_API int32_t neap_topology_homes(const neap_topology *topology);
/* Experts *first to *end - 1 are at home on a rank; without homes, what they would be in one
 * run. */
NEAP_API void neap_topology_home(const neap_topology *topology, int32_t rank, int32_t *first,
                                 int32_t *end);
NEAP_API int32_t neap_topology_ranks(const neap_topology *topology);
NEAP_API int32_t neap_topology_nodes(const neap_topology *topology);
NEAP_API int32_t neap_topology_experts(const neap_topology *topology);
/* S, the slots of all ranks together. */
NEAP_API int32_t neap_topology_slots(const neap_topology *topology);
/* node_of[ranks]; first_slot[ranks + 1], the last being S; first_rank[nodes + 1];
 * cost[experts]; speed[ranks]. Owned by the topology. */
NEAP_API const int32_t *neap_topology_node_of(const neap_topology *topology);
NEAP_API const int32_t *neap_topology_first_slot(const neap_topology *topology);
NEAP_API const int32_t *neap_topology_first_rank(const neap_topology *topology);
NEAP_API const double *neap_topology_cost(const neap_topology *topology);
NEAP_API const double *neap_topology_speed(const neap_topology *topology);

/* ---- layout: which expert is in which slot --------------------------------------------------- */

typedef struct neap_layout neap_layout;

/* A layout of the topology, at first empty (every slot -1, not valid). */
NEAP_API int neap_layout_open(neap_topology *topology, neap_layout **out);
NEAP_API void neap_layout_close(neap_layout *layout);
/* Takes over expert_of[S] after checking it: ids in range, every expert somewhere.
 * Errors: LAYOUT, naming rank, slot and expert; the layout then keeps its old content. */
NEAP_API int neap_layout_set(neap_layout *layout, const int32_t *expert_of);
/* Gives the experts that a rank has in base too the slots that they have there; the others follow
 * in the slots that are left. So only slots whose expert its rank lacks in base differ from it.
 * Errors: ARGUMENT if the topologies differ. */
NEAP_API int neap_layout_align(neap_layout *layout, const neap_layout *base);
/* Experts that travel when layout follows base: for each rank those that it has and lacked; their
 * number over all ranks, and in *most (may be NULL) of the rank with the most. */
NEAP_API int32_t neap_layout_arrivals(const neap_layout *base, const neap_layout *layout,
                                      int32_t *most);
NEAP_API int neap_layout_copy(neap_layout *to, const neap_layout *from);
/* expert_of[S]. Owned by the layout. */
NEAP_API const int32_t *neap_layout_experts(const neap_layout *layout);
NEAP_API neap_topology *neap_layout_topology(const neap_layout *layout);
/* Equal layouts have equal hashes, on every rank and machine. */
NEAP_API uint64_t neap_layout_hash(const neap_layout *layout);
/* Slots whose expert differs between two layouts of one topology. */
NEAP_API int32_t neap_layout_changed(const neap_layout *a, const neap_layout *b);

/* ---- splits: from layout and exact counts to tokens per replica ------------------------------ */

/* A split says for every source rank and slot how many of the source's tokens go there. It holds
 * its result until the next compute, and scratch memory so that later computes allocate nothing. */
typedef struct neap_split neap_split;

/* Rules, by name ("lite", "even", "local", "minimax"):
 *   lite     evenly over the replicas on the source's node if there are any, else over all (LAER);
 *   even     evenly over all replicas (EPLB);
 *   local    least max load of each node for its own tokens; experts the node lacks as in minimax;
 *   minimax  least max load over ranks (work: tokens x cost / speed) that whole tokens allow; among
 *            those splits, few tokens across nodes.
 * All are deterministic and conserve every token. */
NEAP_API int neap_split_open(neap_topology *topology, const char *rule, neap_split **out);
NEAP_API void neap_split_close(neap_split *split);
/* What work across nodes costs, for the rule minimax: the next splits make
 *   max_work + price x (work computed on another node than its source's) / ranks
 * least, within 0.0005 of that and the rounding to whole tokens (work: tokens x cost). 0, as at
 * first: the least max_work, whatever crosses; INFINITY: as local. A price of 1: a token that
 * crosses costs the mean rank as much as one more token of cost 1 to compute. Errors: ARGUMENT
 * (negative, or another rule). */
NEAP_API int neap_split_set_price(neap_split *split, double price);
NEAP_API int32_t neap_split_rule_count(void);
NEAP_API const char *neap_split_rule_name(int32_t index);
/* load[ranks][experts]: exact tokens. Computes what is common to all ranks. */
NEAP_API int neap_split_compute(neap_split *split, const neap_layout *layout, const int64_t *load);
/* Takes a given split instead: table[ranks][S]. Errors: SPLIT, naming rank, expert and slot, when
 * tokens are not conserved, negative, or on a slot that does not hold the expert. */
NEAP_API int neap_split_set(neap_split *split, const neap_layout *layout, const int64_t *load,
                            const int64_t *table);
/* row[S]: tokens of the source to every slot. */
NEAP_API int neap_split_row(const neap_split *split, int32_t source, int64_t *row);
/* column[ranks][slots of rank]: tokens that a rank's slots get from every source. */
NEAP_API int neap_split_column(const neap_split *split, int32_t rank, int64_t *column);
/* tokens[S]: tokens of every slot from all sources together. */
NEAP_API int neap_split_slot_tokens(const neap_split *split, int64_t *tokens);

/* What a split costs. */
typedef struct {
  double max_work;    /* largest work of a rank: sum of tokens x cost, / speed */
  double mean_work;   /* total work / total speed: the ideal */
  double imbalance;   /* max_work / mean_work; 1 when there are no tokens */
  double std_percent; /* standard deviation of the ranks' work, % of the mean */
  int64_t tokens;     /* routed tokens */
  int64_t inter_node; /* of them, computed on another node than their source's */
  int64_t remote;     /* of them, computed on another rank than their source */
} neap_balance;
NEAP_API int neap_split_balance(const neap_split *split, neap_balance *out);
/* Tokens on the links: ports[chunks][ranks], of those that a rank sends to other ranks and gets
 * from them the larger number; uplinks[chunks][nodes], the same for nodes. A chunk: the tokens for
 * a chunks-th of every rank's slots, which travel together. Errors: ARGUMENT (no chunk),
 * MEMORY. */
NEAP_API int neap_split_traffic(neap_split *split, int32_t chunks, int64_t *ports,
                                int64_t *uplinks);
/* Tokens on the nodes' links if a token that is routed to several experts of another node goes
 * there once and is passed on within the node, as DeepEP does it: uplinks[chunks][nodes], of those
 * that leave a node and those that come the larger number, expected. Counts do not tell which
 * experts a token has together: its top_k choices are taken for draws without return from as many
 * equal experts as have the same sum of squared shares, or for independent, whichever gives more
 * tokens. limit: nodes that a token may go to at most (node-limited routing); 0: any. Errors:
 * ARGUMENT, MEMORY. */
NEAP_API int neap_split_node_traffic(neap_split *split, int32_t chunks, int32_t top_k,
                                     int32_t limit, double *uplinks);

/* ---- planners: pure functions from topology and load to a layout ----------------------------- */

/* A planner is an algorithm, its parameters and its scratch memory; it keeps nothing from one
 * plan to the next that changes a result. Not for use by two threads at once. */
typedef struct neap_planner neap_planner;

/* Names: neap_planner_name(0..count-1). Errors: ARGUMENT (unknown name; lists the known ones). */
NEAP_API int neap_planner_open(neap_topology *topology, const char *name, neap_planner **out);
NEAP_API void neap_planner_close(neap_planner *planner);
NEAP_API int32_t neap_planner_count(void);
NEAP_API const char *neap_planner_name(int32_t index);
typedef struct {
  const char *name, *doc;
  double value, low, high; /* default and allowed range */
  int32_t whole;           /* 1: whole numbers; of 0 to 1, no and yes */
} neap_parameter;

/* Parameters of a planner; NULL past the last. */
NEAP_API const neap_parameter *neap_planner_parameter(const neap_planner *planner, int32_t index);
/* Errors: ARGUMENT (no such parameter, or value out of its range). */
NEAP_API int neap_planner_set(neap_planner *planner, const char *parameter, double value);
/* load[ranks][experts]: expected tokens, row-major, >= 0, finite, any scale.
 * previous: layout in force, or NULL; what a planner may start from.
 * seed: of planners that draw at random; others ignore it.
 * No allocation after a planner's first plan. */
NEAP_API int neap_planner_plan(neap_planner *planner, const double *load,
                               const neap_layout *previous, uint64_t seed, neap_layout *out);
/* The same from the loads of the last steps, loads[steps][ranks][experts], oldest first. Planner
 * neap makes a forecast of them; others plan on the newest. */
NEAP_API int neap_planner_plan_history(neap_planner *planner, const double *const *loads,
                                       int32_t steps, const neap_layout *previous, uint64_t seed,
                                       neap_layout *out);
/* One plan of a batch: arguments of neap_planner_plan_history. */
typedef struct {
  const double *const *loads;
  int32_t steps;
  const neap_layout *previous;
  uint64_t seed;
  neap_layout *out; /* of this plan alone */
} neap_plan_task;
/* Plans tasks[count], such as the layers of a model, on threads of their own, one per planner:
 * planners[threads], 1 to 64, are different ones of the same topology, kind and parameters. Blocks.
 * Plans do not depend on the number of threads. Errors: those of the first task that fails, with
 * its number; plans of others may be there. */
NEAP_API int neap_planner_plan_batch(neap_planner *const *planners, int32_t threads,
                                     const neap_plan_task *tasks, int32_t count);

/* ---- tensors --------------------------------------------------------------------------------- */

/* Dense, row-major, on the opening thread's device. Ops check dtype and shape. BF16 is the upper
 * half of a float; what is rounded to it goes to the nearest, of two the even one. */
typedef struct neap_tensor neap_tensor;

/* dims[ndim], 1 <= ndim <= 4, each >= 0; content undefined. */
NEAP_API int neap_tensor_open(int dtype, int32_t ndim, const int64_t *dims, neap_tensor **out);
/* The same in host memory, for neap_tensor_copy to and from a GPU; no operation takes it there. */
NEAP_API int neap_tensor_open_host(int dtype, int32_t ndim, const int64_t *dims, neap_tensor **out);
/* A tensor over memory that stays the caller's, for longer than the tensor and its views: where
 * neap_tensor_open would have put it, on the host or on the calling thread's GPU. data may be NULL
 * where there are no elements. Errors: ARGUMENT. */
NEAP_API int neap_tensor_open_over(int dtype, int32_t ndim, const int64_t *dims, void *data,
                                   neap_tensor **out);
/* A tensor of the same dtype over parent's memory from element offset on; keeps parent alive. */
NEAP_API int neap_tensor_view(neap_tensor *parent, int64_t offset, int32_t ndim,
                              const int64_t *dims, neap_tensor **out);
NEAP_API void neap_tensor_close(neap_tensor *tensor);
NEAP_API void *neap_tensor_data(const neap_tensor *tensor);
/* 1 if the host can read and write the data: always, but for reals on a GPU. */
NEAP_API int neap_tensor_on_host(const neap_tensor *tensor);
NEAP_API int neap_tensor_dtype(const neap_tensor *tensor);
NEAP_API int32_t neap_tensor_ndim(const neap_tensor *tensor);
NEAP_API int64_t neap_tensor_dim(const neap_tensor *tensor, int32_t axis);
NEAP_API int64_t neap_tensor_count(const neap_tensor *tensor);
NEAP_API int neap_tensor_fill(neap_tensor *tensor, double value);
/* Element i (flat index) becomes scale x normal(seed, stream, first + i). */
NEAP_API int neap_tensor_normal(neap_tensor *tensor, uint64_t seed, uint64_t stream, int64_t first,
                                double scale);
/* Copies count elements between tensors of any float dtype (F32, F64, BF16), from and to flat
 * offsets, rounding to nearest. Between host and GPU the dtypes must be the same, and it returns
 * when the copy is done. Errors: SHAPE. */
NEAP_API int neap_tensor_copy(neap_tensor *to, int64_t to_offset, const neap_tensor *from,
                              int64_t from_offset, int64_t count);

/* ---- operations over tensors ----------------------------------------------------------------- */

/* All are local and block; results are written only if shapes fit. T: tokens (rows), reals: F32,
 * F64 or BF16, the same for all tensors of a call, but for those marked "acc" (of accumulation:
 * statistics, logits and gradients of parameters), which beside BF16 are F32. Arithmetic is acc's.
 * Errors: SHAPE, naming operation and argument, what it is and what was expected; ARGUMENT. Outputs
 * and inputs must not overlap, unless said otherwise. Forward results and input gradients of a
 * token do not depend on the other tokens of a call. */

/* y = x w. x (T, K), w (K, N), y (T, N) of x's dtype or acc. */
NEAP_API int neap_op_linear(const neap_tensor *x, const neap_tensor *w, neap_tensor *y);
/* dx = dy w^T, or dx += with accumulate. */
NEAP_API int neap_op_linear_input_grad(const neap_tensor *dy, const neap_tensor *w, neap_tensor *dx,
                                       int accumulate);
/* dw (acc) = x^T dy, or dw += with accumulate: the sum over tokens, by the BLAS. */
NEAP_API int neap_op_linear_weight_grad(const neap_tensor *x, const neap_tensor *dy,
                                        neap_tensor *dw, int accumulate);

/* y[t] = table[ids[t]]. ids I32 (T), table (V, H), y (T, H). Errors: ARGUMENT, an id that is not in
 * 0..V-1. */
NEAP_API int neap_op_embedding(const neap_tensor *ids, const neap_tensor *table, neap_tensor *y);
/* dtable[ids[t]] += dy[t], in the order of t. dtable (V, H) acc. */
NEAP_API int neap_op_embedding_grad(const neap_tensor *ids, const neap_tensor *dy,
                                    neap_tensor *dtable);

/* y = x * rstd * gain, rstd = 1 / sqrt(mean of x^2 + eps) of each row (Zhang and Sennrich 2019).
 * x, y (T, H), gain (H), rstd (T) acc. */
NEAP_API int neap_op_rmsnorm(const neap_tensor *x, const neap_tensor *gain, double eps,
                             neap_tensor *y, neap_tensor *rstd);
/* Writes dx; adds the sum over tokens to dgain (H), acc, unless that is NULL. */
NEAP_API int neap_op_rmsnorm_grad(const neap_tensor *x, const neap_tensor *gain,
                                  const neap_tensor *rstd, const neap_tensor *dy, neap_tensor *dx,
                                  neap_tensor *dgain);
/* terms (T, H) acc: what the gradient of gain sums over tokens, for neap_exact_column_sum. */
NEAP_API int neap_op_rmsnorm_gain_terms(const neap_tensor *x, const neap_tensor *rstd,
                                        const neap_tensor *dy, neap_tensor *terms);

/* table (S, D) acc: cosines, then sines, of the positions 0..S-1; D even (Su et al. 2021). */
NEAP_API int neap_op_rotary_table(double base, neap_tensor *table);
/* Turns the first heads x D columns of each row of x (T, >= heads x D) in place; row t stands at
 * position t mod S. inverse: turns back, which is the gradient. */
NEAP_API int neap_op_rotary(neap_tensor *x, int32_t heads, const neap_tensor *table, int inverse);

/* Causal attention within each sequence of `sequence` rows, scaled by 1 / sqrt(D).
 * qkv (T, (heads + 2 kv_heads) x D): queries, keys, values; kv_heads divides heads, sequence
 * divides T. out (T, heads x D), lse (T, heads) acc: log-sum-exp of the scores, for the
 * gradient. */
NEAP_API int neap_op_attention(const neap_tensor *qkv, int32_t heads, int32_t kv_heads,
                               int64_t sequence, neap_tensor *out, neap_tensor *lse);
NEAP_API int neap_op_attention_grad(const neap_tensor *qkv, const neap_tensor *out,
                                    const neap_tensor *lse, const neap_tensor *dout, int32_t heads,
                                    int32_t kv_heads, int64_t sequence, neap_tensor *dqkv);

/* loss = log-sum-exp(logits) - logits[target]; dlogits = factor x its gradient. logits (T, V) and
 * loss (T) F32 or F64, dlogits (T, V) of the same or, with F32, BF16; target I32 (T). A target
 * below 0 does not count: loss and gradient are 0. loss or dlogits may be NULL; dlogits may be
 * logits. */
NEAP_API int neap_op_cross_entropy(const neap_tensor *logits, const neap_tensor *target,
                                   double factor, neap_tensor *loss, neap_tensor *dlogits);

/* out = a + b, of any equal counts; out may be an input. */
NEAP_API int neap_op_add(const neap_tensor *a, const neap_tensor *b, neap_tensor *out);

/* y (T, F) = silu(gate) * up of gate_up (T, 2F), gate columns first. Shazeer 2020. */
NEAP_API int neap_op_swiglu(const neap_tensor *gate_up, neap_tensor *y);
/* dgate_up (T, 2F), which may be gate_up. */
NEAP_API int neap_op_swiglu_grad(const neap_tensor *gate_up, const neap_tensor *dy,
                                 neap_tensor *dgate_up);

/* Sum of x^2 in double, in an order that only the count decides. */
NEAP_API int neap_op_sum_squares(const neap_tensor *x, double *out);

/* One step of AdamW (Loshchilov and Hutter 2019); step counts from 1. The gradient is first
 * multiplied by grad_scale, which is where clipping goes. */
typedef struct {
  double rate, beta1, beta2, eps, decay, grad_scale;
  int64_t step;
} neap_adamw;
/* All of one count, F32 or F64: gradient, parameters, first and second moment. */
NEAP_API int neap_op_adamw(const neap_adamw *settings, const neap_tensor *grad, neap_tensor *param,
                           neap_tensor *m, neap_tensor *v);

/* c = op(a) op(b), op being the transposition where its flag is set, by the machine's BLAS in the
 * calling thread: what benches measure the engine's own products against. c (M, N). */
NEAP_API int neap_blas_product(const neap_tensor *a, int trans_a, const neap_tensor *b, int trans_b,
                               neap_tensor *c);

/* ---- exact sums over the tokens of all ranks ------------------------------------------------- */

/* Collective. Sums that come out the same to the bit however the tokens are cut over ranks and
 * ordered: every summand is rounded to a multiple of a power of two that all ranks agree on (from
 * the largest magnitude of its column over all ranks), with so few bits that every partial sum is
 * exact in double. Sources: Demmel and Nguyen 2013 (reproducible summation), Ozaki et al. 2012
 * (products by splitting). The double sums hold this rank's tokens; summing them over ranks, in any
 * order, is exact too, and rounding to F32 (neap_tensor_copy) then happens once. That holds for
 * sums that start at 0 and get one call: two calls have two quanta.
 * comm NULL: this rank is alone. total: tokens (or elements) of all ranks together, the same number
 * on every rank, at most 2^36; a rank may have none. Precision: a summand keeps 53 - log2(total)
 * bits of its column's maximum; of a product, either factor keeps half of them.
 * Not-finite input gives NaN. Errors: SHAPE, ARGUMENT (total), COMM. */

/* sum (K, N) F64 += x^T dy. x (T, K), dy (T, N). */
NEAP_API int neap_exact_weight_grad(neap_comm *comm, const neap_tensor *x, const neap_tensor *dy,
                                    int64_t total, neap_tensor *sum);
/* sum (H) F64 += the rows of x (T, H). */
NEAP_API int neap_exact_column_sum(neap_comm *comm, const neap_tensor *x, int64_t total,
                                   neap_tensor *sum);
/* table (V, H) F64: table[ids[t]] += dy[t]. ids I32 (T), dy (T, H). */
NEAP_API int neap_exact_scatter_add(neap_comm *comm, const neap_tensor *ids, const neap_tensor *dy,
                                    int64_t total, neap_tensor *table);
/* Sum of x^2 over all elements of all ranks' x: the result on every rank. */
NEAP_API int neap_exact_sum_squares(neap_comm *comm, const neap_tensor *x, int64_t total,
                                    double *out);
/* Sum of all elements of all ranks' x (losses, for instance): the result on every rank. */
NEAP_API int neap_exact_sum(neap_comm *comm, const neap_tensor *x, int64_t total, double *out);

/* ---- shards: the parameters of one layer's experts, cut over the ranks (FSEP) ---------------- */

/* Each expert is one array of parameters, which differ in size from expert to expert. Its master
 * parameters, AdamW moments and gradient are cut over all ranks in contiguous ranges of
 * ceil(size / ranks) elements, of which the last ones may be shorter or empty. The working
 * parameters, which unshard sends, are cut in the same way over each shard group: a run of ranks,
 * so that unshard stays within it. Refresh brings them up to date with the master.
 * Source: LAER-MoE's fully sharded expert parallelism (arXiv 2602.11686); shard groups follow
 * ZeRO++ (arXiv 2306.10209). */
typedef struct neap_shards neap_shards;
/* An unshard, reduce or refresh under way. */
typedef struct neap_transfer neap_transfer;

/* Elements *begin to *end - 1 of an array of so many are the index-th of parts ranges of
 * ceil(size / parts) elements, rounded up to whole granules; the last ones may be shorter or empty.
 * parts and granule: >= 1. */
NEAP_API void neap_cut(int64_t size, int64_t granule, int32_t parts, int32_t index, int64_t *begin,
                       int64_t *end);

/* Shard groups besides "so many consecutive ranks, the last group perhaps fewer". RESIDENT: experts
 * are not cut, but whole at their homes (neap_topology_set_homes). A slot with an expert that
 * is at home on its rank needs nothing; others fetch it from the home in their run of ranks. Where
 * there are several runs, masters, moments and gradients of an expert are cut over its homes, one
 * in each run: an all-reduce of gradients with the optimizer in its middle (ZeRO, arXiv
 * 1910.02054). */
enum { NEAP_GROUP_ALL = 0, NEAP_GROUP_NODE = -1, NEAP_GROUP_RESIDENT = -2 };
/* How working parameters travel in unshards and refreshes, and tokens to their experts: as they
 * are, or in FP8 (E4M3, blocks of 128 elements, each with a scale in F32; arXiv 2209.05433,
 * 2412.19437): 33 / 32 bytes an element. Blocks of parameters are counted from the first of an
 * expert. All replicas then have what came out of FP8, the owner's too, whatever ranks, layout and
 * shard group; ranges are cut at multiples of 128 elements; masters and gradients are as ever.
 * EITHER, of stores alone: ranges are cut so, and parameters travel as neap_shards_set_travel says,
 * until then as they are. */
enum { NEAP_TRAVEL_DTYPE, NEAP_TRAVEL_E4M3, NEAP_TRAVEL_EITHER };
typedef enum {
  NEAP_SHARD_PARAMETER,
  NEAP_SHARD_MOMENT1,
  NEAP_SHARD_MOMENT2,
  NEAP_SHARD_GRADIENT
} neap_shard_part;

/* Bytes that this rank has sent to other ranks, and of them to other nodes. */
typedef struct {
  int64_t unshard, unshard_inter;
  int64_t late, late_inter; /* of unshards of changes */
  int64_t reduce, reduce_inter;
  int64_t refresh, refresh_inter;
} neap_shard_traffic;

/* Every rank passes the same, comm's own rank apart. Everything is zero at first. comm: of the
 * topology's ranks; used in the order of calls, so that whatever should run beside it needs a
 * communicator of its own; not closed before the last collective call. dtype: of working
 * parameters, F32, F64 or BF16. Master parameters, moments and gradients are of dtype too, but F32
 * where it is BF16: then unshard moves half the bytes of reduce, since a gradient travels as it was
 * summed and is rounded by no one but its owner's sum. travel: see above. exact: gradients to
 * reduce are F64, added in double and rounded once. sizes[experts]: elements of each expert, >= 1.
 * group: 1 to so many ranks per shard group as there are, or see above. Errors: ARGUMENT, also for
 * RESIDENT in a topology whose experts have no homes, and in FP8: resident experts are computed
 * with as they are. */
NEAP_API int neap_shards_open(neap_comm *comm, neap_topology *topology, int dtype, int travel,
                              int exact, const int64_t *sizes, int32_t group, neap_shards **out);
/* Gradients come back over this communicator from now on, so that they do not wait for unshards nor
 * unshards for them. comm: as for open, of the same ranks; not closed before the last reduce.
 * Local. Errors: ARGUMENT. */
NEAP_API int neap_shards_reduce_over(neap_shards *shards, neap_comm *comm);
/* From now on parameters travel so, DTYPE or E4M3; a refresh follows. The same on all ranks. Memory
 * for a way that was once used stays. Local. Errors: ARGUMENT, also for a store that was not opened
 * with EITHER, and while transfers are under way. */
NEAP_API int neap_shards_set_travel(neap_shards *shards, int travel);
/* Local; waits for transfers under way. */
NEAP_API void neap_shards_close(neap_shards *shards);
/* Elements of the largest expert: what a slot takes in buffers. */
NEAP_API int64_t neap_shards_slot_size(const neap_shards *shards);
/* Elements of all experts together. */
NEAP_API int64_t neap_shards_count(const neap_shards *shards);
/* What ranges are cut at multiples of (neap_cut). */
NEAP_API int64_t neap_shards_granule(const neap_shards *shards);

/* Elements first to first + count - 1 of an expert's master parameters become scale x
 * normal(seed, stream, 0 to count - 1), whatever the number of ranks. Local; a refresh follows. */
NEAP_API int neap_shards_normal(neap_shards *shards, int32_t expert, int64_t first, int64_t count,
                                uint64_t seed, uint64_t stream, double scale);
/* value: the whole expert, (size) of the master's dtype. set is local, each rank taking its range;
 * a refresh follows a set of parameters. get is collective and gives every rank the whole. */
NEAP_API int neap_shards_set(neap_shards *shards, int part, int32_t expert,
                             const neap_tensor *value);
NEAP_API int neap_shards_get(neap_shards *shards, int part, int32_t expert, neap_tensor *value);
/* Elements of this rank's ranges of all experts; and values for them or of them, one expert after
 * the other, of the master's dtype, in host memory: local, as set. Errors: ARGUMENT. */
NEAP_API int64_t neap_shards_owned(const neap_shards *shards);
NEAP_API int neap_shards_put(neap_shards *shards, int part, const void *values, int64_t count);
NEAP_API int neap_shards_take(const neap_shards *shards, int part, void *values, int64_t count);

/* Where they are, owned by the store: to be read, or, of parameters, changed; a refresh follows
 * then. On a GPU in its memory. NULL: no such part. */
NEAP_API void *neap_shards_data(neap_shards *shards, int part);

/* Brings the experts of the layout to their slots. buffer: (slots of this rank, slot size) of
 * dtype; row i becomes the parameters of slot i's expert, elements past its size stay, and so do
 * rows of slots whose expert is resident on the rank (neap_moe_set_shards). Of an expert that a
 * rank holds twice one copy travels. chunks: exchanges that each rank's slots travel in, in their
 * order, so that the first experts can begin while the last are under way. Collective. */
NEAP_API int neap_shards_unshard_start(neap_shards *shards, const neap_layout *layout,
                                       neap_tensor *buffer, int32_t chunks, neap_transfer **out);
/* The same where buffer has the experts of another layout, base, whose transfer has been waited
 * for: only slots with another expert get theirs, in one exchange over the communicator of reduces,
 * and of experts that a rank keeps in another slot none travels. Slots before the first changed one
 * are ready at once. Collective. Errors: as above, and LAYOUT if buffer is not of base. */
NEAP_API int neap_shards_unshard_changes_start(neap_shards *shards, const neap_layout *base,
                                               const neap_layout *layout, neap_tensor *buffer,
                                               neap_transfer **out);
/* The way back of gradients: every owner adds what the replicas of an expert hold for its range,
 * in the order of slots, and puts the sum into its gradient, or with accumulate adds it to that.
 * gradients: as buffer of unshard, but of the master's dtype, or F64 if exact. slot_tokens[S]: the
 * same on all ranks; slots without tokens are left out, and their rows may hold anything.
 * Collective. */
NEAP_API int neap_shards_reduce_start(neap_shards *shards, const neap_layout *layout,
                                      const neap_tensor *gradients, const int64_t *slot_tokens,
                                      int accumulate, neap_transfer **out);
/* Makes the working parameters those of the master, rounded where it is BF16; nothing moves where
 * the shard group is all ranks. Collective. */
NEAP_API int neap_shards_refresh_start(neap_shards *shards, neap_transfer **out);
/* Blocks until the transfer is done, and frees it. */
NEAP_API int neap_transfer_wait(neap_transfer *transfer);

/* Local parts of the gradient's norm over all ranks and layers: the sum of squares in double, in a
 * fixed order that depends on the number of ranks; or, exactly, the largest |g|, and with the
 * largest of all ranks as max and total elements overall (below 2^40) what is added to the two
 * numbers of sum, which may be added up over ranks in any order (see exact sums in kernels.h). */
NEAP_API int neap_shards_square_sum(neap_shards *shards, double *sum);
NEAP_API int neap_shards_gradient_max(neap_shards *shards, double *max);
NEAP_API int neap_shards_exact_square_sum(neap_shards *shards, double max, int64_t total,
                                          double *sum);
/* One step of AdamW on this rank's master shards. Local; a refresh follows. */
NEAP_API int neap_shards_adamw(neap_shards *shards, const neap_adamw *settings);
NEAP_API int neap_shards_traffic(const neap_shards *shards, neap_shard_traffic *out);

/* ---- moe: one Mixture-of-Experts layer over the ranks ---------------------------------------- */

/* y = sum over a token's K experts of weight x W2 (silu(x W1 gate) * (x W1 up)). Parameters of
 * expert e with F = ffn[e]: W1 (H, 2F), gate columns first, then up; W2 (F, H); in one array.
 * The phases of a step, each collective, so that a recipe can start transfers between them:
 *   route, [split], dispatch, forward, backward_dispatch, backward
 * A training step calls all, an evaluation stops after forward. T, the tokens of this rank, may be
 * 0 and differ from rank to rank. What a token's outputs and input gradients are does not depend on
 * where it is computed, to the bit. */
typedef struct neap_moe neap_moe;

/* An expert's score for a token: softmax of the token's logits, or the sigmoid of its own one. */
enum { NEAP_SOFTMAX, NEAP_SIGMOID };

typedef struct {
  int64_t hidden;     /* H */
  int32_t top_k;      /* K, 1 to the number of experts */
  int32_t dtype;      /* F32, F64 or BF16; logits, scores and weights of BF16 are F32 */
  int32_t scoring;    /* NEAP_SOFTMAX or NEAP_SIGMOID */
  int32_t router_acc; /* of BF16: the router's parameters are F32, and so are its products and the
                          gradient of logits; of other types nothing changes */
  int32_t
      renormalise; /* the weights of a token's K experts, their scores, are divided by their sum,
                          unless that is 0 */
  int32_t exact;   /* weight gradients do not depend on layout, split or number of ranks */
  int32_t chunks;  /* exchanges that tokens travel in, so that some are computed meanwhile; 1 */
  int32_t hold_combine; /* gradients of tokens travel back after those of weights are computed, not
                           meanwhile */
  int32_t recompute;    /* the experts' hidden values are freed after a forward, and computed again
                           in the backward, from tokens as they arrived: two thirds of a forward */
  int32_t balanced;     /* force-balanced: the router's choices are replaced, so that every expert
                           gets as many tokens, up to one; weights are those of the new choices */
  int32_t travel;       /* how tokens do to their experts: NEAP_TRAVEL_DTYPE, or NEAP_TRAVEL_E4M3 by
                           rows, the last block of which may be short. Experts then compute with
                           what came out of FP8, on their tokens' own rank too; the router with
                           tokens as they are. Outputs, and gradients both ways, travel as they are.
                           A gradient of what came out is the token's (straight-through) */
  double aux_loss;      /* coefficient of the load-balance loss; 0: none */
} neap_moe_options;

/* What this rank has spent since the layer was opened. */
typedef struct {
  double experts; /* seconds in the experts' products */
  int64_t sent;   /* bytes of tokens sent to other ranks, both ways, forward and backward */
} neap_moe_costs;

/* ffn[experts]: F of each expert, >= 1. comm: as for neap_shards_open, but not the same one.
 * Errors: ARGUMENT. */
NEAP_API int neap_moe_open(neap_comm *comm, neap_topology *topology,
                           const neap_moe_options *options, const int64_t *ffn, neap_moe **out);
/* Local; waits for an exchange under way. */
NEAP_API void neap_moe_close(neap_moe *moe);

/* Slots whose expert is resident on this rank (NEAP_GROUP_RESIDENT) are computed with the store's
 * own parameters from now on, whatever weights has for them. shards: of the layer's experts; closed
 * after the layer. NULL: none. Local. Errors: ARGUMENT. */
NEAP_API int neap_moe_set_shards(neap_moe *moe, const neap_shards *shards);

/* From the next dispatch on tokens travel so (options' travel), the same on all ranks. Local.
 * Errors: ARGUMENT. */
NEAP_API int neap_moe_set_travel(neap_moe *moe, int travel);

/* Chooses experts: logits are x (T, H) times router (H, E); the K with the largest score + bias, of
 * equal ones the lower id; balanced: choice c of the ranks' token i is expert i K + c modulo E,
 * tokens counted in rank order as if all ranks had as many. Gathers the counts of all ranks.
 * Errors: ARGUMENT, on all ranks, if a rank's logits are not finite: names rank and token. */
NEAP_API int neap_moe_route(neap_moe *moe, const neap_tensor *x, const neap_tensor *router);
/* load[N][E]: tokens of every rank to every expert, since the last route. Owned by the layer. */
NEAP_API const int64_t *neap_moe_load(const neap_moe *moe);
/* ids[T][K]: the experts of this rank's tokens, first choice first, since the last route. Owned by
 * the layer; on a GPU a copy that is waited for. NULL: reported. */
NEAP_API const int32_t *neap_moe_choices(neap_moe *moe);
/* coefficient * E * sum over e of f_e P_e, with f_e the share of e in the choices of all tokens of
 * all ranks and P_e its mean share of a token's scores, of softmax the probability: the coefficient
 * itself where both are uniform (Fedus et al. 2021). Its gradient, with f constant, is part of
 * backward. */
NEAP_API double neap_moe_aux_loss(const neap_moe *moe);
/* bias[E]: added to the experts' scores where they are chosen, not in the weights; 0 at first.
 * Owned by the layer; to be written between steps, the same on all ranks. */
NEAP_API double *neap_moe_bias(neap_moe *moe);
/* After a step: raises the bias of experts that had fewer tokens than the mean in the last route,
 * of all ranks together, by speed, lowers it where they had more, and leaves it where they had as
 * many (Wang et al. 2024). The same on all ranks. Local. Errors: ARGUMENT, if speed is below 0. */
NEAP_API int neap_moe_adapt_bias(neap_moe *moe, double speed);
/* Starts to send each token to the slots that the split says: of a rank's tokens for an expert, in
 * their order, the first go to the expert's first slot and so on. The split must be of the layout
 * and of the load. Errors: SPLIT, if it does not give this rank's tokens to slots. */
NEAP_API int neap_moe_dispatch(neap_moe *moe, const neap_tensor *x, const neap_layout *layout,
                               const neap_split *split);
/* slot_tokens[S], since the last dispatch. Owned by the layer. */
NEAP_API const int64_t *neap_moe_slot_tokens(const neap_moe *moe);
/* weights: (slots of this rank, largest expert), as neap_shards_unshard_start leaves it.
 * arriving: the unshard that fills weights, still to be waited for: a slot is computed when it has
 * arrived; or NULL. y: (T, H). Errors: LAYOUT, if weights were unsharded by another layout than the
 * tokens were dispatched by: between a layer's dispatch and the reduce of its gradients its layout
 * may not change, which dispatch (of its split), forward, backward and reduce look at. */
NEAP_API int neap_moe_forward(neap_moe *moe, const neap_tensor *weights, neap_transfer *arriving,
                              neap_tensor *y);
/* dy: (T, H). Starts to send what the experts' backward needs. */
NEAP_API int neap_moe_backward_dispatch(neap_moe *moe, const neap_tensor *dy);
/* x, router: as in route; weights, arriving: as in forward. gradients: as weights, but as
 * neap_shards_reduce_start takes them; a slot with tokens gets its expert's gradient from them, one
 * without is left alone. dx: (T, H), written. drouter: (H, E), of gradients' dtype; this rank's
 * part is added. Exact parts may be added up over ranks in any order in double, if drouter was 0
 * before; of either factor of a product about (53 - log2 of all tokens) / 2 bits of its column's
 * maximum count. */
NEAP_API int neap_moe_backward(neap_moe *moe, const neap_tensor *x, const neap_tensor *router,
                               const neap_tensor *weights, neap_transfer *arriving,
                               neap_tensor *gradients, neap_tensor *dx, neap_tensor *drouter);
NEAP_API int neap_moe_cost(const neap_moe *moe, neap_moe_costs *out);

/* ---- cluster: a training step on machines that are only described ---------------------------- */

/* Operations of a step, executed by every rank of a topology in the order of their ids, on four
 * streams: computation, and exchanges of tokens, of parameters (unshard) and of gradients (reduce).
 * Simulated time is in seconds from the step's begin. An operation starts when the one before it in
 * its stream has ended and all those that it comes after have, on that rank; an exchange starts
 * when it could on all ranks of its group, takes its latency, then moves its bytes, and ends for
 * all of them at once. Flows that meet on a link share it evenly; what one cannot use is for the
 * others. Results depend on nothing but the arguments, to the bit. */
typedef struct neap_cluster neap_cluster;

enum { NEAP_RATES = 16 };

/* Links of a machine, and what disturbs them. All after queued may be 0: it costs nothing then.
 * peer, far_peer: seconds that a rank spends on each message to a rank of its node, and to another
 * node, one after the other before any byte moves.
 * rates, sizes, rate: messages of sizes[i] bytes move at rate[i] B/s of a port; between the points
 * by logarithms; smaller ones take as long as the first, larger ones have the last rate. What such
 * messages leave of a port is there for other exchanges. Sizes must grow, and no message take less
 * time than a smaller one.
 * interference[a][b]: share by which work of stream a takes longer while an exchange of b moves on
 * the rank, or, if b is COMPUTE, while any rank of the exchange computes. Shares of several b add
 * up. What an exchange that is slowed so does not use of a link stays unused. */
typedef struct {
  double port;        /* B/s of a rank's link to all others, each way; inf: no limit */
  double uplink;      /* B/s of a node's link to other nodes, each way, for all its ranks */
  double latency;     /* seconds of an exchange within a node, */
  double far_latency; /* and of one between nodes */
  int32_t queued;     /* a rank's exchanges run one at a time, in the order of their ids, whatever
                         their streams; 0: those of different streams side by side */
  int32_t rates;      /* how many sizes there are */
  double peer, far_peer;
  double sizes[NEAP_RATES], rate[NEAP_RATES];
  double interference[NEAP_STREAMS][NEAP_STREAMS];
} neap_links;

/* Errors: ARGUMENT (names the field). */
NEAP_API int neap_cluster_open(neap_topology *topology, const neap_links *links,
                               neap_cluster **out);
NEAP_API void neap_cluster_close(neap_cluster *cluster);
/* Forgets all operations; keeps the memory. */
NEAP_API void neap_cluster_clear(neap_cluster *cluster);
/* A rank computes for (common + each[rank]) / speed seconds; each[ranks] may be NULL. after[count]:
 * ids of earlier operations, at most 8. *op: the new one's id, from 0. Errors: ARGUMENT. */
NEAP_API int neap_cluster_compute(neap_cluster *cluster, double common, const double *each,
                                  const int32_t *after, int32_t count, int32_t *op);
/* To whom a rank sends messages in an exchange: to nobody in particular (a collective that passes
 * everything on at once), to every rank of its group, or to every rank of its node and to one of
 * every other node, which passes on. Ranks without bytes send none. */
typedef enum { NEAP_PEERS_NONE, NEAP_PEERS_ALL, NEAP_PEERS_NODES } neap_peers;

/* An exchange of a stream other than COMPUTE; delay: seconds besides the latency. group: as shard
 * groups. peers: neap_peers. ports[ranks], uplinks[nodes]:
 * bytes that pass there, the larger of both ways; NULL: none. A node's bytes are shared evenly by
 * the groups that its ranks belong to. */
NEAP_API int neap_cluster_exchange(neap_cluster *cluster, int32_t stream, int32_t group,
                                   int32_t peers, double delay, const double *ports,
                                   const double *uplinks, const int32_t *after, int32_t count,
                                   int32_t *op);
/* Simulates. */
NEAP_API int neap_cluster_run(neap_cluster *cluster);
/* begin[ranks], end[ranks] of an operation; an exchange begins when its last rank has come. Owned
 * by the cluster, until it is cleared. */
NEAP_API int neap_cluster_times(const neap_cluster *cluster, int32_t op, const double **begin,
                                const double **end);

/* Means are over ranks. What the compute stream is busy and what is exposed add up to seconds. */
typedef struct {
  double seconds;            /* the step: until the last rank's last operation ends */
  double ideal;              /* all work of the compute stream, undisturbed / speed of all ranks */
  double busy[NEAP_STREAMS]; /* mean seconds in operations of each stream */
  double exposed[NEAP_STREAMS]; /* of neap_time_use, mean seconds */
  int32_t last_op, last_rank;   /* what ends last, and where */
} neap_cluster_figures;
NEAP_API int neap_cluster_report(const neap_cluster *cluster, neap_cluster_figures *out);
/* The waits of a rank's compute stream, as spans in their order: before an operation (its id is
 * their step) for what it comes after, one after the other in the order in which they were given,
 * and from the rank's last computation to the end of the step (step and waits_for are -1). Writes
 * at most capacity of them; *count: how many there are. */
NEAP_API int neap_cluster_waits(const neap_cluster *cluster, int32_t rank, neap_span *spans,
                                int64_t capacity, int64_t *count);

typedef struct {
  double mean, most; /* seconds: over ranks, and of the slowest */
  int32_t stream, slowest;
} neap_cluster_span;
NEAP_API int neap_cluster_operation(const neap_cluster *cluster, int32_t op,
                                    neap_cluster_span *out);
/* The chain of operations that makes the step as long as it is, last one first: each started when
 * the next of the list ended. ranks: where; of an exchange, the rank that came last. Writes at most
 * capacity of them; *count: how many there are. */
NEAP_API int neap_cluster_critical(const neap_cluster *cluster, int32_t *ops, int32_t *ranks,
                                   int64_t capacity, int64_t *count);

/* Bytes on the links when a layout is unsharded, or its gradients are reduced, the working
 * parameters being cut over the ranks of every group: ports[ranks] and uplinks[nodes] as an
 * exchange takes them. bytes[experts]. base: NULL, or the layout that ranks have already: only
 * experts that are new to a rank travel then. group: as of shards; RESIDENT: what is not at home on
 * a rank comes from the home in its run of ranks. */
NEAP_API int neap_layout_traffic(const neap_layout *layout, const neap_layout *base,
                                 const double *bytes, int32_t group, double *ports,
                                 double *uplinks);
/* The same of gradients, where experts are resident: those of the slots with tokens go to the homes
 * of their expert, a part to each, or with accumulate whole to the one in their run of ranks; and
 * of parameters that the homes of each expert have updated a part of, for each other.
 * slot_tokens[S]; bytes[experts]. Errors: ARGUMENT, if experts have no homes; MEMORY. */
NEAP_API int neap_layout_return_traffic(const neap_layout *layout, const int64_t *slot_tokens,
                                        const double *bytes, int accumulate, double *ports,
                                        double *uplinks);
NEAP_API int neap_topology_gather_traffic(const neap_topology *topology, const double *bytes,
                                          double *ports, double *uplinks);

/* ---- workers: policies in a process of their own --------------------------------------------- */

/* Forks the small process that starts and ends workers, for a process with MPI, CUDA or threads
 * must not fork. To be called first in main, by the process whose program knows "--worker FD FD
 * [trusted]". It ends with this process, however that ends, and its workers with it. Errors:
 * SYSTEM. */
NEAP_API int neap_spawner_open(void);
/* Ends all workers; waits until they have gone. */
NEAP_API void neap_spawner_close(void);

/* A request or an answer; a payload of bytes follows it. */
typedef struct {
  int32_t kind; /* > 0: for the two sides to agree on; else one of the numbers below */
  int32_t layer;
  int64_t step;
  double seconds; /* of an answer: how long the hook ran */
  int32_t about;  /* of a failure: kind of the hook that was running, 0: none */
  int32_t id;     /* of an answer: the request's; the setup's is 0 */
  char text[512]; /* of an answer: what went wrong */
} neap_policy_message;

enum {
  NEAP_WORKER_SILENT = 0,   /* nothing has come */
  NEAP_WORKER_DEAD = -1,    /* the process has ended; text says how, if that is known */
  NEAP_WORKER_OVERDUE = -2, /* a hook has run past the deadline */
  NEAP_WORKER_DAMAGED = -3  /* what the worker wrote makes no sense */
};

/* A worker process and the memory shared with it, as the rank sees them. For one thread. */
typedef struct neap_worker neap_worker;

/* Starts a worker. setup: text that it finds there; it counts as the first request, so that the
 * first answer tells whether it was understood. slots: requests that can be under way at once,
 * >= 2. Payloads have at most request_bytes and exactly answer_bytes; bulk_bytes are for one large
 * answer at a time. Memory that is not used costs nothing. trusted: 0 takes from the process what a
 * policy never needs (neap_policy_server_confine). Errors: ARGUMENT, SYSTEM (also when the spawner
 * has ended), ABSENT (there is no spawner). */
NEAP_API int neap_worker_open(const char *setup, int32_t slots, int64_t request_bytes,
                              int64_t answer_bytes, int64_t bulk_bytes, int trusted,
                              neap_worker **out);
/* Kills the process. */
NEAP_API void neap_worker_close(neap_worker *worker);
/* Kills the process and starts another one with fresh memory; requests under way are forgotten.
 * After a failure the worker can only be restarted or closed. */
NEAP_API int neap_worker_restart(neap_worker *worker);
/* Requests that have not been answered. */
NEAP_API int32_t neap_worker_pending(const neap_worker *worker);
/* Copies message and a payload of two parts. Never waits. Errors: ARGUMENT (no slot is free; too
 * large; the worker has ended). */
NEAP_API int neap_worker_send(neap_worker *worker, const neap_policy_message *message,
                              const void *first, int64_t first_bytes, const void *second,
                              int64_t second_bytes);
/* Waits up to timeout seconds (0: only looks) for an answer, or for news that none will come: a
 * dead worker, or a hook that has run longer than deadline seconds. payload[answer_bytes] may be
 * NULL. Nothing in an answer has been checked except that text ends and seconds is finite. */
NEAP_API int neap_worker_receive(neap_worker *worker, double timeout, double deadline,
                                 neap_policy_message *message, void *payload);
/* The large answer, in memory that the worker may be writing to: to be copied, then checked. */
NEAP_API const void *neap_worker_bulk(const neap_worker *worker);

/* The worker's side of the shared memory. */
typedef struct neap_policy_server neap_policy_server;

/* Leaves this process, for good, with what computing takes: it can read files and print, but write
 * no file, open no socket, start no process or thread, signal or trace no other one; such calls
 * fail with EPERM. Errors: ABSENT (the kernel has no filters for system calls). */
NEAP_API int neap_policy_server_confine(void);
/* 1 if the kernel and the processor have what confining takes. */
NEAP_API int neap_policy_server_confines(void);
/* Takes over the two file descriptors that the program was given. Errors: SYSTEM. */
NEAP_API int neap_policy_server_open(int32_t requests_fd, int32_t answers_fd,
                                     neap_policy_server **out);
NEAP_API const char *neap_policy_server_setup(const neap_policy_server *server);
/* Waits up to timeout seconds for a request; message->kind is 0 if none came. *payload stays until
 * the next receive, or the request's answer. */
NEAP_API int neap_policy_server_receive(neap_policy_server *server, double timeout,
                                        neap_policy_message *message, const void **payload);
/* Tell the rank that a hook starts, and that it has ended: what its deadline is measured by. */
NEAP_API void neap_policy_server_begin(neap_policy_server *server, int32_t kind, int64_t step,
                                       int32_t layer);
NEAP_API void neap_policy_server_end(neap_policy_server *server);
/* To be called once for the setup and once for every request. Errors: ARGUMENT (too large). */
NEAP_API int neap_policy_server_answer(neap_policy_server *server,
                                       const neap_policy_message *message, const void *payload,
                                       int64_t bytes);
NEAP_API void *neap_policy_server_bulk(const neap_policy_server *server);

/* ---- trace: recorded loads ------------------------------------------------------------------- */

/* The load matrix of every step and layer, with metadata (pairs of strings). On disk a safetensors
 * file: one tensor "load", I32 (steps, layers, ranks, experts), metadata in the header with a
 * CRC-32 over data, shape and metadata. */
typedef struct neap_trace neap_trace;
typedef struct neap_trace_writer neap_trace_writer;

/* Reads and checks a whole file into memory: safetensors as the writer makes it, up to the last
 * whole step if it was never finished (metadata "state" is then "writing"), safetensors of
 * another's with one tensor "load" of whole numbers (then there is no checksum to check), or CSV
 * with the columns step, layer, rank, e0, e1, …, columns and rows in any order, ids with gaps
 * renumbered; plain or packed by gzip, xz or Zstandard. What it is shows in its content, not in its
 * name. Errors: SYSTEM (cannot be read), FORMAT (names the file and the byte or line). */
NEAP_API int neap_trace_open(const char *path, neap_trace **out);
NEAP_API void neap_trace_close(neap_trace *trace);
/* shape[4]: steps, layers, ranks, experts. */
NEAP_API void neap_trace_shape(const neap_trace *trace, int64_t *shape);
/* load[ranks][experts] of a step and layer. Errors: ARGUMENT. */
NEAP_API int neap_trace_load(const neap_trace *trace, int64_t step, int64_t layer, int64_t *load);
/* Key of the index-th pair of the metadata and its value, or NULL past the last. Both are owned by
 * the trace. A CSV has no metadata. */
NEAP_API const char *neap_trace_metadata(const neap_trace *trace, int64_t index,
                                         const char **value);

/* What a user should know of how the file was read (ids renumbered, columns left out), or NULL. */
NEAP_API const char *neap_trace_notes(const neap_trace *trace);

/* Creates the file, with no steps, and locks it until close. shape[3]: layers, ranks, experts, each
 * >= 1. keys[pairs] and values[pairs]: UTF-8; the keys "format", "version", "crc32" and "state" are
 * the writer's own. Errors: ARGUMENT, SYSTEM, BUSY (another writer has the file). */
NEAP_API int neap_trace_writer_open(const char *path, const int64_t *shape, const char *const *keys,
                                    const char *const *values, int64_t pairs,
                                    neap_trace_writer **out);
/* Takes load[ranks][experts] of a layer; layers 0, 1, … of step 0, then of step 1, and so on. The
 * file grows with a step's last layer and is valid between steps, whatever becomes of the process.
 * Errors: ARGUMENT (out of order; a load below 0 or above 2^31 - 1), SYSTEM. */
NEAP_API int neap_trace_writer_append(neap_trace_writer *writer, int64_t step, int64_t layer,
                                      const int64_t *load);
/* Marks the file as complete. Errors: ARGUMENT (the last step lacks layers, or a write has failed:
 * the whole steps stay, marked as incomplete), SYSTEM. */
NEAP_API int neap_trace_writer_finish(neap_trace_writer *writer);
/* A file that has not been finished stays marked as incomplete. */
NEAP_API void neap_trace_writer_close(neap_trace_writer *writer);

/* ---- checkpoints: state on disk that is whole or not there ----------------------------------- */

/* Writes a file that has its old content or the new one, whatever happens: under another name
 * first (path.part), then renamed; on the disk when this returns. A link keeps its name, and what
 * it leads to is replaced; devices, pipes and what stdout or stderr is are written to as they are.
 * Errors: SYSTEM, MEMORY; the old content then stays. */
NEAP_API int neap_file_replace(const char *path, const void *data, int64_t bytes);
/* The same for the text of a JSON object that is not empty; the object gets one more field, last:
 * "crc32", of the text before it. Errors: ARGUMENT too. */
NEAP_API int neap_sealed_write(const char *path, const char *text, int64_t bytes);
/* Such a text, once its checksum has been compared, with it. Errors: SYSTEM, FORMAT, MEMORY. */
typedef struct neap_sealed neap_sealed;
NEAP_API int neap_sealed_read(const char *path, neap_sealed **out);
NEAP_API const char *neap_sealed_text(const neap_sealed *sealed, int64_t *bytes);
NEAP_API void neap_sealed_close(neap_sealed *sealed);
/* Makes a folder and those that it is in, on the disk when this returns; one that is there will do.
 * Errors: SYSTEM, MEMORY. */
NEAP_API int neap_folder_make(const char *path);
/* Removes a file, or a folder and its files; none there will do. Errors: SYSTEM, MEMORY. */
NEAP_API int neap_folder_remove(const char *path);
/* Takes a lock that ends with the process; the file is made if there is none. *file: for unlock.
 * Errors: SYSTEM, BUSY. */
NEAP_API int neap_file_lock(const char *path, int *file);
NEAP_API void neap_file_unlock(int file);

/* Writes a safetensors file: declare all tensors and notes (pairs of metadata), begin, append the
 * bytes of all tensors in their order, finish. Names must differ. The file appears with finish; a
 * close without it leaves what was there before. Errors: ARGUMENT (order of calls, more or fewer
 * bytes than declared), MEMORY, SYSTEM. */
typedef struct neap_tensors_writer neap_tensors_writer;
NEAP_API int neap_tensors_writer_open(const char *path, neap_tensors_writer **out);
NEAP_API void neap_tensors_writer_close(neap_tensors_writer *writer);
NEAP_API int neap_tensors_writer_declare(neap_tensors_writer *writer, const char *name, int dtype,
                                         int32_t ndim, const int64_t *dims);
NEAP_API int neap_tensors_writer_set_metadata(neap_tensors_writer *writer, const char *key,
                                              const char *value);
NEAP_API int neap_tensors_writer_begin(neap_tensors_writer *writer);
NEAP_API int neap_tensors_writer_append(neap_tensors_writer *writer, const void *data,
                                        int64_t bytes);
/* *bytes: of the whole file; *seal: see below, 0 for a file without checksums. */
NEAP_API int neap_tensors_writer_finish(neap_tensors_writer *writer, int64_t *bytes,
                                        uint32_t *seal);

/* What a checkpoint's manifest says of a file: its bytes, and the checksum of its checksums. */
typedef struct {
  int64_t bytes;
  uint32_t seal;
} neap_checkpoint_file;

/* Writes one rank's file of a checkpoint beside the training, and the manifest. For one thread; one
 * job at a time. Begin names the file, add says what goes into it, start copies that, and a thread
 * writes the copy: what was added stays as it is until start has returned, and no longer. On a GPU
 * what lies there is copied there, in the order of the caller's stream, if that leaves a sixteenth
 * of its memory free, and else to the host. The memory is kept for the next time. */
typedef struct neap_checkpoint_writer neap_checkpoint_writer;
NEAP_API int neap_checkpoint_writer_open(neap_checkpoint_writer **out);
/* Waits for the job. */
NEAP_API void neap_checkpoint_writer_close(neap_checkpoint_writer *writer);
/* Errors: ARGUMENT, here and below, while a job is under way. */
NEAP_API int neap_checkpoint_writer_begin(neap_checkpoint_writer *writer, const char *path);
/* Names must differ. */
NEAP_API int neap_checkpoint_writer_add(neap_checkpoint_writer *writer, const char *name, int dtype,
                                        int32_t ndim, const int64_t *dims, const void *data);
NEAP_API int neap_checkpoint_writer_add_tensor(neap_checkpoint_writer *writer, const char *name,
                                               const neap_tensor *tensor);
/* This rank's ranges of all experts, one after the other; part: neap_shard_part. */
NEAP_API int neap_checkpoint_writer_add_shards(neap_checkpoint_writer *writer, const char *name,
                                               const neap_shards *shards, int part);
/* Errors: MEMORY, SYSTEM. */
NEAP_API int neap_checkpoint_writer_start(neap_checkpoint_writer *writer);
/* Another job: neap_sealed_write, of a copy of the text. */
NEAP_API int neap_checkpoint_writer_commit(neap_checkpoint_writer *writer, const char *path,
                                           const char *text, int64_t bytes);
/* Another one: neap_folder_remove. */
NEAP_API int neap_checkpoint_writer_remove(neap_checkpoint_writer *writer, const char *path);
/* 1 while a wait would block. */
NEAP_API int neap_checkpoint_writer_busy(const neap_checkpoint_writer *writer);
/* Waits for the job and returns what it came to; *file: of the file that start wrote last. */
NEAP_API int neap_checkpoint_writer_wait(neap_checkpoint_writer *writer,
                                         neap_checkpoint_file *file);

/* Reads such a file. Nothing of it is handed out before its checksum has been compared; whatever
 * byte has changed, what it stands for is FORMAT, and so is a file of another length. */
typedef struct neap_checkpoint_reader neap_checkpoint_reader;
/* file NULL: any safetensors file; there are no checksums to compare then. Errors: SYSTEM, FORMAT,
 * MEMORY. */
NEAP_API int neap_checkpoint_reader_open(const char *path, const neap_checkpoint_file *file,
                                         neap_checkpoint_reader **out);
NEAP_API void neap_checkpoint_reader_close(neap_checkpoint_reader *reader);
/* Value of a key of the metadata, or NULL. Owned by the reader. */
NEAP_API const char *neap_checkpoint_reader_note(const neap_checkpoint_reader *reader,
                                                 const char *key);
/* Name of the index-th tensor, its dtype (-1: none of neap_dtype) and dims[ndim], or NULL past the
 * last. Owned by the reader. */
NEAP_API const char *neap_checkpoint_reader_tensor(const neap_checkpoint_reader *reader,
                                                   int64_t index, int *dtype, int32_t *ndim,
                                                   const int64_t **dims);
/* Elements first to first + count - 1 of a tensor. Errors: SHAPE (no such tensor, dtype or
 * element), FORMAT, SYSTEM. */
NEAP_API int neap_checkpoint_reader_read(neap_checkpoint_reader *reader, const char *name,
                                         int dtype, int64_t first, int64_t count, void *to);

/* A tensor holds a range of elements of each of some arrays, one after the other: what it has of
 * wanted ranges, to their places in to, which holds all of those. held, wanted: [2 * arrays] the
 * first element of each array's range and the one after its last. Errors: as read, and ARGUMENT. */
NEAP_API int neap_checkpoint_reader_ranges(neap_checkpoint_reader *reader, const char *name,
                                           int dtype, int64_t arrays, const int64_t *held,
                                           const int64_t *wanted, void *to);
/* Compares all checksums. */
NEAP_API int neap_checkpoint_reader_check(neap_checkpoint_reader *reader);

/* ---- store: runs in one SQLite file ---------------------------------------------------------- */

/* A connection, for one thread; any number of threads and processes may have one to the same file
 * (write-ahead log; a writer waits up to 30 s for another). Tables: runs (executions of a command,
 * with all that is known of their circumstances), results (what a run measured of one policy),
 * steps (the metrics of a result's steps), texts (policies and recipes by their SHA-256), sweeps
 * (which runs, by their keys, a sweep consists of). */
typedef struct neap_store neap_store;
typedef struct neap_statement neap_statement;

/* create: makes the file if there is none. columns[count]: names of what record takes of a step,
 * copied; the steps of a store that lacks some of them get them with the first step that is
 * recorded. A store of an earlier version gets the tables that it lacks. One that is only read, on
 * a file system that cannot be written, is read as it is. Errors: SYSTEM (no such
 * file, no access), FORMAT (no store, damaged, or of a later version), ARGUMENT (a name that is
 * none, or one twice). */
NEAP_API int neap_store_open(const char *path, int create, const char *const *columns,
                             int32_t count, neap_store **out);
/* Writes what record has kept back. Statements may be closed later. */
NEAP_API void neap_store_close(neap_store *store);
/* Row that the last INSERT has made. */
NEAP_API int64_t neap_store_last_id(const neap_store *store);

/* Takes what was measured of a result's step: values[columns], NaN where there is none; layouts:
 * hash of the layouts in force. Rows are kept in memory and written together, once a second or when
 * there are many: a killed process loses the last second. While the store cannot be written they
 * wait, up to 2^18 of them. Errors: SYSTEM, FORMAT (its columns cannot be made). */
NEAP_API int neap_store_record(neap_store *store, int64_t result, int64_t step,
                               const double *values, uint64_t layouts);
NEAP_API int neap_store_flush(neap_store *store);
/* How long statements and flush wait for a store that another one writes to; 30 s at first. */
NEAP_API void neap_store_patience(neap_store *store, int32_t milliseconds);
/* Rows of steps that could not be written when it was last tried; 0: none had to wait. */
NEAP_API int64_t neap_store_waiting(const neap_store *store);
/* Appends the rows that wait to a file, as SQL that adds them to the store, and forgets them.
 * Errors: SYSTEM. */
NEAP_API int neap_store_spill(neap_store *store, const char *path);

/* Compiles one statement of SQL. Errors: ARGUMENT (SQLite's message). */
NEAP_API int neap_store_prepare(neap_store *store, const char *sql, neap_statement **out);
NEAP_API void neap_statement_close(neap_statement *statement);
/* The index-th parameter, from 1; text NULL: SQL's NULL. Errors: ARGUMENT. */
NEAP_API int neap_statement_bind_text(neap_statement *statement, int32_t index, const char *text,
                                      int64_t bytes);
NEAP_API int neap_statement_bind_number(neap_statement *statement, int32_t index, double value);
/* row: 1, and there is a row to read; 0: done, and the statement can be bound and run again.
 * Errors: SYSTEM (busy, disk), FORMAT (damaged), ARGUMENT (a constraint). */
NEAP_API int neap_statement_step(neap_statement *statement, int *row);
NEAP_API int32_t neap_statement_columns(const neap_statement *statement);
NEAP_API const char *neap_statement_name(const neap_statement *statement, int32_t column);
/* 'n' number, 't' text, '-' NULL; text and number are valid until the next step. */
NEAP_API int neap_statement_type(const neap_statement *statement, int32_t column);
NEAP_API double neap_statement_number(const neap_statement *statement, int32_t column);
NEAP_API const char *neap_statement_text(const neap_statement *statement, int32_t column,
                                         int64_t *bytes);

/* ---- text: training data --------------------------------------------------------------------- */

/* A text: token ids one after the other, held once per process; opening it again shares it. Of the
 * corpora, bytes of files that Debian packages install, the same on every machine that has the
 * same package; or files of one's own, which are mapped, so that only what is drawn is read. */
typedef struct neap_text neap_text;

enum {
  NEAP_TEXT_TRAINING = 0, /* the first 95 % */
  NEAP_TEXT_HELD_OUT = 1, /* the rest */
  NEAP_TEXT_WHOLE = 2,
};

/* name: a corpus (neap_text_name): "english" (dict-gcide, a dictionary), "go" (golang-1.19-src),
 * "french" and "russian" (manpages-fr and manpages-ru, troff source); or a file, a folder (all of
 * its files, and of its folders', but for empty ones and names that begin with a dot) or a pattern
 * of glob(7), the files in the order of their paths' bytes. A file's ids are its bytes, unpacked if
 * it is called *.gz, *.xz or *.zst; of a file *.bin uint16 or uint32, with llm.c's header or
 * without, or what Megatron's *.idx beside it says (which may be named instead, or both without
 * ending). ":bytes", ":u16" and ":u32" after the name say what a file shows otherwise. root: folder
 * that stands for "/" for corpora, or NULL for the environment's NEAP_TEXT_ROOT, else "/". limit:
 * bytes to take of a corpus, spread evenly over the files, which are taken in the order of their
 * names' bytes; files have none. Errors: ARGUMENT, ABSENT (a package is missing: tells the command
 * that installs it; no such file), SYSTEM, FORMAT (damaged: names the file). */
NEAP_API int neap_text_open(const char *name, const char *root, int64_t limit, neap_text **out);
NEAP_API void neap_text_close(neap_text *text);
/* Corpora: how many, their names, and the Debian package of each. */
NEAP_API int32_t neap_text_count(void);
NEAP_API const char *neap_text_name(int32_t index);
NEAP_API const char *neap_text_package(int32_t index);
/* Tokens; bytes of the widest file's ids (1: a token is a byte); files. */
NEAP_API int64_t neap_text_size(const neap_text *text);
NEAP_API int32_t neap_text_width(const neap_text *text);
NEAP_API int64_t neap_text_files(const neap_text *text);
/* ids[count]: tokens from first on. Errors: ARGUMENT; FORMAT (an id that the vocabulary does not
 * have: names file and token). */
NEAP_API int neap_text_ids(const neap_text *text, int64_t first, int64_t count, int32_t vocabulary,
                           int32_t *ids);
/* A sequence: ids[length] from a position in a part of the text, targets[length] the token after
 * each. The position depends on (seed, step, sequence) alone, so that a batch does not depend on
 * who draws it. Errors: ARGUMENT (length is below 1 or too long for the part), FORMAT (as
 * above). */
NEAP_API int neap_text_sample(const neap_text *text, uint64_t seed, int64_t step, int64_t sequence,
                              int64_t length, int32_t part, int32_t vocabulary, int32_t *ids,
                              int32_t *targets);

/* ---- synth: synthetic loads ------------------------------------------------------------------ */

typedef struct {
  int32_t ranks, experts, top_k;
  int64_t tokens;        /* of a rank */
  double tau;            /* standard deviation of a rank's noise, a factor's logarithm */
  uint64_t seed, stream; /* of random numbers: this stream and the next one are used */
} neap_synth;

/* load[ranks][experts]: tokens of every rank in a step, about popularity[experts] (logarithms, up
 * to a constant) times a noise of rank and expert; no expert has more than all of a rank's tokens,
 * and a rank's counts add up to tokens x top_k. Errors: ARGUMENT, MEMORY. */
NEAP_API int neap_synth_load(const neap_synth *synth, const double *popularity, int64_t step,
                             int64_t *load);

#endif
