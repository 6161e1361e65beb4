/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program: hosts LuaJIT, and starts the threads of virtual ranks.
 *
 *   neap lua FILE [ARG…]   runs a Lua file with the engine's modules in reach
 *   neap --worker FD FD    hosts a policy for another process: lua/neap/main/policy_worker.lua;
 *                          with "trusted" after it, one that may do what the user may
 *   neap COMMAND …         everything else is lua/neap/main/cli.lua's
 *
 * Threads of virtual ranks are started from Lua through the module "neap.launcher":
 * launcher.run_ranks(n, FILE, {ARG…}) runs FILE once per thread, each in a state of its own, with
 * (rank, ranks, world as lightuserdata, ARG…), and returns the highest exit status.
 * launcher.catch_interrupts(ON): while on, SIGINT raises an error in the calling state rather than
 * ending the program; code that the compiler has compiled does not notice it until it returns.
 * launcher.first_failure() is true for the first caller of the process, so that one rank tells what
 * went wrong; launcher.tell_memory() tells that this rank has no memory left, and takes none for
 * it; launcher.verdict(STATUS), of a rank that is a thread: run_ranks is to return at least that,
 * although no rank has failed; launcher.leave(STATUS) ends the process at once, without the
 * farewells of libraries that would wait for other processes; launcher.sleep(SECONDS);
 * list(FOLDER); terminal(FD) tells whether FD is a terminal; process_rank and process_size are this
 * process' rank and how many there are under mpirun or srun, and process_launcher the launcher's
 * name, nil without one; rank_variables are the variables that launchers tell ranks by. home is the
 * root of the Lua sources, folder the program's, library and cdef are the files of the engine and
 * of its declarations.
 */
#define _GNU_SOURCE /* dladdr */
#include "neap.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum {
  EXIT_FAILED = 1,
  EXIT_USAGE = 2,
  EXIT_INTERRUPTED = 130,
  PATH_BYTES = 4096,
  MOST_FILES = 65536
};

typedef struct {
  int rank, ranks, argc, status;
  const char *file, **argv;
  neap_world *world;
} rank_thread;

static int run_ranks(lua_State *L);

/* Folder of the running program. */
static const char *program_folder(char *path)
{
  ssize_t length = readlink("/proc/self/exe", path, PATH_BYTES - 1);
  path[length > 0 ? length : 0] = 0;
  char *slash = strrchr(path, '/');
  if (slash)
    *slash = 0;
  return path;
}

/* What a launcher that started this process says of it: its rank, and of how many. */
typedef struct {
  int rank, size; /* -1 and 0 without a launcher */
  const char *by;
} launched;

/* What launchers say by which variables. Slurm's last: a batch script has a rank of its own, in a
 * step of one task. PMIx tells no size but in the step of whoever speaks it. */
