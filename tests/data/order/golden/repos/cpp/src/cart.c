#include "cart.h"
#include <string.h>

static int unused;
