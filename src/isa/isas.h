#ifndef FASTCONV_ISAS_H
#define FASTCONV_ISAS_H

#include "table.h"

int fastconv_isa_count(void);
const char *fastconv_isa_name(int index);
int fastconv_isa_supported(int index);                   /* by this machine */
const fastconv_kernels *fastconv_isa_kernels(int index); /* an array by dtype; only of one that is supported */

#endif
