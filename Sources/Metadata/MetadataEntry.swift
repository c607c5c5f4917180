/// A place in the history of the state: the log's slot of the command that made it.
public struct Revision: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public var rawValue: Int64

    /// Before the first command.
    public static let zero = Revision(rawValue: 0)

    public init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    public var description: String { String(rawValue) }

    public static func < (lhs: Revision, rhs: Revision) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// A session's name: the revision at which it was opened, so that no other session ever has it.
public struct SessionID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let openedAt: Revision

    /// Names the session that was opened at a revision.
    public init(openedAt: Revision) {
        self.openedAt = openedAt
    }

    public var description: String { openedAt.description }

    public static func < (lhs: SessionID, rhs: SessionID) -> Bool { lhs.openedAt < rhs.openedAt }
}

/// A key, its value, and what became of it.
public struct MetadataEntry: Hashable, Sendable {
    /// The largest value, in bytes: a catalog of thousands of tables, yet one message of a log.
    public static let valueBytesMax = 1 << 20

    public var key: MetadataKey
    public var value: [UInt8]
    /// When the key came to be. A key that was deleted and made again has a new one.
    public var created: Revision
    /// When the value was put last.
    public var modified: Revision
    /// How often the value was put since it was created: 1 at first.
    public var version: UInt64
    /// The session with which the key ends; nil for a key that stays.
    public var owner: SessionID?

    public init(
        key: MetadataKey, value: [UInt8], created: Revision, modified: Revision, version: UInt64,
        owner: SessionID? = nil
    ) {
        (self.key, self.value, self.created) = (key, value, created)
        (self.modified, self.version, self.owner) = (modified, version, owner)
    }

    /// About as many bytes as it takes.
    var size: Int { key.rawValue.utf8.count + value.count + 64 }
}

/// What a command did to a key.
public struct MetadataChange: Hashable, Sendable {
    public var key: MetadataKey
    /// When the key had been changed before; nil when it wasn't there.
    public var previous: Revision?
    /// The key from here on; nil when it is deleted.
    public var entry: MetadataEntry?
    /// Several changes of one command have the same.
    public var revision: Revision

    public init(key: MetadataKey, previous: Revision?, entry: MetadataEntry?, revision: Revision) {
        (self.key, self.previous, self.entry, self.revision) = (key, previous, entry, revision)
    }

    /// About as many bytes as it takes.
    var size: Int { entry?.size ?? key.rawValue.utf8.count + 64 }
}
