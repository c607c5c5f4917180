import Consensus
import Metadata
import TransactionCore

/// What a process that is no node, or another node, asks of a node.
enum ClientRequest: Hashable, Sendable {
    case metadata(MetadataRequest)
    /// Answered by ``ClientAnswer/status(_:)``.
    case status
    /// This and the next are answered by ``ClientAnswer/done``.
    case change(Membership.Change)
    case lead(NodeID)

    /// Names the form.
    private static let version: UInt8 = 1
    /// Nothing is waited for longer than this.
    static let withinMax = Duration.seconds(60)

    /// The form in bytes, with how long the node has for its answer.
    func encoded(within duration: Duration) -> [UInt8] {
        var writer = ByteWriter()
        writer.byte(Self.version)
        writer.number(UInt64(max(0, min(duration, Self.withinMax) / .milliseconds(1))))
        switch self {
        case .metadata(let request):
            writer.byte(1)
            writer.block(request.encoded)
        case .status: writer.byte(2)
        case .change(let change):
            writer.byte(3)
            writer.block(change.encoded)
        case .lead(let node):
            writer.byte(4)
            writer.number(UInt64(node.rawValue))
        }
        return writer.bytes
    }

    /// Reads what ``encoded(within:)`` made, from whoever it may come.
    static func decode(_ bytes: [UInt8]) throws -> (request: ClientRequest, within: Duration) {
        var reader = ByteReader(bytes)
        let version = try reader.byte()
        guard version == Self.version else { throw reader.malformed(.unknownVersion(version)) }
        let within = Duration.milliseconds(try reader.number(max: UInt64(withinMax / .milliseconds(1))))
        let request: ClientRequest
        switch try reader.byte() {
        case 1: request = .metadata(try MetadataRequest(decoding: try reader.block()))
        case 2: request = .status
        case 3: request = .change(try Membership.Change(encoded: try reader.block()))
        case 4: request = .lead(try reader.node())
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
        try reader.end()
        return (request, within)
    }
}

/// What a node says to a ``ClientRequest``.
enum ClientAnswer: Hashable, Sendable {
    case metadata(MetadataReply)
    case status(MetadataStatus)
    case done
    case failed(MetadataError)

    private static let version: UInt8 = 1

    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.byte(Self.version)
        switch self {
        case .metadata(let reply):
            writer.byte(1)
            writer.block(reply.encoded)
        case .status(let status):
            writer.byte(2)
            writer.status(status)
        case .done: writer.byte(3)
        case .failed(let error):
            writer.byte(4)
            writer.byte(error.kind.rawValue)
            for text in [error.message, error.detail ?? "", error.hint ?? ""] { writer.block(text.utf8) }
        }
        return writer.bytes
    }

    init(encoded bytes: [UInt8]) throws {
        var reader = ByteReader(bytes)
        let version = try reader.byte()
        guard version == Self.version else { throw reader.malformed(.unknownVersion(version)) }
        switch try reader.byte() {
        case 1: self = .metadata(try MetadataReply(decoding: try reader.block()))
        case 2: self = .status(try reader.status())
        case 3: self = .done
        case 4:
            let number = try reader.byte()
            guard let kind = MetadataError.Kind(rawValue: number) else { throw reader.malformed(.unknownKind(number)) }
            let (message, detail, hint) = (try reader.text(), try reader.text(), try reader.text())
            self = .failed(
                MetadataError(
                    kind, message, detail: detail.isEmpty ? nil : detail, hint: hint.isEmpty ? nil : hint))
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
        try reader.end()
    }

    init(_ reply: MetadataReply) { self = .metadata(reply) }
}

// MARK: Parts

extension ByteWriter {
    fileprivate mutating func nodes(_ nodes: NodeSet) {
        number(UInt64(nodes.count))
        for node in nodes.nodes { number(UInt64(node.rawValue)) }
    }

    fileprivate mutating func status(_ status: MetadataStatus) {
        number(UInt64(status.node.rawValue))
        nodes(status.membership.voters)
        nodes(status.membership.learners)
        nodes(NodeSet([status.leader].compactMap(\.self)))
        nodes(status.connected)
        number(UInt64(status.chosenUpTo.rawValue))
        number(status.promised.round)
        number(UInt64(status.promised.node.rawValue))
        byte(status.holdsLease ? 1 : 0)
    }
}

extension ByteReader {
    fileprivate mutating func node() throws -> NodeID {
        NodeID(rawValue: UInt16(try number(max: UInt64(NodeID.maximum))))!
    }

    fileprivate mutating func nodes() throws -> NodeSet {
        var nodes: [NodeID] = []
        for _ in 0..<(try count()) { nodes.append(try node()) }
        return NodeSet(nodes)
    }

    fileprivate mutating func text() throws -> String { String(decoding: try block(), as: UTF8.self) }

    fileprivate mutating func status() throws -> MetadataStatus {
        MetadataStatus(
            node: try node(), membership: Membership(voters: try nodes(), learners: try nodes()),
            leader: try nodes().nodes.first, connected: try nodes(),
            chosenUpTo: Slot(rawValue: Int64(try number(max: UInt64(Int64.max)))),
            promised: Ballot(round: try number(), node: try node()), holdsLease: try byte() == 1)
    }
}
