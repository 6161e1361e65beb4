/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints of what lies on a GPU, without one: the copy is of what was there at the start, also
 * where the GPU lacks the memory for it, and a device that fails is told.
 */
#include "check.h"
#include "data/checkpoint.h"
#include "device/device.h"
#include "fake/device.h"

#include <unistd.h>

enum { PIECES = 3, ROUNDS = 4, LARGE = 2 * NEAPI_CHUNK + 40, MOST_CALLS = 1000 };

static char path[64];

typedef struct {
  int64_t bytes;
  char *gpu, *before, *after; /* after: what replaces it once start has returned */
} piece;

static int open_pieces(piece *pieces, int round)
{
  int64_t sizes[PIECES] = {LARGE, 24, 8 * (1 + round)};
  for (int i = 0; i < PIECES; i++) {
    piece *p = &pieces[i];
    p->bytes = sizes[i];
    p->gpu = neapi_memory_alloc(NEAPI_GPU, p->bytes, "piece");
    p->before = malloc((size_t)p->bytes);
    p->after = calloc(1, (size_t)p->bytes);
    for (int64_t at = 0; at < p->bytes; at++)
      p->before[at] = (char)(at * 7 + round + i);
    int status = p->gpu ? neapi_copy(p->gpu, p->before, p->bytes) : NEAP_MEMORY;
    if (status)
      return status;
  }
  return NEAP_OK;
}

static void close_pieces(piece *pieces)
{
  for (int i = 0; i < PIECES; i++) {
    neapi_memory_free(NEAPI_GPU, pieces[i].gpu);
    free(pieces[i].before);
    free(pieces[i].after);
  }
}

static int write_all(neap_checkpoint_writer *w, piece *pieces, neap_checkpoint_file *about)
{
  char name[16];
  int status = neap_checkpoint_writer_begin(w, path);
  for (int i = 0; !status && i < PIECES; i++) {
    int64_t count = pieces[i].bytes / 8;
    snprintf(name, sizeof name, "gpu%d", i);
    status = neap_checkpoint_writer_add(w, name, NEAP_F64, 1, &count, pieces[i].gpu);
    snprintf(name, sizeof name, "host%d", i);
    if (!status)
      status = neap_checkpoint_writer_add(w, name, NEAP_F64, 1, &count, pieces[i].before);
  }
  if (!status)
    status = neap_checkpoint_writer_start(w);
  for (int i = 0; !status && i < PIECES; i++)
    status = neapi_copy(pieces[i].gpu, pieces[i].after, pieces[i].bytes);
  int ended = neap_checkpoint_writer_wait(w, about);
  return status ? status : ended;
}

static void check_file(const piece *pieces, const neap_checkpoint_file *about, int k)
{
  neap_checkpoint_reader *r = NULL;
  char name[16], *got = malloc(LARGE);
  if (!check(!neap_checkpoint_reader_open(path, about, &r), "%s", neap_error_message()))
    return;
  for (int i = 0; i < PIECES; i++)
    for (int on_host = 0; on_host < 2; on_host++) {
      snprintf(name, sizeof name, "%s%d", on_host ? "host" : "gpu", i);
      check(!neap_checkpoint_reader_read(r, name, NEAP_F64, 0, pieces[i].bytes / 8, got), "%s",
            neap_error_message());
      check_same(got, pieces[i].before, pieces[i].bytes, "%s is another one (call %d)", name, k);
    }
  neap_checkpoint_reader_close(r);
  free(got);
}

/* One writer over rounds: its memory is there from the second on. */
static void test_copies(int64_t available)
{
  neap_checkpoint_writer *w;
  fake_gpu_free = available;
  check(!neap_checkpoint_writer_open(&w), "%s", neap_error_message());
  for (int round = 0; round < ROUNDS; round++) {
    piece pieces[PIECES] = {{0}};
    neap_checkpoint_file about = {0, 0};
    check(!open_pieces(pieces, round) && !write_all(w, pieces, &about), "%s", neap_error_message());
    check_file(pieces, &about, 0);
    close_pieces(pieces);
  }
  neap_checkpoint_writer_close(w);
}

/* Every call of the device fails once. */
static void test_failures(void)
{
  bool fired = true;
  fake_gpu_free = 1 << 30;
  for (int k = 1; fired && k < MOST_CALLS; k++) {
    piece pieces[PIECES] = {{0}};
    neap_checkpoint_file about = {0, 0};
    neap_checkpoint_writer *w = NULL;
    check(!neap_checkpoint_writer_open(&w) && !open_pieces(pieces, 1), "%s", neap_error_message());
    fake_gpu_fail(k);
    int status = write_all(w, pieces, &about);
    fired = fake_gpu_failed();
    check(fired || !status, "%s", neap_error_message());
    check(!status || strlen(neap_error_message()) > 5, "call %d: no message", k);
    if (!status)
      check_file(pieces, &about, k);
    neap_checkpoint_writer_close(w);
    close_pieces(pieces);
    check(k > 3 || fired, "%d calls", k);
  }
}

int main(void)
{
  snprintf(path, sizeof path, "/tmp/neap-fake-XXXXXX");
  int file = mkstemp(path);
  check(file >= 0 && !neap_device_use(0), "%s", neap_error_message());
  test_copies(1 << 30);
  test_copies(1 << 20);
  test_failures();
  close(file);
  unlink(path);
  return check_done();
}
