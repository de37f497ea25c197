/* Scratch memory of macro-kernels, and memory of results: blocks kept from call to call, so that a hot loop neither
 * faults pages nor asks the system. Safe from any thread and across fork; what is idle is bounded and goes with
 * fastconv_workspace_trim. */
#ifndef FASTCONV_WORKSPACE_H
#define FASTCONV_WORKSPACE_H

#include <stddef.h>

void *fastconv_workspace_acquire(size_t bytes); /* 64-byte aligned, contents undefined; NULL when there is no memory */
void fastconv_workspace_release(void *block);   /* NULL is fine */
size_t fastconv_workspace_idle(void);           /* bytes kept for reuse */
void fastconv_workspace_trim(void);

#endif
