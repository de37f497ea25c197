#ifndef FASTCONV_ISAS_H
#define FASTCONV_ISAS_H

#include "table.h"

int fastconv_isa_count(void);
const fastconv_kernels *fastconv_isa_kernels(int index); /* an array by dtype */
int fastconv_isa_supported(int index);                   /* by this machine */

#endif
