// list.h - a doubly linked list whose links lie in its items: no allocation, O(1) append, remove and membership.
#pragma once

namespace procmon {

template <class T>
struct Link {
    T* previous;
    T* next;
};

// Zeroed memory is an empty list, and a zeroed link is in no list.
template <class T, Link<T> T::*kLink>
struct List {
    T* first;
    T* last;

    static T* next(const T* item) { return (item->*kLink).next; }
    bool contains(const T* item) const { return first == item || (item->*kLink).previous; }

    void append(T* item) {
        item->*kLink = {last, nullptr};
        (last ? (last->*kLink).next : first) = item;
        last = item;
    }

    void remove(T* item) {
        Link<T>& link = item->*kLink;
        (link.previous ? (link.previous->*kLink).next : first) = link.next;
        (link.next ? (link.next->*kLink).previous : last) = link.previous;
        link = {};
    }
};

}  // namespace procmon
