/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints and layouts where calls of libc fail: each one in turn, with each kind of error. What
 * fails says so and leaves what was there before; what is told to have worked has worked.
 */
#define _GNU_SOURCE
#include "check.h"
#include "faults.h"
#include "neap.h"

enum { VALUES = 300, TENSORS = 70, MOST_CALLS = 5000, TEXT_BYTES = 64 };

static char folder[64], path[128], deep[160], entry[192];
static double values[VALUES];
static const int numbers[] = {EIO, ENOSPC, EINTR, EINVAL, FAULTS_END};

/* What a case has come to: the first status that is no OK, and whether its results are right. */
typedef struct {
  int status;
  bool right;
} outcome;

typedef outcome (*scenario)(void);

static outcome failed(int status)
{
  return (outcome){status, true};
}

/* ---- scenarios ----------------------------------------------------------------------------- */

static int begin_and_add(neap_checkpoint_writer *w)
{
  char name[32];
  int64_t dims[] = {VALUES};
  int status = neap_checkpoint_writer_begin(w, path);
  for (int i = 0; !status && i < TENSORS; i++) { /* more than lists have room for at first */
    snprintf(name, sizeof name, "values%d", i);
    status = neap_checkpoint_writer_add(w, name, NEAP_F64, 1, dims, values);
  }
  return status ? status : neap_checkpoint_writer_start(w);
}

static int read_back(const neap_checkpoint_file *about, bool *right)
{
  double got[VALUES] = {0};
  neap_checkpoint_reader *r = NULL;
  int status = neap_checkpoint_reader_open(path, about, &r);
  if (status)
    return status;
  status = neap_checkpoint_reader_read(r, "values3", NEAP_F64, 0, VALUES, got);
  if (!status)
    status = neap_checkpoint_reader_check(r);
  neap_checkpoint_reader_close(r);
  *right = status || !memcmp(got, values, sizeof got);
  return status;
}

/* A file of a rank: written beside, then read. */
static outcome write_and_read(void)
{
  neap_checkpoint_writer *w = NULL;
  neap_checkpoint_file about = {0, 0};
  outcome it = {neap_checkpoint_writer_open(&w), true};
  if (it.status)
    return it;
  it.status = begin_and_add(w);
  if (!it.status)
    it.status = neap_checkpoint_writer_wait(w, &about);
  if (!it.status)
    it.status = read_back(&about, &it.right);
  neap_checkpoint_writer_close(w);
  return it;
}

/* The file of any writer. */
static outcome write_plainly(void)
{
  static const int64_t dims[] = {VALUES};
  neap_tensors_writer *w = NULL;
  int64_t bytes;
  uint32_t seal;
  outcome it = {neap_tensors_writer_open(path, &w), true};
  if (it.status)
    return it;
  it.status = neap_tensors_writer_set_metadata(w, "key", "value");
  if (!it.status)
    it.status = neap_tensors_writer_declare(w, "values3", NEAP_F64, 1, dims);
  if (!it.status)
    it.status = neap_tensors_writer_begin(w);
  if (!it.status)
    it.status = neap_tensors_writer_append(w, values, sizeof values);
  if (!it.status)
    it.status = neap_tensors_writer_finish(w, &bytes, &seal);
  neap_tensors_writer_close(w);
  if (!it.status)
    it.status = read_back(NULL, &it.right);
  return it;
}

/* A manifest: committed by the writer's thread, read, removed with its folder. */
static outcome commit_and_remove(void)
{
  static const char text[] = "{\"step\":1}";
  neap_checkpoint_writer *w = NULL;
  neap_checkpoint_file about;
  neap_sealed *sealed = NULL;
  int64_t bytes;
  int status = neap_folder_make(deep);
  if (!status)
    status = neap_checkpoint_writer_open(&w);
  if (!status)
    status = neap_checkpoint_writer_commit(w, entry, text, (int64_t)strlen(text));
  if (!status)
    status = neap_checkpoint_writer_wait(w, &about);
  if (!status)
    status = neap_sealed_read(entry, &sealed);
  bool right = status || !memcmp(neap_sealed_text(sealed, &bytes), text, strlen(text) - 1);
  neap_sealed_close(sealed);
  if (!status)
    status = neap_checkpoint_writer_remove(w, deep);
  if (!status)
    status = neap_checkpoint_writer_wait(w, &about);
  neap_checkpoint_writer_close(w);
  return (outcome){status, right && (status || access(deep, F_OK))};
}

