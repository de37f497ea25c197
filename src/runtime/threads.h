/* How many threads a macro-kernel may use, the caller's floating-point mode for its workers, and life after fork. */
#ifndef FASTCONV_THREADS_H
#define FASTCONV_THREADS_H

#include <fenv.h>
#include <stddef.h>

void fastconv_set_threads(int count);
int fastconv_get_threads(void);

/* 1 inside another parallel region or for less work than starting a team costs; `work` counts multiply-adds or
 * elements moved, whichever is larger. Results never depend on the answer. */
int fastconv_team(double work);

/* Tasks of a team, each thread's own ones neighbours: with tasks that go along an image, one layer's thread mostly
 * reads what it wrote itself in the layer before, from its own cache. A thread that is done takes from the others. */
#define FASTCONV_STRETCHES 64 /* more threads share them */

typedef struct {
  _Alignas(64) _Atomic ptrdiff_t next;
  ptrdiff_t end;
} fastconv_stretch;

typedef struct {
  fastconv_stretch stretch[FASTCONV_STRETCHES];
  int stretches;
} fastconv_tasks;

/* Before a team starts: its threads may take 0 .. count - 1. It may turn out smaller. */
void fastconv_share_tasks(fastconv_tasks *tasks, ptrdiff_t count, int threads);
ptrdiff_t fastconv_take_task(fastconv_tasks *tasks); /* -1: there is none left */

int fastconv_openmp_is_llvm(void); /* rather than GNU libgomp */

/* libgomp's pool does not survive fork: the parent lets its idle workers go before, the child starts its own. LLVM's
 * looks after itself, and holds a lock through fork under which any call of it from a new thread would wait forever. */
void fastconv_install_fork_handler(void);

#endif
