// volumes.h - DOS paths for the kernel's native names.
//
//   \Device\HarddiskVolume2\Tools\A.exe   c:\tools\a.exe          by the map of drive letters
//   \Device\Mup\server\share\a.exe        \\server\share\a.exe, also behind \;LanmanRedirector\;Z:...
//   \??\C:\Tools\A.exe                    c:\tools\a.exe
//   \SystemRoot\System32\smss.exe         c:\windows\system32\smss.exe
//
// The map is read under the gate's lock, but only to find the head of the path. The long tail is copied without it.
#pragma once

#include "exempt.h"
#include "gate.h"
#include "list.h"
#include "memory.h"
#include "text.h"

namespace procmon {

// The head of a DOS path, and the length of the native prefix that it replaces.
struct DosHead {
    char16_t text[kMaxSystemDirectory];
    size_t length = 0;
    size_t consumed = 0;  // code units of the native name; 0 = no translation: the native name stays
};

// The parts of a name that need the lock: the head of its DOS path, the map used, and the program that the path names.
struct NameHead : DosHead {
    uint32_t map = 0;
    Program program = kNoProgram;
};

// One native prefix, paged; its lowercase text lies behind it.
struct Volume : Block {
    Link<Volume> in_map;
    char16_t drive;
    size_t length;

    Text prefix() { return {text_behind(this), length}; }
};

using VolumeMap = List<Volume, &Volume::in_map>;

// `prefix` without its trailing backslash; nullptr when memory ran out.
[[nodiscard]] Volume* make_volume(const Port& port, Text prefix, char16_t drive);

// `system_directory` is lowercase: "c:\windows\system32".
void find_dos_head(const Port& port, const VolumeMap& map, Text system_directory, Text native_name, DosHead* head);

}  // namespace procmon
