import Glibc

/// Which statements the server has prepared for a connection, under which names; the least recently used one gives way.
///
/// A name is never used twice, so that an answer about an old statement can't be taken for one about its successor.
struct StatementCache {
    /// What makes two statements the same to the server.
    struct Key: Hashable {
        let text: String
        let parameterTypes: [UInt32]
        /// The server reads literals, dates for one, when it parses.
        let appliedSettings: UInt64

        init(_ text: String, parameterTypes: [UInt32] = [], appliedSettings: UInt64 = 0) {
            self.text = text
            self.parameterTypes = parameterTypes
            self.appliedSettings = appliedSettings
        }

        /// Texts are compared byte by byte: to Swift two strings are equal that PostgreSQL tells apart.
        static func == (lhs: Key, rhs: Key) -> Bool {
            lhs.appliedSettings == rhs.appliedSettings && lhs.parameterTypes == rhs.parameterTypes
                && lhs.withBytes { left in
                    rhs.withBytes { right in
                        guard left.count == right.count else { return false }
                        guard let start = left.baseAddress, let other = right.baseAddress else { return true }
                        return memcmp(start, other, left.count) == 0
                    }
                }
        }

        /// Without the types: few texts are used with several.
        func hash(into hasher: inout Hasher) {
            withBytes { hasher.combine(bytes: $0) }
            hasher.combine(appliedSettings)
        }

        private func withBytes<Value>(_ body: (UnsafeRawBufferPointer) -> Value) -> Value {
            text.utf8.withContiguousStorageIfAvailable { body(UnsafeRawBufferPointer($0)) }
                ?? Array(text.utf8).withUnsafeBytes(body)
        }
    }

    /// What to do with a statement that is to be executed.
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
        /// What the server said about it, once it was asked.
        var description: StatementDescription?
    }

    private let capacity: Int
    private var entries: [Key: Entry] = [:]
    private var useCount: UInt64 = 0
    private var nameCount: UInt64 = 0

    /// - Parameter capacity: how many statements are kept prepared at most.
    init(capacity: Int) {
        self.capacity = capacity
    }

    var count: Int { entries.count }

    /// `statement` is about to be executed.
    mutating func use(_ statement: Key) -> Action {
        useCount += 1
        if let position = entries.index(forKey: statement) {
            entries.values[position].lastUse = useCount
            guard entries.values[position].isPrepared else { return .sendUnnamed }
            return .execute(name: entries.values[position].name)
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
        entries[statement] = Entry(name: name, lastUse: useCount)
        return .prepare(name: name, evicted: evicted)
    }

    /// The server has parsed `statement` under `name`.
    mutating func prepared(_ statement: Key, as name: String) {
        guard entries[statement]?.name == name else { return }
        entries[statement]?.isPrepared = true
    }

    /// The server could not parse `statement` as `name`, or never came to it.
    mutating func notPrepared(_ statement: Key, as name: String) {
        guard entries[statement]?.name == name else { return }
        entries[statement] = nil
    }

    /// The server has lost `statement`, or can't use it any more. Returns the name to deallocate, for good measure.
    mutating func forget(_ statement: Key) -> String? {
        guard entries[statement]?.isPrepared == true else { return nil }
        return entries.removeValue(forKey: statement)?.name
    }

    /// What the server said about `statement`; nil when it has not been asked since it parsed it.
    func description(of statement: Key) -> StatementDescription? { entries[statement]?.description }

    /// The server has described `statement`. What is not kept prepared is not remembered either.
    mutating func described(_ statement: Key, _ description: StatementDescription) {
        entries[statement]?.description = description
    }
}

extension StatementCache.Key {
    init(_ statement: SQLStatement, appliedSettings: UInt64) {
        self.init(statement.text, parameterTypes: statement.parameterTypes, appliedSettings: appliedSettings)
    }
}
