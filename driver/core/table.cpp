// table.cpp - the records: found by pid, and in the order of their start keys.

#include "table.h"

namespace procmon {

Record* Table::find(uint32_t pid) const {
    for (Record* record = *bucket(pid); record; record = record->next_in_bucket)
        if (record->pid == pid) return record;
    return nullptr;
}

void Table::insert(Record* record, bool findable) {
    PROCMON_CHECK(!records.last || records.last->start_key < record->start_key);
    records.append(record);
    ++size_;
    if (!findable) return;
    PROCMON_CHECK(!find(record->pid));
    Record** head = bucket(record->pid);
    record->next_in_bucket = *head;
    *head = record;
}

void Table::retire(Record* record) {
    Record** place = bucket(record->pid);
    while (*place != record) place = &(*place)->next_in_bucket;
    *place = record->next_in_bucket;
    record->next_in_bucket = nullptr;
}

void Table::erase(Record* record) {
    if (cursor_ == record) cursor_ = record->by_key.previous;
    records.remove(record);
    --size_;
}

Record* Table::after(uint64_t after_key) {
    Record* record = cursor_ && cursor_->start_key <= after_key ? cursor_ : records.first;
    while (record && record->start_key <= after_key) record = records.next(record);
    return record;
}

}  // namespace procmon
