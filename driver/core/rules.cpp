// rules.cpp - the controller's rules: parsed once, found by hash, compared by path.

#include "rules.h"

#include "text.h"

namespace procmon {

namespace {

struct Entry {
    wire::RuleHeader header;
    Text path;
};

// Reads the rule at `*offset` and steps over it; false when there is no well-formed one.
bool next_entry(const unsigned char* input, size_t input_bytes, size_t* offset, Entry* entry) {
    const size_t left = input_bytes - *offset;
    wire::RuleHeader& header = entry->header;
    if (left < sizeof header) return false;
    memcpy(&header, input + *offset, sizeof header);
    const bool sound = header.path_bytes && header.path_bytes % sizeof(char16_t) == 0 &&
                       header.path_bytes <= wire::kMaxNameBytes && !header.reserved &&
                       (header.verdict == wire::kVerdictAllow || header.verdict == wire::kVerdictBlock) &&
                       header.size == round_up(sizeof header + header.path_bytes, 8) && header.size <= left;
    if (!sound) return false;
    const void* path = input + *offset + sizeof header;
    entry->path = {static_cast<const char16_t*>(path), header.path_bytes / sizeof(char16_t)};
    *offset += header.size;
    return true;
}

const Rule** buckets_of(const Rules* rules) {
    return reinterpret_cast<const Rule**>(const_cast<Rules*>(rules) + 1);
}

const Rule* find_one(const Port& port, const Rules* rules, Text path, uint64_t hash) {
    if (!path.length) return nullptr;
    for (const Rule* rule = buckets_of(rules)[hash & rules->mask]; rule; rule = rule->next_in_bucket)
        if (rule->hash == hash && equals_lowered(port, path, rule->path)) return rule;
    return nullptr;
}

}  // namespace

const Rule* Rules::find(const Port& port, Text native, uint64_t native_hash, Text image, uint64_t image_hash) const {
    const Rule* by_native = find_one(port, this, native, native_hash);
    const Rule* by_image = find_one(port, this, image, image_hash);
    if (!by_native || !by_image) return by_native ? by_native : by_image;
    return by_native->index < by_image->index ? by_native : by_image;
}

Status parse_rules(const Port& port, const void* input, size_t input_bytes, Rules** rules) {
    *rules = nullptr;
    const unsigned char* bytes = static_cast<const unsigned char*>(input);
    wire::RulesHeader header;
    memcpy(&header, bytes, sizeof header);
    if (header.reserved || header.count > wire::kMaxRules || input_bytes > wire::kMaxRulesBytes)
        return kInvalidParameter;

    Entry entry;
    size_t offset = sizeof header;
    size_t text_bytes = 0;
    for (uint32_t i = 0; i < header.count; ++i) {
        if (!next_entry(bytes, input_bytes, &offset, &entry)) return kInvalidParameter;
        text_bytes += entry.header.path_bytes;
    }
    if (offset != input_bytes) return kInvalidParameter;
    if (!header.count) return kSuccess;

    uint32_t bucket_count = 1;
    while (bucket_count < header.count) bucket_count *= 2;
    const size_t buckets_bytes = round_up(bucket_count * sizeof(Rule*), alignof(Rule));
    Rules* built = allocate<Rules>(port, buckets_bytes + header.count * sizeof(Rule) + text_bytes, true);
    if (!built) return kInsufficientResources;
    built->count = header.count;
    built->mask = bucket_count - 1;
    const Rule** buckets = buckets_of(built);
    Rule* rule = reinterpret_cast<Rule*>(reinterpret_cast<unsigned char*>(buckets) + buckets_bytes);
    built->first = rule;
    char16_t* text = reinterpret_cast<char16_t*>(rule + header.count);

    offset = sizeof header;
    for (uint32_t i = 0; i < header.count; ++i, ++rule) {
        if (!next_entry(bytes, input_bytes, &offset, &entry)) break;  // cannot happen: checked above
        copy_lower(port, text, entry.path);
        *rule = {nullptr, 0, {text, entry.path.length}, entry.header.verdict, i, false};
        rule->hash = hash_more(kEmptyHash, port, rule->path);
        text += entry.path.length;
        const Rule** place = &buckets[rule->hash & built->mask];
        for (; *place && !rule->is_inert; place = &const_cast<Rule*>(*place)->next_in_bucket)
            rule->is_inert = (*place)->hash == rule->hash && equal((*place)->path, rule->path);
        if (!rule->is_inert) *place = rule;  // an inert rule is in no bucket: many equal ones make no long chain
    }
    *rules = built;
    return kSuccess;
}

}  // namespace procmon
