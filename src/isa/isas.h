#ifndef FASTCONV_ISAS_H
#define FASTCONV_ISAS_H

#include "table.h"

int fastconv_isa_count(void);
const char *fastconv_isa_name(int index);
int fastconv_isa_supported(int index);                   /* by this machine */
const fastconv_kernels *fastconv_isa_kernels(int index); /* an array by dtype; only of one that is supported */
int fastconv_streams(
    void); /* whether stores around the caches are the faster ones where no cache holds what is written */

#endif
