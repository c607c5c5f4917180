public import TransactionCore

/// Something that all nodes must know, under a key of its own. Its value is a line of text, for people to read and
/// write.
public protocol MetadataRecord: Hashable, Sendable {
    /// Where records of this kind are.
    static var selection: MetadataSelection { get }
    /// What the key ends with, after the prefix of ``selection``; empty for the only record of its kind.
    var name: String { get }
    var text: String { get }
    /// Returns nil when name or text are not what such a record has.
    init?(name: String, text: String)
}

extension MetadataRecord {
    /// The key; nil when the name makes it too long.
    public var key: MetadataKey? {
        switch Self.selection {
        case .key(let key): key
        case .prefix(let prefix): MetadataKey(prefix.rawValue + escaped(name))
        }
    }

    /// The value.
    public var value: [UInt8] { Array(text.utf8) }

    /// Reads a record; nil when the entry is none of this kind.
    public init?(_ entry: MetadataEntry) {
        guard let text = String(validating: entry.value, as: UTF8.self), Self.selection.contains(entry.key) else {
            return nil
        }
        switch Self.selection {
        case .key: self.init(name: "", text: text)
        case .prefix(let prefix):
            let part = entry.key.rawValue.dropFirst(prefix.rawValue.count)
            guard let name = unescaped(part), escaped(name) == part else { return nil }
            self.init(name: name, text: text)
        }
    }
}

extension MetadataState {
    /// All records of a kind, in the order of their keys. What is none of that kind is left out.
    public func records<Record: MetadataRecord>(_ kind: Record.Type = Record.self) -> [Record] {
        entries(in: Record.selection).compactMap { Record($0) }
    }
}

/// Which cluster this is: the UUID that every shard's database carries too.
public struct ClusterRecord: MetadataRecord {
    public static let selection = MetadataSelection.key(MetadataKey("/cluster")!)
    public var identity: String

    public init(identity: String) {
        self.identity = identity
    }

    public init?(name: String, text: String) {
        guard !text.isEmpty else { return nil }
        identity = text
    }

    public var name: String { "" }
    public var text: String { identity }
}

/// A node of the cluster. The record stays when the node has left: its number is never given again.
public struct NodeRecord: MetadataRecord {
    public static let selection = MetadataSelection.prefix(MetadataPrefix("/nodes/")!)

    /// What the node is there for.
    public enum State: String, Hashable, Sendable {
        /// Learns the log; serves nobody yet.
        case joining
        case serving
        /// Finishes what it has, takes no new clients.
        case draining
        case left
    }

    public var node: NodeID
    public var state: State
    /// Where clients reach it: host and port.
    public var clientAddress: String
    /// Where the other nodes reach it: host and port.
    public var peerAddress: String

    /// Addresses have no blanks and are not empty.
    public init(_ node: NodeID, _ state: State, clientAddress: String, peerAddress: String) {
        (self.node, self.state, self.clientAddress, self.peerAddress) = (node, state, clientAddress, peerAddress)
    }

    public init?(name: String, text: String) {
        let words = text.split(separator: " ")
        guard let node = NodeID(name: name), words.count == 3, let state = State(rawValue: String(words[0])) else {
            return nil
        }
        self.init(node, state, clientAddress: String(words[1]), peerAddress: String(words[2]))
    }

    public var name: String { node.description }
    public var text: String { "\(state.rawValue) \(clientAddress) \(peerAddress)" }
}

/// That a node coordinates transactions, under its session (ephemeral): in which of its lives, and what it is about.
public struct PresenceRecord: MetadataRecord {
    public static let selection = MetadataSelection.prefix(MetadataPrefix("/presence/")!)

    /// What the node does with clients.
    public enum State: String, Hashable, Sendable {
        /// It does not serve them yet.
        case starting
        case serving
        /// It finishes what it has, and serves nobody who comes.
        case leaving
    }

    public var incarnation: Incarnation
    public var state: State

    public init(_ incarnation: Incarnation, _ state: State) {
        (self.incarnation, self.state) = (incarnation, state)
    }

    public init?(name: String, text: String) {
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        guard let node = NodeID(name: name), words.count == 2, let epoch = Int64(words[0]),
            let state = State(rawValue: String(words[1]))
        else { return nil }
        self.init(Incarnation(node, Epoch(rawValue: epoch)), state)
    }

    public var name: String { incarnation.node.description }
    public var text: String { "\(incarnation.epoch) \(state.rawValue)" }
}

/// A shard, and how libpq reaches its primary.
public struct ShardRecord: MetadataRecord {
    public static let selection = MetadataSelection.prefix(MetadataPrefix("/shards/")!)
    public var shard: ShardID
    public var conninfo: String

    public init(_ shard: ShardID, conninfo: String) {
        (self.shard, self.conninfo) = (shard, conninfo)
    }

    public init?(name: String, text: String) {
        guard let shard = ShardID(name) else { return nil }
        self.init(shard, conninfo: text)
    }

    public var name: String { shard.rawValue }
    public var text: String { conninfo }
}

/// A user, and the SCRAM verifier of its password as `pg_authid.rolpassword` has it: to be kept like a password.
public struct UserRecord: MetadataRecord {
    public static let selection = MetadataSelection.prefix(MetadataPrefix("/users/")!)
    public var name: String
    public var verifier: String

    public init(name: String, verifier: String) {
        (self.name, self.verifier) = (name, verifier)
    }

    public init?(name: String, text: String) {
        self.init(name: name, verifier: text)
    }

    public var text: String { verifier }
}

extension NodeID {
    /// Reads its number in decimal.
    fileprivate init?(name: String) {
        guard let number = UInt16(name), String(number) == name else { return nil }
        self.init(rawValue: number)
    }
}

// MARK: Names as parts of keys

/// Bytes that a key can't have, `/` and `%` as `%` and two hexadecimal digits (RFC 3986 §2.1).
private func escaped(_ name: String) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    var bytes: [UInt8] = []
    for byte in name.utf8 {
        let stays = (0x21...0x7E).contains(byte) && byte != UInt8(ascii: "/") && byte != UInt8(ascii: "%")
        bytes += stays ? [byte] : [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
    }
    return String(decoding: bytes, as: UTF8.self)
}

private func unescaped(_ part: Substring) -> String? {
    var bytes: [UInt8] = []
    var rest = part.utf8[...]
    while let byte = rest.popFirst() {
        if byte != UInt8(ascii: "%") {
            bytes.append(byte)
        } else {
            guard let code = UInt8(Substring(rest.prefix(2)), radix: 16) else { return nil }
            bytes.append(code)
            rest = rest.dropFirst(2)
        }
    }
    return String(validating: bytes, as: UTF8.self)
}
