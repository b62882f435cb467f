// intrin.h - what mingw-w64's wdm.h needs of its intrin.h. The whole of it includes every vector header of clang's, and
// clang 19 has a __cpuidex of its own.
#pragma once

#include <psdk_inc/intrin-impl.h>

#if defined(__x86_64__)
unsigned __int64 __umulh(unsigned __int64, unsigned __int64);  // of an inline function that we do not call
#endif
