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
    literal(u"conhost.exe"),   // the console of a controller that writes to one
    literal(u"werfault.exe"),  // error reports, of a controller too
    literal(u"wermgr.exe"),
};

}  // namespace

bool is_critical_image(Text system_directory, Text image_name) {
    const size_t stem = system_directory.length;
    if (!stem || image_name.length <= stem + 1 || image_name.data[stem] != u'\\') return false;
    if (!equal({image_name.data, stem}, system_directory)) return false;
    const Text name = {image_name.data + stem + 1, image_name.length - stem - 1};
    for (const Text& critical : kCritical)
        if (equal(name, critical)) return true;
    return false;
}

}  // namespace procmon
