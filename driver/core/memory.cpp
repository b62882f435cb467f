// memory.cpp - memory of records and of their texts: prepared outside the lock, from the reserve if the pool is empty,
// within the budget of texts, and given back after the lock is released.

#include "memory.h"

#include "exempt.h"
#include "state.h"
#include "text.h"

namespace procmon {

using namespace wire;

namespace {

// The parts of a name: the head of the DOS path, its tail (the end of the native name), and the native name. Both paths
// are cut to the limit of a UNICODE_STRING.
struct NameParts {
    Text head, tail, native;

    NameParts(Text native_name, const DosHead& dos_head) {
        head = {dos_head.text, dos_head.length};
        native = cut(native_name, kMaxNameBytes);
        tail = cut({native.data + dos_head.consumed, native.length - dos_head.consumed},
                   kMaxNameBytes - head.length * sizeof(char16_t));
    }
    [[nodiscard]] size_t units() const { return head.length + tail.length + native.length; }
};

// `names` has room for them. Each unit is lowercased once, for the image name and both hashes.
void write_names(const Port& port, Names* names, const NameParts& parts, const NameHead& head) {
    names->image_length = static_cast<uint32_t>(parts.head.length + parts.tail.length);
    names->native_length = static_cast<uint32_t>(parts.native.length);
    names->image_is_native = !head.consumed;
    names->map = head.map;
    names->program = head.program;
    char16_t* to = text_behind(names);
    copy_text(to, parts.head);
    copy_text(to + names->image_length, parts.native);
    to += parts.head.length;
    const Text before = {parts.native.data, head.consumed};
    uint64_t image_hash = hash_more(kEmptyHash, port, parts.head);
    uint64_t native_hash = hash_more(kEmptyHash, port, before);
    for (size_t i = 0; i < parts.tail.length; ++i) {
        to[i] = lower(port, parts.tail.data[i]);
        image_hash = hash_more(image_hash, to[i]);
        native_hash = hash_more(native_hash, to[i]);
    }
    const size_t done = before.length + parts.tail.length;  // the tail is cut where the DOS head is longer
    names->image_hash = image_hash;
    names->native_hash = hash_more(native_hash, port, {parts.native.data + done, parts.native.length - done});
}

// Takes the first block of a chain and zeroes it. Its `bytes` is 0: memory_bytes counts the reserve as one block.
template <class T>
T* take(Block** chain, size_t bytes) {
    Block* block = *chain;
    if (!block) return nullptr;
    *chain = block->next_deferred;
    memset(static_cast<void*>(block), 0, bytes);
    return static_cast<T*>(block);
}

template <class T, size_t kCount>
bool lies_in(const T (&array)[kCount], const void* block) {
    const auto at = reinterpret_cast<uintptr_t>(block), first = reinterpret_cast<uintptr_t>(array);
    return at >= first && at - first < sizeof array;
}

}  // namespace

void Reserve::fill() {
    for (uint32_t i = kReserveRecords; i-- > 0;) {
        if (!give_back(&records[i]) || !give_back(&names[i].names)) return;  // cannot happen: both belong to it
    }
}

Record* Reserve::take_record() { return take<Record>(&free_records, sizeof(Record)); }
Names* Reserve::take_names() { return take<Names>(&free_names, sizeof(Names)); }

bool Reserve::give_back(Block* block) {
    const bool is_record = lies_in(records, block);
    if (!is_record && !lies_in(names, block)) return false;
    Block*& chain = is_record ? free_records : free_names;
    block->next_deferred = chain;
    chain = block;
    return true;
}

DeferredFree::~DeferredFree() {
    while (Block* block = blocks_) {
        blocks_ = block->next_deferred;
        port_.release(port_.context, block);
    }
    if (event_) port_.user_event_close(port_.context, event_);
}

Names* make_names(const Port& port, Text native_name, const NameHead& head) {
    const NameParts parts(native_name, head);
    Names* names = allocate<Names>(port, parts.units() * sizeof(char16_t), true);
    if (names) write_names(port, names, parts, head);
    return names;
}

CommandLine* make_command_line(const Port& port, Text text) {
    const Text kept = cut(text, kMaxCommandLineBytes);
    CommandLine* line = allocate<CommandLine>(port, kept.length * sizeof(char16_t), true);
    if (!line) return nullptr;
    line->length = kept.length;
    copy_text(text_behind(line), kept);
    return line;
}

void GateState::find_head(Text native_name, NameHead* head) const {
    find_dos_head(port, volumes, system_directory_text(), native_name, head);
    const NameParts parts(native_name, *head);
    head->map = map_number;
    head->program = program_of(port, system_directory_text(), parts.head, parts.tail);
}

void GateState::keep_text(Block* block) {
    keep(block);
    text_bytes += block->bytes;
}

void GateState::drop(Block* block, DeferredFree& deferred) {
    if (!block) return;
    memory_bytes -= block->bytes;
    give_back(block, deferred);
}

void GateState::drop_text(Block* block, DeferredFree& deferred) {
    if (block) text_bytes -= block->bytes;
    drop(block, deferred);
}

void GateState::give_back(Block* block, DeferredFree& deferred) {
    if (block && !reserve->give_back(block)) deferred.add(block);
}

void GateState::give_back(Prepared& prepared, DeferredFree& deferred) {
    give_back(prepared.record, deferred);
    give_back(prepared.names, deferred);
    give_back(prepared.line, deferred);
}

void GateState::drop_volumes(VolumeMap& map, DeferredFree& deferred) {
    while (Volume* volume = map.first) {
        map.remove(volume);
        drop(volume, deferred);
    }
}

Names* GateState::fit_names(Names* names, const NameHead& head, Text native_name, DeferredFree& deferred) {
    if (names && make_text_room(names->bytes, deferred)) return names;
    give_back(names, deferred);
    if (!native_name.length) return nullptr;
    const NameParts parts(native_name, head);
    if (parts.units() * sizeof(char16_t) > sizeof(Reserve::NamesAndText::text)) return nullptr;
    names = reserve->take_names();
    if (names) write_names(port, names, parts, head);
    return names;
}

CommandLine* GateState::fit_command_line(CommandLine* line, DeferredFree& deferred) {
    if (line && make_text_room(line->bytes, deferred)) return line;
    give_back(line, deferred);
    return nullptr;
}

bool GateState::make_room(DeferredFree& deferred) {
    while (table.size() >= kMaxRecords)
        if (!give_up_exit(deferred)) return false;
    return true;
}

bool GateState::make_text_room(size_t more_bytes, DeferredFree& deferred) {
    while (text_bytes + more_bytes > kMaxTextBytes)
        if (!give_up_exit(deferred)) return false;
    return true;
}

bool GateState::give_up_exit(DeferredFree& deferred) {
    for (Record* record = exited.first; record; record = exited.next(record)) {
        if (record->holds) continue;
        ++counters.exits_lost;
        unseen.remove(record);
        drop_if_done(record, deferred);
        return true;
    }
    return false;
}

}  // namespace procmon
