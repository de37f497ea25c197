#define ISA baseline
#define ISA_SUPPORTED 1
#include "../microkernels/instantiate.h"
