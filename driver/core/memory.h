// memory.h - blocks of the port's memory, and checks that only debug builds make.
#pragma once

#include <string.h>

#include "port.h"

// A check of the core's own invariants: in debug builds and in every host build it stops the machine or the test.
#if !defined(_WIN32) || defined(PROCMON_DEBUG)
#if defined(_MSC_VER)
#define PROCMON_CHECK(condition) ((condition) ? void() : __debugbreak())
#else
#define PROCMON_CHECK(condition) ((condition) ? void() : __builtin_trap())
#endif
#else
#define PROCMON_CHECK(condition) void()
#endif

namespace procmon {

// The header of every allocation of the core: blocks of any type wait in one chain to be freed.
struct Block {
    Block* next_deferred;
    size_t bytes;
};

// A zeroed T with `extra` bytes of room behind it, or nullptr. `paged`: only touched at <= APC_LEVEL.
template <class T>
[[nodiscard]] T* allocate(const Port& port, size_t extra = 0, bool paged = false) {
    static_assert(alignof(T) <= 16, "the port aligns to 16 bytes");
    T* block = static_cast<T*>((paged ? port.allocate_paged : port.allocate)(port.context, sizeof(T) + extra));
    if (block) block->bytes = sizeof(T) + extra;
    return block;
}

// The room behind a T.
template <class T>
char16_t* text_behind(T* block) {
    static_assert(alignof(T) >= alignof(char16_t), "the text is aligned");
    return reinterpret_cast<char16_t*>(block + 1);
}

constexpr size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace procmon
