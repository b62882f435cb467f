#include "exempt.h"

#include "text.h"

namespace procmon {

namespace {

constexpr Text kCritical[] = {
    literal(u"smss.exe"),       // sessions
    literal(u"csrss.exe"),      // the Win32 subsystem: its death is the machine's
    literal(u"wininit.exe"),   // starts the services
    literal(u"winlogon.exe"),  // logging on, and unlocking
    literal(u"services.exe"),  // the service control manager, which stops this driver
    literal(u"lsass.exe"),      // security: its death restarts the machine
    literal(u"logonui.exe"),   // what the user sees while logging on
    literal(u"dwm.exe"),        // the desktop: without it nobody sees the question
    literal(u"fontdrvhost.exe"),
    literal(u"conhost.exe"),   // the console of a controller that writes to one
    literal(u"werfault.exe"),  // error reports, of a controller too, and of a 32-bit one from the other folder
    literal(u"wermgr.exe"),
};

constexpr Text kSystem32 = literal(u"\\system32");
constexpr Text kSysWow64 = literal(u"\\syswow64");  // as long as the other

bool ends_with(Text text, Text end) {
    return text.length >= end.length && equal({text.data + text.length - end.length, end.length}, end);
}

// Is `folder` the system directory, or the one beside it for 32-bit programs?
bool is_system_directory(Text system_directory, Text folder) {
    if (equal(folder, system_directory)) return true;
    if (!ends_with(system_directory, kSystem32) || !ends_with(folder, kSysWow64)) return false;
    const size_t root = system_directory.length - kSystem32.length;
    return equal({folder.data, folder.length - kSysWow64.length}, {system_directory.data, root});
}

}  // namespace

bool is_critical_image(Text system_directory, Text image_name) {
    const size_t stem = system_directory.length;
    if (!stem || image_name.length <= stem + 1 || image_name.data[stem] != u'\\') return false;
    if (!is_system_directory(system_directory, {image_name.data, stem})) return false;
    const Text name = {image_name.data + stem + 1, image_name.length - stem - 1};
    for (const Text& critical : kCritical)
        if (equal(name, critical)) return true;
    return false;
}

}  // namespace procmon
