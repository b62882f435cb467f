// volumes.cpp - from native names to names with drive letters.

#include "volumes.h"

#include "text.h"

namespace procmon {

namespace {

constexpr Text kNetwork = literal(u"\\device\\mup");
constexpr Text kDosDevices = literal(u"\\??");
constexpr Text kSystemRoot = literal(u"\\systemroot");

// Does `name` lie under `prefix`? Then a backslash must follow: HarddiskVolume1 is no prefix of HarddiskVolume11.
bool lies_under(const Port& port, Text name, Text prefix) {
    return name.length > prefix.length && name.data[prefix.length] == u'\\' && starts_with_lowered(port, name, prefix);
}

Text parent_directory(Text path) {
    while (path.length && path.data[path.length - 1] != u'\\') --path.length;
    if (path.length) --path.length;
    return path;
}

// Where the server begins in a name under kNetwork. The redirector and its session can come first, each after a
// semicolon: \Device\Mup\;LanmanRedirector\;Z:00000000000003e7\server\share\a.exe. No server's name starts with one.
// Without these parts a rule about \\server\share matches the file however it was opened.
size_t end_of_redirector(Text name) {
    size_t at = kNetwork.length;
    while (at + 1 < name.length && name.data[at + 1] == u';') {
        size_t next = at + 1;
        while (next < name.length && name.data[next] != u'\\') ++next;
        if (next == name.length) break;
        at = next;
    }
    return at;
}

void set_head(DosHead* head, Text text, size_t consumed) {
    copy_text(head->text, text);
    head->length = text.length;
    head->consumed = consumed;
}

}  // namespace

Volume* make_volume(const Port& port, Text prefix, char16_t drive) {
    while (prefix.length && prefix.data[prefix.length - 1] == u'\\') --prefix.length;
    Volume* volume = allocate<Volume>(port, prefix.length * sizeof(char16_t), true);
    if (!volume) return nullptr;
    volume->drive = lower(port, drive);
    volume->length = prefix.length;
    copy_lower(port, text_behind(volume), prefix);
    return volume;
}

void find_dos_head(const Port& port, const VolumeMap& map, Text system_directory, Text name, DosHead* head) {
    head->length = head->consumed = 0;
    for (Volume* volume = map.first; volume; volume = map.next(volume)) {
        if (!lies_under(port, name, volume->prefix())) continue;
        const char16_t drive[] = {volume->drive, u':'};
        return set_head(head, {drive, 2}, volume->length);
    }
    if (lies_under(port, name, kNetwork)) return set_head(head, literal(u"\\"), end_of_redirector(name));
    if (lies_under(port, name, kDosDevices)) {
        // Only a drive letter: \??\Volume{...}\ and \??\UNC\ keep their native names.
        const Text rest = {name.data + kDosDevices.length + 1, name.length - kDosDevices.length - 1};
        if (rest.length > 2 && rest.data[1] == u':' && rest.data[2] == u'\\')
            return set_head(head, {}, kDosDevices.length + 1);
    }
    const Text root = parent_directory(system_directory);
    if (root.length && lies_under(port, name, kSystemRoot)) set_head(head, root, kSystemRoot.length);
}

}  // namespace procmon
