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
