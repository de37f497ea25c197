#include "workspace.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT 64
#define HUGE_PAGE ((size_t)2 << 20)
#define IDLE_BLOCKS 512
#define SPARE (64 << 10)
#ifdef FASTCONV_SANITIZE /* fresh blocks of the very size, so that a step past the end is seen */
#define GRANULE 64
#define IDLE_BYTES ((size_t)0)
#define KEEPS_PEAK 0
#else
#define GRANULE 4096
#define IDLE_BYTES ((size_t)128 << 20)
#define KEEPS_PEAK 1
#endif
#define FORGETTING 4096 /* blocks taken until little is left of a peak that did not come again */

typedef struct {
  void *data;
  size_t bytes;
} block;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static block idle[IDLE_BLOCKS];
static int idle_count;
static size_t idle_bytes, live_bytes, recent_peak;

/* A block's size stands in the alignment gap before it. */
static size_t *size_of(void *data) { return (size_t *)((char *)data - ALIGNMENT); }

/* Idle memory is bounded by a number, or by what was in use at once not long ago: a step of training frees all that it
 * holds and wants it again. */
static int is_too_much(size_t more) {
  const size_t idle_then = idle_bytes + more;
  return idle_then > IDLE_BYTES && !(KEEPS_PEAK && idle_then + live_bytes <= recent_peak);
}

static void forget_oldest(void) {
  free(size_of(idle[0].data));
  idle_bytes -= idle[0].bytes;
  memmove(idle, idle + 1, (size_t)--idle_count * sizeof *idle);
}

static void count_live(size_t bytes) {
  live_bytes += bytes;
  recent_peak -= recent_peak / FORGETTING;
  if (recent_peak < live_bytes) recent_peak = live_bytes;
  while (idle_count > 0 && is_too_much(0)) forget_oldest();
}

/* What was used last is in some cache still. None that is far too large: it may be held for long, as the memory of a
 * result, and what is as large as that would find none. */
static void *take_last_that_fits(size_t bytes) {
  const size_t most = bytes < 2 * HUGE_PAGE ? 2 * bytes + SPARE : bytes + bytes / 4;
  for (int i = idle_count - 1; i >= 0; i--) {
    if (idle[i].bytes < bytes || idle[i].bytes > most) continue;
    void *data = idle[i].data;
    idle_bytes -= idle[i].bytes;
    memmove(idle + i, idle + i + 1, (size_t)(--idle_count - i) * sizeof *idle);
    return data;
  }
  return NULL;
}

/* Huge pages where the system has them: a tile of a large result lies in as many small ones as it has rows. */
static char *fresh(size_t bytes) {
  if (bytes < 2 * HUGE_PAGE) return aligned_alloc(ALIGNMENT, bytes);
  char *raw = aligned_alloc(HUGE_PAGE, (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
#ifdef MADV_HUGEPAGE
  if (raw) madvise(raw, bytes, MADV_HUGEPAGE);
#endif
  return raw;
}

void *fastconv_workspace_acquire(size_t bytes) {
  bytes = (bytes + GRANULE - 1) / GRANULE * GRANULE;
  pthread_mutex_lock(&lock);
  void *data = take_last_that_fits(bytes);
  if (data) bytes = *size_of(data);
  count_live(bytes);
  pthread_mutex_unlock(&lock);
  if (data) return data;
  char *raw = fresh(bytes + ALIGNMENT);
  if (!raw) {
    pthread_mutex_lock(&lock);
    live_bytes -= bytes;
    pthread_mutex_unlock(&lock);
    return NULL;
  }
  *size_of(raw + ALIGNMENT) = bytes;
  return raw + ALIGNMENT;
}

/* What was used last is what is wanted next: room is made for it. */
void fastconv_workspace_release(void *data) {
  if (!data) return;
  const size_t bytes = *size_of(data);
  pthread_mutex_lock(&lock);
  live_bytes -= bytes;
  while (idle_count > 0 && (idle_count == IDLE_BLOCKS || is_too_much(bytes))) forget_oldest();
  const int kept = !is_too_much(bytes);
  if (kept) {
    idle[idle_count++] = (block){data, bytes};
    idle_bytes += bytes;
  }
  pthread_mutex_unlock(&lock);
  if (!kept) free(size_of(data));
}

size_t fastconv_workspace_idle(void) {
  pthread_mutex_lock(&lock);
  const size_t bytes = idle_bytes;
  pthread_mutex_unlock(&lock);
  return bytes;
}

void fastconv_workspace_trim(void) {
  pthread_mutex_lock(&lock);
  while (idle_count > 0) free(size_of(idle[--idle_count].data));
  idle_bytes = recent_peak = 0;
  pthread_mutex_unlock(&lock);
}

static void hold(void) { pthread_mutex_lock(&lock); }
static void let_go(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void survive_fork(void) { pthread_atfork(hold, let_go, let_go); }
