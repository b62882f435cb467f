// client.h - a program for tests, built for x64 and x86 from the same sources, to test the other bitness.
#pragma once

#include <windows.h>

namespace procmon::client {

// Writes one line to standard output, in UTF-8.
void say(const wchar_t* format, ...);

// The text after `word` in this program's command line, unchanged; nullptr if the word is not there.
const wchar_t* command_after(const wchar_t* word);

// A controller of the driver, from protocol.h alone: answers held processes until `exits` processes have exited. It
// blocks those whose image name ends with `blocked`, and allows the others. Returns this program's exit status.
int control(int exits, const char* blocked);

}  // namespace procmon::client