/* A file that exists, with rights of its own; and one that is no regular file. */
static outcome replace_file(void)
{
  char got[sizeof "content"] = "";
  struct stat info = {0};
  int file = creat(path, 0600);
  if (file < 0)
    return failed(NEAP_SYSTEM);
  close(file);
  int status = neap_file_replace(path, "content", sizeof got);
  if (status)
    return failed(status);
  FILE *stream = fopen(path, "r");
  bool right = stream && fread(got, 1, sizeof got, stream) == sizeof got && !stat(path, &info) &&
               (info.st_mode & 0777) == 0600 && !strcmp(got, "content");
  if (stream)
    fclose(stream);
  return (outcome){neap_file_replace("/dev/null", "content", sizeof got), right};
}

static outcome hold_lock(void)
{
  int file = -1, other = -1;
  int status = neap_file_lock(path, &file);
  if (status)
    return failed(status);
  bool right = neap_file_lock(path, &other) != NEAP_OK;
  neap_file_unlock(file);
  neap_file_unlock(other);
  return (outcome){NEAP_OK, right};
}

static const int32_t experts[] = {0, 1, 2, 2, 1, 0}, others[] = {1, 0, 2, 0, 1, 2};

__attribute__((unused)) static outcome set_and_align(void)
{
  int32_t slots[] = {3, 3};
  neap_topology *t = NULL;
  neap_layout *l = NULL, *base = NULL;
  int status = neap_topology_open(2, 3, NULL, slots, NULL, NULL, &t);
  if (!status)
    status = neap_layout_open(t, &l);
  if (!status)
    status = neap_layout_open(t, &base);
  if (!status)
    status = neap_layout_set(l, experts);
  if (!status)
    status = neap_layout_set(base, others);
  if (!status)
    status = neap_layout_align(l, base);
  outcome it = {status, true};
  if (!status)
    it.right = neap_layout_changed(l, base) == 0;
  neap_layout_close(l);
  neap_layout_close(base);
  neap_topology_close(t);
  return it;
}

/* ---- all calls ----------------------------------------------------------------------------- */

/* What was there before is there still, or is what has been written; nothing of a half is. */
static void check_left(const char *what, int64_t k)
{
  neap_sealed *sealed = NULL;
  neap_checkpoint_reader *r = NULL;
  if (!access(entry, F_OK))
    check(!neap_sealed_read(entry, &sealed), "%s, call %d: %s", what, (int)k, neap_error_message());
  neap_sealed_close(sealed);
  if (!access(path, F_OK) && strcmp(what, "a lock") && strcmp(what, "a file")) {
    check(!neap_checkpoint_reader_open(path, NULL, &r), "%s, call %d: %s", what, (int)k,
          neap_error_message());
    neap_checkpoint_reader_close(r);
  }
}

static void fail_each(const char *what, scenario run)
{
  for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
    int64_t k = 1;
    for (bool fired = true; fired && k < MOST_CALLS; k++) {
      faults_arm(k, numbers[n]);
      outcome it = run();
      fired = faults_fired();
      check(it.right, "%s, call %d with %d: other results", what, (int)k, numbers[n]);
      check(fired || !it.status, "%s: %s", what, neap_error_message());
      check(!it.status || strlen(neap_error_message()) > 5, "%s, call %d: no message", what,
            (int)k);
      check_left(what, k);
      neap_folder_remove(deep);
    }
    check(k > 3 && k < MOST_CALLS, "%s: %d calls", what, (int)k);
  }
  neap_folder_remove(path);
}

/* ---- what no fault is needed for ----------------------------------------------------------- */

