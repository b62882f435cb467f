// exempt.h - the Windows programs that are never held: without them the machine stops working, or cannot report why.
// docs/gates/driver.md explains the table.
#pragma once

#include "gate.h"

namespace procmon {

// A row of the table; 0 = none of them.
using Program = uint8_t;
constexpr Program kNoProgram = 0;

// The program that the DOS path `head` + `tail` names, in any case; kNoProgram for a path in another folder.
// `system_directory` is lowercase: "c:\windows\system32". Any thread, <= APC_LEVEL.
[[nodiscard]] Program program_of(const Port& port, Text system_directory, Text head, Text tail);

// Is it never held, whatever created it? Then no rule about its path can act.
[[nodiscard]] bool is_always_exempt(Program program);

// Is it never held when `creator` created it? `creator` is kNoProgram when it is not in the table, or not known.
[[nodiscard]] bool is_exempt(Program program, Program creator);

}  // namespace procmon
