/* How many threads a macro-kernel may use, the caller's floating-point mode for its workers, and life after fork. */
#ifndef FASTCONV_THREADS_H
#define FASTCONV_THREADS_H

#include <fenv.h>

void fastconv_set_threads(int count);
int fastconv_get_threads(void);

/* 1 inside another parallel region or for less work than starting a team costs; `work` counts multiply-adds or
 * elements moved, whichever is larger. Results never depend on the answer. */
int fastconv_team(double work);

int fastconv_openmp_is_llvm(void); /* rather than GNU libgomp */

/* libgomp's pool does not survive fork: the parent lets its idle workers go before, the child starts its own. LLVM's
 * looks after itself, and holds a lock through fork under which any call of it from a new thread would wait forever. */
void fastconv_install_fork_handler(void);

#endif
