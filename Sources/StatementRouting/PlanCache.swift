/// Plans by text, catalog version and search path: the ones used longest ago make room for new ones.
public struct PlanCache<Plan: Sendable>: Sendable {
    /// What a plan depends on.
    public struct Key: Hashable, Sendable {
        /// The statement's whole text.
        public var text: String
        /// ``Placement/Catalog/version``.
        public var catalogVersion: UInt64
        public var searchPath: [String]

        /// Makes a key.
        public init(text: String, catalogVersion: UInt64, searchPath: [String]) {
            (self.text, self.catalogVersion, self.searchPath) = (text, catalogVersion, searchPath)
        }
    }

    /// How many plans are kept.
    public let capacity: Int
    @usableFromInline var slots: [Key: Int] = [:]
    /// A ring in the sequence of use: `entries[0]` is its head, whose `next` was used last.
    @usableFromInline var entries: [Entry] = [Entry(key: nil, plan: nil, previous: 0, next: 0)]

    @usableFromInline
    struct Entry: Sendable {
        @usableFromInline var key: Key?
        @usableFromInline var plan: Plan?
        @usableFromInline var previous: Int
        @usableFromInline var next: Int
    }

    /// Makes an empty cache; `capacity` is at least 1. A plan takes a few kilobytes.
    public init(capacity: Int) {
        precondition(capacity > 0, "a cache for \(capacity) plans")
        self.capacity = capacity
    }

    /// How many plans are kept now.
    public var count: Int { slots.count }

    /// The plan of a text, which counts as used now.
    @inlinable
    public mutating func plan(for key: Key) -> Plan? {
        guard let slot = slots[key] else { return nil }
        if entries[0].next != slot {
            unlink(slot)
            link(slot)
        }
        return entries[slot].plan
    }

    /// Keeps a plan, in place of the one used longest ago if there are too many.
    public mutating func insert(_ plan: Plan, for key: Key) {
        if let slot = slots[key] {
            entries[slot].plan = plan
            unlink(slot)
            return link(slot)
        }
        let slot: Int
        if slots.count < capacity {
            slot = entries.count
            entries.append(Entry(key: key, plan: plan, previous: 0, next: 0))
        } else {
            slot = entries[0].previous
            unlink(slot)
            if let old = entries[slot].key { slots[old] = nil }
            (entries[slot].key, entries[slot].plan) = (key, plan)
        }
        slots[key] = slot
        link(slot)
    }

    @inlinable
    mutating func unlink(_ slot: Int) {
        let (previous, next) = (entries[slot].previous, entries[slot].next)
        entries[previous].next = next
        entries[next].previous = previous
    }

    @inlinable
    mutating func link(_ slot: Int) {
        let next = entries[0].next
        (entries[slot].previous, entries[slot].next) = (0, next)
        entries[0].next = slot
        entries[next].previous = slot
    }
}
