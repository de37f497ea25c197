#define _GNU_SOURCE /* dladdr */
#include "threads.h"

#include <dlfcn.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>

/* A team is woken in 5 to 50 microseconds; a core does a million multiply-adds in about 15. */
#define SERIAL_WORK 1e6

static atomic_int threads = 1;

void fastconv_set_threads(int count) { atomic_store(&threads, count); }
int fastconv_get_threads(void) { return atomic_load(&threads); }

int fastconv_team(double work) {
  if (work < SERIAL_WORK || omp_in_parallel()) return 1;
  return atomic_load(&threads);
}

void fastconv_share_tasks(fastconv_tasks *tasks, ptrdiff_t count, int threads) {
  const int n = threads < FASTCONV_STRETCHES ? threads : FASTCONV_STRETCHES;
  tasks->stretches = n;
  for (int i = 0; i < n; i++) {
    atomic_init(&tasks->stretch[i].next, count * i / n);
    tasks->stretch[i].end = count * (i + 1) / n;
  }
}

ptrdiff_t fastconv_take_task(fastconv_tasks *tasks) {
  const int own = omp_get_thread_num() % tasks->stretches;
  for (int i = 0; i < tasks->stretches; i++) {
    fastconv_stretch *from = &tasks->stretch[(own + i) % tasks->stretches];
    if (atomic_load_explicit(&from->next, memory_order_relaxed) >= from->end) continue;
    const ptrdiff_t task = atomic_fetch_add_explicit(&from->next, 1, memory_order_relaxed);
    if (task < from->end) return task;
  }
  return -1;
}

/* Of the library that our calls reach, whichever others this process holds: LLVM's answers to GCC's entry points, too.
 */
int fastconv_openmp_is_llvm(void) {
  Dl_info info;
  if (!dladdr((void *)(size_t)omp_in_parallel, &info)) return 0;
  void *library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return 0;
  const int llvm = dlsym(library, "__kmpc_fork_call") != NULL;
  dlclose(library);
  return llvm;
}

static void before_fork(void) {
  if (!omp_in_parallel()) omp_pause_resource_all(omp_pause_soft);
}

void fastconv_install_fork_handler(void) {
  static atomic_flag installed = ATOMIC_FLAG_INIT;
  if (!atomic_flag_test_and_set(&installed) && !fastconv_openmp_is_llvm()) pthread_atfork(before_fork, NULL, NULL);
}
