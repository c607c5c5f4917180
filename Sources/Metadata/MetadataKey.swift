/// The name of a value: `/nodes/3`. Parts of printable ASCII without blanks, each after a `/`.
///
/// ASCII only, because two texts that differ in bytes can be equal as Unicode, and their order is that of their bytes:
/// every node must see the same keys in the same order. Who names something by other text escapes it.
public struct MetadataKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The longest key: long enough for two PostgreSQL names of 63 bytes with every byte escaped.
    public static let bytesMax = 512

    /// The key as text.
    public let rawValue: String

    /// Returns nil when `text` is no key.
    public init?(_ text: String) {
        guard text.utf8.count <= Self.bytesMax, text.utf8.last != slash, isPath(text) else { return nil }
        rawValue = text
    }

    /// Also takes what is only a place between keys.
    init(unchecked text: String) {
        rawValue = text
    }

    public var description: String { rawValue }

    public static func < (lhs: MetadataKey, rhs: MetadataKey) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// What the names of several keys begin with, up to a `/`: `/nodes/` is every node, `/` everything.
public struct MetadataPrefix: Hashable, Sendable, CustomStringConvertible {
    /// Leaves a key room for the last part that a sequential key gets.
    public static let bytesMax = MetadataKey.bytesMax - 32

    /// Every key.
    public static let all = MetadataPrefix(unchecked: "/")

    /// The prefix as text.
    public let rawValue: String

    /// Returns nil when `text` is no prefix.
    public init?(_ text: String) {
        guard text.utf8.count <= Self.bytesMax, text.utf8.last == slash, isPath(text) else { return nil }
        rawValue = text
    }

    private init(unchecked text: String) {
        rawValue = text
    }

    /// The keys to which a key belongs: `/a/b` belongs to `/` and `/a/`.
    static func holding(_ key: MetadataKey) -> [MetadataPrefix] {
        let text = key.rawValue
        return text.utf8.indices.filter { text.utf8[$0] == slash }.map {
            MetadataPrefix(unchecked: String(text[...$0]))
        }
    }

    /// Whether the key begins with the prefix.
    public func contains(_ key: MetadataKey) -> Bool { key.rawValue.hasPrefix(rawValue) }

    /// Comes before all keys of the prefix, and after all that come before those.
    var start: MetadataKey { MetadataKey(unchecked: rawValue) }

    /// Comes after all keys of the prefix, and before all that come after those: `0` follows `/` in ASCII.
    var end: MetadataKey { MetadataKey(unchecked: rawValue.dropLast() + "0") }

    /// Whether some key may begin with both.
    func overlaps(_ other: MetadataPrefix) -> Bool {
        rawValue.hasPrefix(other.rawValue) || other.rawValue.hasPrefix(rawValue)
    }

    public var description: String { rawValue }
}

/// One key, or all that begin with a prefix.
public enum MetadataSelection: Hashable, Sendable {
    case key(MetadataKey)
    case prefix(MetadataPrefix)

    /// Whether the key is meant.
    public func contains(_ key: MetadataKey) -> Bool {
        switch self {
        case .key(let selected): selected == key
        case .prefix(let prefix): prefix.contains(key)
        }
    }
}

private let slash = UInt8(ascii: "/")

/// Begins with `/`, has no empty part, and of bytes only printable ones of ASCII.
private func isPath(_ text: String) -> Bool {
    var previous: UInt8 = 0
    for byte in text.utf8 {
        guard (0x21...0x7E).contains(byte), previous != 0 || byte == slash, byte != slash || previous != slash else {
            return false
        }
        previous = byte
    }
    return previous != 0
}
