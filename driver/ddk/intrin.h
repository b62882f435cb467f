// intrin.h - the part of mingw-w64's intrin.h that its wdm.h needs. The full header includes every vector header of
// clang, and clang 19 has its own __cpuidex.
#pragma once

#include <psdk_inc/intrin-impl.h>

#if defined(__x86_64__)
unsigned __int64 __umulh(unsigned __int64, unsigned __int64);  // used by an inline function that we do not call
#endif
