/// Which statements the server has prepared for a connection, under which names; the least recently used one gives way.
///
/// A name is never used twice, so that an answer about an old statement can't be taken for one about its successor.
struct StatementCache {
    /// What to do with a text that is to be executed.
    enum Action: Equatable {
        /// The server knows it by this name.
        case execute(name: String)
        /// Have it parsed under this name first; ``evicted`` is to be deallocated.
        case prepare(name: String, evicted: String?)
        /// Send the text without a name: another pipeline is about to prepare it, and may fail before it has.
        case sendUnnamed
    }

    private struct Entry {
        let name: String
        var isPrepared = false
        var lastUse: UInt64
    }

    private let capacity: Int
    private var entries: [String: Entry] = [:]
    private var useCount: UInt64 = 0
    private var nameCount: UInt64 = 0

    /// - Parameter capacity: how many statements are kept prepared at most.
    init(capacity: Int) {
        self.capacity = capacity
    }

    var count: Int { entries.count }

    /// `text` is about to be executed.
    mutating func use(_ text: String) -> Action {
        useCount += 1
        if let position = entries.index(forKey: text) {
            entries.values[position].lastUse = useCount
            let entry = entries.values[position]
            return entry.isPrepared ? .execute(name: entry.name) : .sendUnnamed
        }
        var evicted: String?
        if entries.count >= capacity {
            // Looking at all of them is cheap next to the parsing that got us here. One that is just being prepared
            // stays: its answer is still to come.
            guard let oldest = entries.filter(\.value.isPrepared).min(by: { $0.value.lastUse < $1.value.lastUse })
            else { return .sendUnnamed }
            evicted = entries.removeValue(forKey: oldest.key)?.name
        }
        nameCount += 1
        let name = "meridian_\(nameCount)"
        entries[text] = Entry(name: name, lastUse: useCount)
        return .prepare(name: name, evicted: evicted)
    }

    /// The server has parsed `text` under `name`.
    mutating func prepared(_ text: String, as name: String) {
        guard entries[text]?.name == name else { return }
        entries[text]?.isPrepared = true
    }

    /// The server could not parse `text` as `name`, or never came to it.
    mutating func notPrepared(_ text: String, as name: String) {
        guard entries[text]?.name == name else { return }
        entries[text] = nil
    }

    /// The server has lost `text`, or can't use it any more. Returns the name to deallocate, for good measure.
    mutating func forget(_ text: String) -> String? {
        guard entries[text]?.isPrepared == true else { return nil }
        return entries.removeValue(forKey: text)?.name
    }
}