static void test_refused(void)
{
  neap_checkpoint_writer *w = NULL;
  neap_sealed *sealed = NULL;
  int64_t bad[] = {-1}, dims[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
  check(!neap_checkpoint_writer_open(&w) && !neap_checkpoint_writer_begin(w, path), "writer");
  check(neap_checkpoint_writer_add(w, "x", NEAP_F64, 1, bad, values) == NEAP_ARGUMENT, "-1");
  check(neap_checkpoint_writer_add(w, "x", NEAP_F64, 9, dims, values) == NEAP_ARGUMENT, "9 dims");
  check(!neap_checkpoint_writer_start(w), "%s", neap_error_message());
  check(neap_checkpoint_writer_start(w) == NEAP_ARGUMENT, "start twice");
  check(neap_checkpoint_writer_commit(w, path, "{ }", 3) == NEAP_ARGUMENT, "commit at work");
  check(neap_checkpoint_writer_remove(w, path) == NEAP_ARGUMENT, "remove at work");
  neap_checkpoint_writer_close(w); /* waits */
  check(neap_sealed_read(folder, &sealed) != NEAP_OK, "a folder as a text");
  check(neap_sealed_write(path, "[]", 2) == NEAP_ARGUMENT, "no object");
  check(neap_folder_make(path) == NEAP_SYSTEM, "a folder with a file's name");
  check(neap_folder_remove(path) == NEAP_OK, "%s", neap_error_message());
}

/* Plain files whose tensors do not lie where they should, and metadata. */
static void test_plain(void)
{
  static const char *const tensors[] = {"[9],\"data_offsets\":[0,36]", "[1],\"data_offsets\":[0,8]",
                                        "[2],\"data_offsets\":[0,8]"};
  for (int i = 0; i < 3; i++) {
    neap_checkpoint_reader *r = NULL;
    char text[256];
    int length = snprintf(text + 8, sizeof text - 8,
                          "{\"__metadata__\":{\"k\":\"v\"},\"a\":{\"dtype\":\"F32\",\"shape\":%s}}",
                          tensors[i]);
    memset(text, 0, 8);
    text[0] = (char)length;
    check(!neap_file_replace(path, text, 8 + length + 8), "%s", neap_error_message());
    int status = neap_checkpoint_reader_open(path, NULL, &r);
    check(status == (i < 2 ? NEAP_FORMAT : NEAP_OK), "tensor %d: %s", i, neap_error_message());
    check(status || (!strcmp(neap_checkpoint_reader_note(r, "k"), "v") &&
                     !neap_checkpoint_reader_note(r, "x")),
          "metadata");
    neap_checkpoint_reader_close(r);
  }
}

static void test_layouts(void)
{
  int32_t slots[] = {3, 3}, fewer[] = {2, 3};
  int32_t beyond[] = {0, 1, 2, 3, 1, 0}, below[] = {0, 1, 2, -1, 1, 0},
          lacks[] = {0, 0, 0, 1, 1, 1};
  int32_t pairs[] = {2, 2, 2};
  neap_topology *t, *u, *v;
  neap_layout *l, *m, *n;
  check(!neap_topology_open(2, 3, NULL, slots, NULL, NULL, &t) &&
            !neap_topology_open(2, 3, NULL, fewer, NULL, NULL, &u) && !neap_layout_open(t, &l) &&
            !neap_topology_open(3, 3, NULL, pairs, NULL, NULL, &v) && !neap_layout_open(u, &m) &&
            !neap_layout_open(v, &n),
        "%s", neap_error_message());
  check(neap_layout_copy(l, l) == NEAP_ARGUMENT, "copy of one that was never set");
  check(neap_layout_align(l, l) == NEAP_ARGUMENT, "align of one that was never set");
  check(neap_layout_set(l, beyond) == NEAP_LAYOUT, "expert 3");
  check(neap_layout_set(l, below) == NEAP_LAYOUT, "expert -1");
  check(neap_layout_set(l, lacks) == NEAP_LAYOUT, "no expert 2");
  uint64_t unset = neap_layout_hash(l);
  check(!neap_layout_set(l, experts) && !neap_layout_set(m, experts) &&
            !neap_layout_set(n, experts),
        "%s", neap_error_message());
  check(neap_layout_hash(l) != unset && neap_layout_topology(l) == t, "hash or topology");
  check(neap_layout_copy(l, m) == NEAP_ARGUMENT, "copy from another topology");
  check(neap_layout_align(l, m) == NEAP_ARGUMENT, "align to another topology");
  check(neap_layout_copy(l, n) == NEAP_ARGUMENT, "copy from as many slots of more ranks");
  neap_layout_close(l);
  neap_layout_close(m);
  neap_layout_close(n);
  neap_layout_close(NULL);
  neap_topology_close(v);
  neap_topology_close(t);
  neap_topology_close(u);
}

int main(void)
{
  snprintf(folder, sizeof folder, "/tmp/neap-faults-XXXXXX");
  if (!mkdtemp(folder))
    return 1;
  snprintf(path, sizeof path, "%s/file", folder);
  snprintf(deep, sizeof deep, "%s/below/step", folder);
  snprintf(entry, sizeof entry, "%s/manifest.json", deep);
  for (int i = 0; i < VALUES; i++)
    values[i] = i * 0.37;
  fail_each("a rank's file", write_and_read);
  fail_each("any tensors", write_plainly);
  fail_each("a manifest", commit_and_remove);
  fail_each("a lock", hold_lock);
  fail_each("a file", replace_file);
#ifndef FAULTS_NO_MEMORY
  fail_each("layouts", set_and_align); /* which open no file */
#endif
  test_plain();
  test_refused();
  test_layouts();
  snprintf(deep, sizeof deep, "%s/below", folder);
  rmdir(deep);
  check(!rmdir(folder), "something is left in %s", folder);
  return check_done();
}
