// exempt.cpp - the table of Windows' programs that are never held, and their usual creators. creations.cpp and
// holds.cpp apply it. Descendants of the controller may be exempt, too: `GateState::descends`, transitions.cpp.

#include "exempt.h"

#include "text.h"

namespace procmon {

namespace {

enum : Program {
    kSmss = 1,
    kCsrss,
    kWininit,
    kServices,
    kLsass,
    kWinlogon,
    kLogonui,
    kDwm,
    kFontdrvhost,
    kUserinit,
    kConhost,
    kSvchost,
    kConsent,
    kSihost,
    kWudfhost,
    kDrvinst,
    kWerfault,
    kWermgr,
    kPrograms,
};

constexpr uint32_t below(Program creator) { return 1u << creator; }
constexpr uint32_t kAnyCreator = 0xFFFFFFFF;
static_assert(kPrograms <= 31, "a bit for each creator");

struct Row {
    Text name;
    uint32_t creators;  // that start it on a healthy Windows
    bool in_syswow64;   // its 32-bit twin counts as well
};

// Sources: Windows Internals, 7th edition, part 1, chapter 2 (system processes), part 2, chapters 10 (services, UMDF)
// and 12 (start-up); for werfault and wermgr the documentation of Windows Error Reporting; for consent that of UAC
// ("How User Account Control works": the Application Information service starts it); for conhost "Inside the Windows
// Console" of the Windows Command-Line team.
// Children of any other creator are held: a creator can start a program suspended and replace its code.
// Not in the table on purpose: conhost below the console program (Windows 8 and later), which can be any program;
// dllhost and RuntimeBroker, which run the code of others, and for which COM waits two minutes, longer than the default
// hold; other services, for which the SCM waits 30 seconds.
constexpr Row kTable[kPrograms] = {
    {},
    {literal(u"smss.exe"), kAnyCreator, false},      // sessions
    {literal(u"csrss.exe"), kAnyCreator, false},     // the Win32 subsystem: its death is a bugcheck
    {literal(u"wininit.exe"), kAnyCreator, false},   // starts the services
    {literal(u"services.exe"), kAnyCreator, false},  // the service control manager, which stops this driver
    {literal(u"lsass.exe"), kAnyCreator, false},     // security: its death restarts the machine
    {literal(u"winlogon.exe"), below(kSmss), false},  // logging on, and unlocking
    {literal(u"logonui.exe"), below(kWinlogon), false},  // what the user sees while logging on
    {literal(u"dwm.exe"), below(kWinlogon) | below(kSvchost), false},  // the desktop; below svchost until Windows 7
    {literal(u"fontdrvhost.exe"), below(kWininit) | below(kWinlogon), false},
    {literal(u"userinit.exe"), below(kWinlogon), false},  // the first program of a session: it starts the shell
    {literal(u"conhost.exe"), below(kCsrss), false},  // the console of any program, on Windows 7
    {literal(u"svchost.exe"), below(kServices), true},  // a stop of this driver can queue behind its start
    {literal(u"consent.exe"), below(kSvchost), false},  // without a UAC prompt there is no tool to stop the gate
    {literal(u"sihost.exe"), below(kSvchost), false},   // the shell's host: the desktop waits for it
    {literal(u"wudfhost.exe"), below(kSvchost) | below(kServices), false},  // user-mode drivers, keyboards among them
    {literal(u"drvinst.exe"), below(kSvchost), false},  // installs a device that was plugged in
    {literal(u"werfault.exe"), below(kSvchost) | below(kWermgr), true},  // error reports, the controller's too
    {literal(u"wermgr.exe"), below(kSvchost) | below(kWerfault), true},
};

constexpr Text kSystem32 = literal(u"\\system32");
constexpr Text kSysWow64 = literal(u"\\syswow64");  // as long as the other
constexpr size_t kLongestName = 16;

bool ends_with(Text text, Text end) {
    return text.length >= end.length && equal({text.data + text.length - end.length, end.length}, end);
}

// Is `folder` SysWOW64, beside the system directory?
bool is_syswow64(Text system_directory, Text folder) {
    if (!ends_with(system_directory, kSystem32) || !ends_with(folder, kSysWow64)) return false;
    const size_t root = system_directory.length - kSystem32.length;
    return equal({folder.data, folder.length - kSysWow64.length}, {system_directory.data, root});
}

}  // namespace

Program program_of(const Port& port, Text system_directory, Text head, Text tail) {
    const size_t stem = system_directory.length, length = head.length + tail.length;
    if (!stem || length <= stem + 1 || length > stem + 1 + kLongestName) return kNoProgram;
    char16_t path[kMaxSystemDirectory + 1 + kLongestName];
    copy_lower(port, path, head);
    copy_lower(port, path + head.length, tail);
    if (path[stem] != u'\\') return kNoProgram;
    const Text folder = {path, stem};
    const bool is_system = equal(folder, system_directory);
    if (!is_system && !is_syswow64(system_directory, folder)) return kNoProgram;
    for (Program program = 1; program < kPrograms; ++program)
        if (equal({path + stem + 1, length - stem - 1}, kTable[program].name))
            return is_system || kTable[program].in_syswow64 ? program : kNoProgram;
    return kNoProgram;
}

bool is_always_exempt(Program program) { return program && kTable[program].creators == kAnyCreator; }

bool is_exempt(Program program, Program creator) {
    return is_always_exempt(program) || (program && creator && kTable[program].creators & below(creator));
}

}  // namespace procmon
