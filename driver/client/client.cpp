// client.cpp - a process of a test's tree.
//
//     client ANYTHING...              prints its bitness and its command line, and ends with status 10
//     client ... run COMMAND LINE     runs the rest of its command line, and ends with its status plus 1
//     client mark                     also prints whether it is marked as debugged
//     client raise CODE               raises an exception that is not handled
//     client break                    runs into a breakpoint that is not handled
//     client control COUNT NAME       is a controller of the driver, see controller.cpp

#include "client.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

namespace procmon::client {

void say(const wchar_t* format, ...) {
    static wchar_t line[40000];
    static char bytes[3 * sizeof line / sizeof line[0] + 1];
    va_list arguments;
    va_start(arguments, format);
    int units = _vsnwprintf(line, sizeof line / sizeof line[0], format, arguments);
    va_end(arguments);
    int count = WideCharToMultiByte(CP_UTF8, 0, line, units, bytes, sizeof bytes - 1, nullptr, nullptr);
    bytes[count++] = '\n';
    DWORD written;
    WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), bytes, count, &written, nullptr);
}

const wchar_t* command_after(const wchar_t* word) {
    const wchar_t* found = wcsstr(GetCommandLineW(), word);
    return found == nullptr ? nullptr : found + wcslen(word);
}

namespace {

int run(const wchar_t* command) {
    STARTUPINFOW startup = {};
    startup.cb = sizeof startup;
    PROCESS_INFORMATION child;
    if (!CreateProcessW(nullptr, _wcsdup(command), nullptr, nullptr, TRUE, 0, nullptr, nullptr, &startup, &child)) {
        say(L"CreateProcessW: %lu", GetLastError());
        return 1;
    }
    WaitForSingleObject(child.hProcess, INFINITE);
    DWORD status;
    return GetExitCodeProcess(child.hProcess, &status) ? static_cast<int>(status + 1) : 1;
}

}  // namespace
}  // namespace procmon::client

int main(int count, char** words) {
    using namespace procmon::client;
    if (count == 4 && strcmp(words[1], "control") == 0) return control(atoi(words[2]), words[3]);
    say(L"%d %ls", static_cast<int>(sizeof(void*) * 8), GetCommandLineW());
    if (count == 2 && strcmp(words[1], "mark") == 0) say(IsDebuggerPresent() ? L"debugged" : L"not debugged");
    if (count == 2 && strcmp(words[1], "break") == 0) {
        SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
        asm("int3");
    }
    if (count == 3 && strcmp(words[1], "raise") == 0) {
        SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
        RaiseException(strtoul(words[2], nullptr, 0), 0, 0, nullptr);
    }
    const wchar_t* command = command_after(L" run ");
    return command == nullptr ? 10 : run(command);
}
