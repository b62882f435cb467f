// text.h - UTF-16 texts: lowercase, hash, compare. Nothing here allocates or takes the lock.
#pragma once

#include <string.h>

#include "gate.h"

namespace procmon {

constexpr size_t kMaxSystemDirectory = 260;  // code units of its path

template <size_t kUnits>
constexpr Text literal(const char16_t (&text)[kUnits]) {
    return {text, kUnits - 1};
}

inline char16_t lower(const Port& port, char16_t unit) { return port.lowercase[unit]; }

inline bool equal(Text a, Text b) {  // no memcmp: NT 5.2 kernels do not export it
    if (a.length != b.length) return false;
    for (size_t i = 0; i < a.length; ++i)
        if (a.data[i] != b.data[i]) return false;
    return true;
}

inline void copy_text(char16_t* to, Text text) {
    if (text.length) memcpy(to, text.data, text.length * sizeof(char16_t));
}

inline void copy_lower(const Port& port, char16_t* to, Text text) {
    for (size_t i = 0; i < text.length; ++i) to[i] = lower(port, text.data[i]);
}

// Does `text`, lowercased, equal `lowered` (which is lowercase already)?
inline bool equals_lowered(const Port& port, Text text, Text lowered) {
    if (text.length != lowered.length) return false;
    for (size_t i = 0; i < text.length; ++i)
        if (lower(port, text.data[i]) != lowered.data[i]) return false;
    return true;
}

inline bool starts_with_lowered(const Port& port, Text text, Text lowered) {
    return text.length >= lowered.length && equals_lowered(port, {text.data, lowered.length}, lowered);
}

// FNV-1a, unit by unit of the lowercase form.
constexpr uint64_t kEmptyHash = 0xcbf29ce484222325;
inline uint64_t hash_more(uint64_t hash, char16_t lowered) { return (hash ^ lowered) * 0x100000001b3; }
inline uint64_t hash_more(uint64_t hash, const Port& port, Text text) {
    for (size_t i = 0; i < text.length; ++i) hash = hash_more(hash, lower(port, text.data[i]));
    return hash;
}

inline Text cut(Text text, size_t bytes) {
    const size_t limit = bytes / sizeof(char16_t);
    return {text.data, text.length < limit ? text.length : limit};
}

}  // namespace procmon
