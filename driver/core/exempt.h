// exempt.h - the processes that are never held, for without them the machine does not go on, or cannot tell why.
#pragma once

#include "gate.h"

namespace procmon {

// Is this lowercase DOS path one of them? `system_directory` is lowercase: "c:\windows\system32"; SysWOW64 beside it,
// which nobody but Windows may write to either, counts as well. From anywhere else they are programs like any other.
[[nodiscard]] bool is_critical_image(Text system_directory, Text image_name);

}  // namespace procmon
