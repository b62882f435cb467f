// exempt.h - the programs of Windows that are never held, for without them the machine does not go on, or cannot tell
// why. docs/gates/driver.md has the same table for people.
#pragma once

#include "gate.h"

namespace procmon {

// A row of the table; 0 = none of them.
using Program = uint8_t;
constexpr Program kNoProgram = 0;

// Which program this DOS path names, whatever its case: head and tail are its two parts. `system_directory` is
// lowercase: "c:\windows\system32". A path elsewhere names a program like any other. Any thread, <= APC_LEVEL.
[[nodiscard]] Program program_of(const Port& port, Text system_directory, Text head, Text tail);

// Is it never held, whatever created it? Then no rule about its path can act.
[[nodiscard]] bool is_always_exempt(Program program);

// Is it never held when that program created it? kNoProgram: the creator is not one of the table, or not known.
[[nodiscard]] bool is_exempt(Program program, Program creator);

}  // namespace procmon
