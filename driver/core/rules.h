// rules.h - verdicts for exact paths, set in advance by SET_RULES.
//
// A set is built without the lock and immutable afterwards: a new set replaces it by the exchange of one pointer.
#pragma once

#include "gate.h"
#include "memory.h"

namespace procmon {

struct Rule {
    const Rule* next_in_bucket;  // in the order of the request: the first of two for one path is found first
    uint64_t hash;
    Text path;  // lowercase
    uint32_t verdict;
    uint32_t index;
    bool is_inert;  // it can never act
};

// One block, paged: the set, its buckets, its rules, their paths.
struct Rules : Block {
    uint32_t count;
    uint32_t mask;  // of the buckets
    Rule* first;    // `count` of them, in the order of the request

    // The earlier of the rules for the native and for the DOS path, or nullptr. Each hash is of the lowercase text.
    // `image` is lowercase already, `native` need not be.
    [[nodiscard]] const Rule* find(const Port& port, Text native, uint64_t native_hash, Text image,
                                   uint64_t image_hash) const;
};

// *rules is nullptr for an empty request. kInvalidParameter when it is malformed in any way.
[[nodiscard]] Status parse_rules(const Port& port, const void* input, size_t input_bytes, Rules** rules);

}  // namespace procmon
