#include "table.h"

namespace procmon {

namespace {

// Buckets split for one record that comes, or merged for one that goes, at most: twice what it takes to keep up, for
// a table that has fallen behind for want of a segment, or has been thinned out.
constexpr uint32_t kSteps = 2 * Table::kBucketsPerRecord;

// Pids are small multiples of four: mix them so that neighbours part.
uint32_t mixed(uint32_t pid) {
    uint32_t hash = pid * 0x9E3779B1u;
    return hash ^ hash >> 15;
}

}  // namespace

void Table::open(Segment* first) {
    segments_[0] = first;
    buckets_ = allocated_ = kSegmentBuckets;
    mask_ = kSegmentBuckets - 1;
}

Record** Table::bucket(uint32_t index) const {
    return &segments_[index / kSegmentBuckets]->buckets[index % kSegmentBuckets];
}

// A bucket that does not exist yet still lives in the lower half.
uint32_t Table::bucket_of(uint32_t pid) const {
    const uint32_t index = mixed(pid) & mask_;
    return index < buckets_ ? index : index & mask_ >> 1;
}

Record* Table::find(uint32_t pid) const {
    for (Record* record = *bucket(bucket_of(pid)); record; record = record->next_in_bucket)
        if (record->pid == pid) return record;
    return nullptr;
}

void Table::insert(Record* record, bool findable) {
    PROCMON_CHECK(!records.last || records.last->start_key < record->start_key);
    records.append(record);
    ++size_;
    if (!findable) return;
    PROCMON_CHECK(!find(record->pid));
    Record** head = bucket(bucket_of(record->pid));
    record->next_in_bucket = *head;
    *head = record;
    ++findable_;
    for (uint32_t i = 0; i < kSteps && is_tight() && buckets_ < allocated_; ++i) split();
}

void Table::retire(Record* record) {
    Record** place = bucket(bucket_of(record->pid));
    while (*place != record) place = &(*place)->next_in_bucket;
    *place = record->next_in_bucket;
    record->next_in_bucket = nullptr;
    --findable_;
    for (uint32_t i = 0; i < kSteps && is_wide() && buckets_ > kSegmentBuckets; ++i) merge();
}

void Table::erase(Record* record) {
    if (cursor_ == record) cursor_ = record->by_key.previous;
    records.remove(record);
    --size_;
}

// The new last bucket takes its share from the one that has stood in for it.
void Table::split() {
    const uint32_t fresh = buckets_++;
    if (fresh > mask_) mask_ = mask_ * 2 + 1;
    Record** from = bucket(fresh & mask_ >> 1);
    Record** to = bucket(fresh);
    while (Record* record = *from) {
        if (bucket_of(record->pid) == fresh) {
            *from = record->next_in_bucket;
            record->next_in_bucket = *to;
            *to = record;
        } else {
            from = &record->next_in_bucket;
        }
    }
}

// The other way round.
void Table::merge() {
    const uint32_t last = --buckets_;
    Record** from = bucket(last);
    Record** to = bucket(last & mask_ >> 1);
    while (*to) to = &(*to)->next_in_bucket;
    *to = *from;
    *from = nullptr;
    if (buckets_ - 1 <= mask_ >> 1) mask_ >>= 1;
}

Table::Segment* Table::add(Segment* segment) {
    if (!wants_segment()) return segment;
    segments_[allocated_ / kSegmentBuckets] = segment;
    allocated_ += kSegmentBuckets;
    split();
    return nullptr;
}

// One whole segment is kept in reserve, so that a table at the boundary does not allocate and free by turns.
Table::Segment* Table::take_spare() {
    if (allocated_ < buckets_ + 2 * kSegmentBuckets) return nullptr;
    allocated_ -= kSegmentBuckets;
    Segment*& place = segments_[allocated_ / kSegmentBuckets];
    Segment* spare = place;
    place = nullptr;
    return spare;
}

Table::Segment* Table::take_any() {
    if (!allocated_) return nullptr;
    allocated_ -= kSegmentBuckets;
    return segments_[allocated_ / kSegmentBuckets];
}

Record* Table::after(uint64_t after_key) {
    Record* record = cursor_ && cursor_->start_key <= after_key ? cursor_ : records.first;
    while (record && record->start_key <= after_key) record = records.next(record);
    return record;
}

}  // namespace procmon
