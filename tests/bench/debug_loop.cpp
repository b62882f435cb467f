// debug_loop.cpp - the least that a debugger of a process tree does: each event is continued at once.
//
//     debug_loop COMMAND LINE...
//
// Prints how many processes the tree had, and the microseconds from its start to its end.

#include <windows.h>

#include <stdio.h>
#include <wchar.h>

namespace {

int fail(const char* what) {
    fprintf(stderr, "debug_loop: %s: error %lu\n", what, GetLastError());
    return 1;
}

long long microseconds() {
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return ticks.QuadPart * 1000000 / per_second.QuadPart;
}

}  // namespace

int main() {
    wchar_t* command = wcschr(GetCommandLineW(), L' ');  // this program's own path has none
    while (command && *command == L' ') ++command;
    STARTUPINFOW startup = {};
    startup.cb = sizeof startup;
    PROCESS_INFORMATION first;
    const long long begin = microseconds();
    if (!command ||
        !CreateProcessW(nullptr, command, nullptr, nullptr, TRUE, DEBUG_PROCESS, nullptr, nullptr, &startup, &first))
        return fail("CreateProcessW");
    int started = 0, living = 0;
    do {
        DEBUG_EVENT event;
        if (!WaitForDebugEvent(&event, INFINITE)) return fail("WaitForDebugEvent");
        DWORD status = DBG_CONTINUE;
        HANDLE file = nullptr;
        switch (event.dwDebugEventCode) {
            case CREATE_PROCESS_DEBUG_EVENT:
                ++started, ++living;
                file = event.u.CreateProcessInfo.hFile;
                break;
            case LOAD_DLL_DEBUG_EVENT:
                file = event.u.LoadDll.hFile;
                break;
            case EXIT_PROCESS_DEBUG_EVENT:
                --living;
                break;
            case EXCEPTION_DEBUG_EVENT:
                if (event.u.Exception.ExceptionRecord.ExceptionCode != EXCEPTION_BREAKPOINT)
                    status = DBG_EXCEPTION_NOT_HANDLED;
                break;
        }
        if (file) CloseHandle(file);
        if (!ContinueDebugEvent(event.dwProcessId, event.dwThreadId, status)) return fail("ContinueDebugEvent");
    } while (living);
    printf("%d %lld\n", started, microseconds() - begin);
    return 0;
}