static const struct {
  const char *rank, *size;
  int least;
  const char *by;
} launchers[] = {{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 1, "mpirun"},
                 {"PMI_RANK", "PMI_SIZE", 1, "mpiexec"},
                 {"PMIX_RANK", "SLURM_STEP_NUM_TASKS", 1, "srun"},
                 {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", 2, "srun"}};

enum { LAUNCHERS = sizeof launchers / sizeof *launchers };

static launched launched_as(void)
{
  for (size_t i = 0; i < LAUNCHERS; i++) {
    const char *rank = getenv(launchers[i].rank), *size = getenv(launchers[i].size);
    if (rank && *rank && size && atoi(size) >= launchers[i].least)
      return (launched){atoi(rank), atoi(size), launchers[i].by};
  }
  return (launched){-1, 0, NULL};
}

/* Whether a folder has Neap's Lua sources. */
static bool is_home(const char *folder)
{
  char probe[PATH_BYTES + 64];
  snprintf(probe, sizeof probe, "%s/lua/neap/init.lua", folder);
  return !access(probe, R_OK);
}

/* Root of the Lua sources: NEAP_HOME of the environment, else the folder above the program's or,
 * of an installed program, share/neap in it, else where the program was built from. */
static const char *home(void)
{
  static char found[PATH_BYTES + 16];
  const char *set = getenv("NEAP_HOME");
  if (set && *set)
    return set;
  if (!found[0]) {
    char folder[PATH_BYTES], shared[PATH_BYTES + 16];
    char *slash = strrchr(program_folder(folder), '/');
    if (slash)
      *slash = 0;
    snprintf(shared, sizeof shared, "%s/share/neap", folder);
    snprintf(found, sizeof found, "%s",
             is_home(folder)   ? folder
             : is_home(shared) ? shared
                               : NEAP_HOME);
  }
  return found;
}

/* Declarations of the engine: beside the program where it was built, installed with the sources. */
static const char *cdef(char *path, size_t size)
{
  char folder[PATH_BYTES];
  snprintf(path, size, "%s/neap.cdef", program_folder(folder));
  if (access(path, R_OK))
    snprintf(path, size, "%s/neap.cdef", home());
  return path;
}

static atomic_flag failure_told = ATOMIC_FLAG_INIT;

static int first_failure(lua_State *L)
{
  lua_pushboolean(L, !atomic_flag_test_and_set(&failure_told));
  return 1;
}

static atomic_int verdict_of_run; /* the highest status that a rank has wished for */

static int verdict(lua_State *L)
{
  int status = luaL_checkint(L, 1), before = atomic_load(&verdict_of_run);
  while (status > before && !atomic_compare_exchange_weak(&verdict_of_run, &before, status))
    continue;
  return 0;
}

static int leave(lua_State *L)
{
  int status = luaL_checkint(L, 1);
  fflush(NULL);
  _exit(status);
}

static int sleep_seconds(lua_State *L)
{
  double seconds = luaL_checknumber(L, 1);
  struct timespec time = {(time_t)seconds, (long)(1e9 * (seconds - (double)(time_t)seconds))};
  nanosleep(&time, NULL);
  return 0;
}

static int terminal(lua_State *L)
{
  lua_pushboolean(L, isatty(luaL_checkint(L, 1)));
  return 1;
}

/* list(FOLDER) -> names of its entries, in no order; none if it cannot be read. */
static int list_folder(lua_State *L)
{
  DIR *folder = opendir(luaL_checkstring(L, 1));
  lua_newtable(L);
  for (struct dirent *entry; folder && (entry = readdir(folder));) {
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
  }
  if (folder)
    closedir(folder);
  return 1;
}

static void on_interrupt(int signal)
{
  (void)signal;
  static const char text[] = "\nneap: interrupted\n";
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) {
    /* nobody reads it */
  }
  _exit(EXIT_INTERRUPTED);
}

/* ---- signals that tell of trouble ---- */

static _Thread_local int rank_here = -1; /* of the thread's rank */
static atomic_int ranks_running;         /* threads of run_ranks that have not returned */

static void on_request(int number)
{
  if (neap_watch_signal(number) || number == SIGUSR1)
    return;
  signal(number, SIG_DFL);
  raise(number);
}

/* Appends to text what a signal's handler may. */
static void append(char *text, size_t size, const char *more)
{
  size_t used = strlen(text);
  while (*more && used + 1 < size)
    text[used++] = *more++;
  text[used] = 0;
}

static void append_number(char *text, size_t size, int number)
{
  char digits[12];
  int at = sizeof digits - 1;
  digits[at] = 0;
  do
    digits[--at] = (char)('0' + number % 10);
  while ((number /= 10) && at);
  append(text, size, digits + at);
}

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* Begins a line about this rank, or the program. */
static void append_who(char *text, size_t size)
{
  append(text, size, rank_here >= 0 ? "neap: rank " : "neap: the program");
  if (rank_here >= 0)
    append_number(text, size, rank_here);
}

/* Where Lua has no memory left, its own words would need some. */
static int tell_memory(lua_State *L)
{
  (void)L;
  char text[80] = "";
  append_who(text, sizeof text);
  append(text, sizeof text, ": not enough memory\n");
  if (write(STDERR_FILENO, text, strlen(text)) < 0) {
    /* nobody reads it */
  }
  return 0;
}

/* Names the rank, and lets the signal end the process as it would have. */
static void on_crash(int number)
{
  char text[160] = "";
  append_who(text, sizeof text);
  append(text, sizeof text, " crashed: signal ");
  append_number(text, sizeof text, number);
  append(text, sizeof text,
         number == SIGSEGV   ? " (segmentation fault)\n"
         : number == SIGBUS  ? " (bus error)\n"
         : number == SIGFPE  ? " (arithmetic)\n"
         : number == SIGABRT ? " (abort)\n"
                             : " (illegal instruction)\n");
  if (write(STDERR_FILENO, text, strlen(text)) < 0) {
    /* nobody reads it */
  }
  signal(number, SIG_DFL);
  raise(number);
}

/* Results that could not be written are no success. Tells so, once. */
static bool results_lost(void)
{
  static bool told;
  if (told || (fflush(stdout) == 0 && !ferror(stdout)))
    return told;
  told = true;
  fprintf(stderr, "neap: the results could not be written to stdout: %s\n",
          errno ? strerror(errno) : "an earlier write failed");
  return true;
}

/* A rank that calls exit ends the others, too: that is a failure, whatever status it gave; and so
 * is an exit (os.exit) after which results are missing. */
static void on_exit_anywhere(void)
{
  static const char text[] = "neap: a rank called exit; the run failed\n";
  if (!atomic_load(&ranks_running)) {
    if (results_lost())
      _exit(EXIT_FAILED);
    return;
  }
  if (write(STDERR_FILENO, text, sizeof text - 1) < 0) {
    /* nobody reads it */
  }
  _exit(EXIT_FAILED);
}

/* Where sanitizers look for crashes they have handlers of their own. */
static void catch_trouble(void)
{
  signal(SIGUSR1, on_request);
  signal(SIGTERM, on_request);
  atexit(on_exit_anywhere);
  rank_here = launched_as().rank;
  static const int crashes[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL};
  for (size_t i = 0; !SANITIZED && i < sizeof crashes / sizeof *crashes; i++)
    signal(crashes[i], on_crash);
}

/* The state that SIGINT raises an error in. */
static lua_State *interruptible;

static void raise_interrupt(lua_State *L, lua_Debug *where)
{
  (void)where;
  lua_sethook(L, NULL, 0, 0);
  luaL_error(L, "interrupted");
}

static void on_caught_interrupt(int signal)
{
  (void)signal;
  lua_sethook(interruptible, raise_interrupt, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static int catch_interrupts(lua_State *L)
{
  bool on = lua_toboolean(L, 1);
  interruptible = L;
  signal(SIGINT, on ? on_caught_interrupt : SIG_IGN);
  if (!on)
    lua_sethook(L, NULL, 0, 0);
  return 0;
}

static int open_launcher(lua_State *L)
{
  static const luaL_Reg functions[] = {{"run_ranks", run_ranks},
                                       {"first_failure", first_failure},
                                       {"catch_interrupts", catch_interrupts},
                                       {"verdict", verdict},
                                       {"leave", leave},
                                       {"tell_memory", tell_memory},
                                       {"sleep", sleep_seconds},
                                       {"terminal", terminal},
                                       {"list", list_folder},
                                       {NULL, NULL}};
  char path[PATH_BYTES + 32];
  lua_newtable(L);
  luaL_register(L, NULL, functions);
  lua_pushstring(L, home());
  lua_setfield(L, -2, "home");
  lua_pushstring(L, program_folder(path));
  lua_setfield(L, -2, "folder");
  lua_pushstring(L, cdef(path, sizeof path));
  lua_setfield(L, -2, "cdef");
  Dl_info engine;
  if (dladdr((void *)neap_version, &engine)) {
    lua_pushstring(L, engine.dli_fname);
    lua_setfield(L, -2, "library");
  }
  lua_newtable(L);
  for (int i = 0; i < LAUNCHERS; i++) {
    lua_pushstring(L, launchers[i].rank);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, "rank_variables");
  launched as = launched_as();
  if (as.size) {
    lua_pushinteger(L, as.rank);
    lua_setfield(L, -2, "process_rank");
    lua_pushinteger(L, as.size);
    lua_setfield(L, -2, "process_size");
    lua_pushstring(L, as.by);
    lua_setfield(L, -2, "process_launcher");
  }
  return 1;
}

#ifdef __SANITIZE_ADDRESS__
/* Lua's objects from malloc, so that AddressSanitizer sees what C does to them. */
static void *reallocate(void *owner, void *memory, size_t from, size_t to)
{
  (void)owner;
  (void)from;
  if (to)
    return realloc(memory, to);
  free(memory);
  return NULL;
}
#define NEW_STATE() lua_newstate(reallocate, NULL)
#else
#define NEW_STATE() luaL_newstate()
#endif

static lua_State *open_state(void)
{
  lua_State *L = NEW_STATE();
  if (!L)
    return NULL;
  luaL_openlibs(L);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, open_launcher);
  lua_setfield(L, -2, "neap.launcher");
  lua_pop(L, 1);
  lua_getfield(L, -1, "path");
  lua_pushfstring(L,
                  "%s/lua/?.lua;%s/lua/?/init.lua;%s/experiments/?.lua;"
                  "/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua;%s",
                  home(), home(), home(), lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_pop(L, 2);
  return L;
}

/* What require and the binding say where a file cannot be read or memory ends: on one line. */
static bool of_loading(lua_State *L, const char *text)
{
  if (strstr(text, "error loading module '"))
    luaL_gsub(L, text, ":\n\t", ": ");
  else if (strstr(text, "module 'neap.") && strstr(text, "' not found:\n"))
    lua_pushlstring(L, text, strcspn(text, ":\n"));
  else if (strstr(text, "; build the engine first") || strstr(text, "not enough memory"))
    lua_pushstring(L, text);
  else
    return false;
  return true;
}

/* Turns an error value into text with a traceback, unless it is a table: those are Neap's own
 * errors, which main/rank.lua and main/cli.lua know how to show. */
static int on_error(lua_State *L)
{
  if (lua_istable(L, 1) && luaL_callmeta(L, 1, "__tostring"))
    return 1;
  if (lua_isstring(L, 1) && !of_loading(L, lua_tostring(L, 1)))
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
  return 1;
}

/* Runs a file with count arguments on top of the stack; an integer that it returns is the exit
 * status. */
static int run_file(lua_State *L, const char *file, int count)
{
  lua_pushcfunction(L, on_error);
  lua_insert(L, -1 - count);
  int handler = lua_gettop(L) - count;
  int failed = luaL_loadfile(L, file);
  if (!failed) {
    lua_insert(L, handler + 1);
    failed = lua_pcall(L, count, 1, handler);
  }
  if (failed == LUA_ERRMEM) {
    if (!atomic_flag_test_and_set(&failure_told))
      tell_memory(L);
    return EXIT_FAILED;
  }
  if (failed) {
    if (lua_isstring(L, -1))
      fprintf(stderr, "neap: %s\n", lua_tostring(L, -1));
    else if (!lua_isnil(L, -1)) /* error() without a value: whoever raised it has told why */
      fprintf(stderr, "neap: an error without a text (a %s value)\n", luaL_typename(L, -1));
    return EXIT_FAILED;
  }
  return lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : 0;
}

static void push_arguments(lua_State *L, int argc, const char **argv)
{
  luaL_checkstack(L, argc, "arguments");
  for (int i = 0; i < argc; i++)
    lua_pushstring(L, argv[i]);
}

static void *rank_main(void *argument)
{
  rank_thread *self = argument;
  lua_State *L = open_state();
  rank_here = self->rank;
  if (!L) {
    self->status = EXIT_FAILED;
    neap_world_abort(self->world, "no memory for a Lua state");
    return NULL;
  }
  lua_pushinteger(L, self->rank);
  lua_pushinteger(L, self->ranks);
  lua_pushlightuserdata(L, self->world);
  push_arguments(L, self->argc, self->argv);
  self->status = run_file(L, self->file, self->argc + 3);
  /* A failed rank's memory stays: operations that it has started may still be using it. */
  if (self->status)
    neap_world_abort(self->world, "another rank failed");
  else
    lua_close(L);
  return NULL;
}

/* Starts the threads and joins them; returns the highest exit status. */
static int join_ranks(rank_thread *threads, int ranks)
{
  pthread_t *ids = calloc((size_t)ranks, sizeof *ids);
  int started = 0, status = 0;
  if (!ids)
    fprintf(stderr, "neap: no memory for %d threads\n", ranks);
  for (; ids && started < ranks; started++)
    if (pthread_create(&ids[started], NULL, rank_main, &threads[started])) {
      fprintf(stderr, "neap: no thread could be started for rank %d\n", started);
      neap_world_abort(threads[0].world, "no thread could be started");
      break;
    }
  status = started < ranks ? EXIT_FAILED : 0;
  for (int r = 0; r < started; r++) {
    pthread_join(ids[r], NULL);
    if (threads[r].status > status)
      status = threads[r].status;
  }
  free(ids);
  return status;
}

static int run_ranks(lua_State *L)
{
  int ranks = luaL_checkint(L, 1);
  const char *file = luaL_checkstring(L, 2);
  luaL_checktype(L, 3, LUA_TTABLE);
  int argc = (int)lua_objlen(L, 3);
  luaL_checkstack(L, argc, "arguments");
  neap_world *world = NULL;
  if (neap_world_open(ranks, &world)) {
    fprintf(stderr, "neap: %s\n", neap_error_message());
    lua_pushinteger(L, EXIT_FAILED);
    return 1;
  }
  const char **argv = lua_newuserdata(L, (size_t)(argc + 1) * sizeof *argv);
  for (int i = 0; i < argc; i++) {
    lua_rawgeti(L, 3, i + 1);
    argv[i] = luaL_checkstring(L, -1);
  }
  rank_thread *threads = lua_newuserdata(L, (size_t)ranks * sizeof *threads);
  for (int r = 0; r < ranks; r++)
    threads[r] = (rank_thread){r, ranks, argc, 0, file, argv, world};
  atomic_store(&verdict_of_run, 0);
  atomic_fetch_add(&ranks_running, 1);
  int status = join_ranks(threads, ranks);
  atomic_fetch_sub(&ranks_running, 1);
  neap_world_close(world);
  int wished = atomic_load(&verdict_of_run);
  lua_pushinteger(L, wished > status ? wished : status);
  return 1;
}

/* neap --worker FD FD [trusted]: hosts a policy (core/worker/spawner.c starts it). A kernel without
 * filters leaves it as it is; neap doctor tells of that. */
static int worker_main(const char **fds, bool trusted)
{
  if (!trusted)
    neap_policy_server_confine();
  setvbuf(stdout, NULL, _IOLBF, 0); /* it is a pipe, and the process may be killed at any time */
  char path[PATH_BYTES];
  lua_State *L = open_state();
  if (!L)
    return EXIT_FAILED;
  snprintf(path, sizeof path, "%s/lua/neap/main/policy_worker.lua", home());
  push_arguments(L, 2, fds);
  int status = run_file(L, path, 2);
  lua_close(L);
  return status;
}

/* What the rest relies on: files 0 to 2 are open, so that no file of ours becomes one of them (a
 * closed stdout stays one that cannot be written to); a file that reaches its limit (ulimit -f) is
 * an error of that write, as a full disk is; and as many open files are allowed as can be. */
static void prepare_process(void)
{
  for (int fd = 0; fd <= STDERR_FILENO; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) < 0)
      _exit(EXIT_FAILED);
  signal(SIGXFSZ, SIG_IGN);
  struct rlimit files;
  if (!getrlimit(RLIMIT_NOFILE, &files) && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max < MOST_FILES ? files.rlim_max : MOST_FILES;
    setrlimit(RLIMIT_NOFILE, &files);
  }
}

static bool limited(int resource)
{
  struct rlimit limit;
  return !getrlimit(resource, &limit) && limit.rlim_cur != RLIM_INFINITY;
}

/* OpenBLAS starts a thread per processor before main, each of which asks for 128 MB until it gets
 * them: with too little address space (ulimit -v) a fork would wait for those threads for ever. The
 * engine uses none of them, so the program begins once more without. */
static void leave_blas_threads(char **argv)
{
  const char *threads = getenv("OPENBLAS_NUM_THREADS");
  bool alone = threads && !strcmp(threads, "1");
  if (!alone && (limited(RLIMIT_AS) || limited(RLIMIT_DATA)) &&
      !setenv("OPENBLAS_NUM_THREADS", "1", 1))
    execv("/proc/self/exe", argv); /* where that cannot be, it goes on as it is */
}

int main(int argc, char **argv)
{
  leave_blas_threads(argv);
  if (argc >= 4 && !strcmp(argv[1], "--worker"))
    return worker_main((const char **)argv + 2, argc == 5 && !strcmp(argv[4], "trusted"));
  prepare_process();
  if (neap_spawner_open()) {
    fprintf(stderr, "neap: %s\n", neap_error_message());
    return EXIT_FAILED;
  }
  signal(SIGINT, on_interrupt);
  catch_trouble();
  lua_State *L = open_state();
  if (!L) {
    fprintf(stderr, "neap: no memory for a Lua state\n");
    return EXIT_FAILED;
  }
  bool plain = argc > 1 && !strcmp(argv[1], "lua");
  if (plain && argc < 3) {
    fprintf(stderr, "usage: neap lua FILE [ARG…]\n");
    return EXIT_USAGE;
  }
  char path[PATH_BYTES];
  snprintf(path, sizeof path, "%s/lua/neap/main/cli.lua", home());
  int skip = plain ? 3 : 1;
  push_arguments(L, argc - skip, (const char **)argv + skip);
  int status = run_file(L, plain ? argv[2] : path, argc - skip);
  if (results_lost() && !status)
    status = EXIT_FAILED;
  if (status && launched_as().size) { /* others may not come to what a farewell waits for */
    fflush(NULL);
    _exit(status);
  }
  lua_close(L);
  neap_spawner_close();
  return status;
}
