// volumes.h - from the names that the kernel gives to the paths that people write.
//
//   \Device\HarddiskVolume2\Tools\A.exe   c:\tools\a.exe          by the map of drive letters
//   \Device\Mup\server\share\a.exe        \\server\share\a.exe, also behind \;LanmanRedirector\;Z:...
//   \??\C:\Tools\A.exe                    c:\tools\a.exe
//   \SystemRoot\System32\smss.exe         c:\windows\system32\smss.exe
//
// The map is read under the gate's lock, but only to find the head of the path: the long tail is copied without it.
#pragma once

#include "exempt.h"
#include "gate.h"
#include "list.h"
#include "memory.h"
#include "text.h"

namespace procmon {

// How a DOS path begins, and how much of the native name that stands for.
struct DosHead {
    char16_t text[kMaxSystemDirectory];
    size_t length = 0;
    size_t consumed = 0;  // code units of the native name; 0 = no rule applies: the native name stays
};

// What the lock is needed for when a name is made: how its DOS path begins, by which map, and which program it is.
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
