import Consensus
import Metadata
import TransactionCore

/// A command in the log, and who waits for what comes of it: every node applies it, and that one hands on the answer.
struct ProposedCommand: Sendable {
    /// Whoever began it, and which of its processes: numbers begin anew with each.
    struct Origin: Hashable, Sendable {
        var node: NodeID
        var process: UInt64
    }

    var origin: Origin
    var number: UInt64
    var command: MetadataCommand

    /// Names the form: a node that does not know it must not guess.
    private static let version: UInt8 = 1

    func encoded() throws(MetadataError) -> [UInt8] {
        var writer = ByteWriter()
        writer.byte(Self.version)
        writer.number(UInt64(origin.node.rawValue))
        writer.fixed(Int64(bitPattern: origin.process))
        writer.number(number)
        writer.block(try command.bytes())
        return writer.bytes
    }

    init(origin: Origin, number: UInt64, command: MetadataCommand) {
        (self.origin, self.number, self.command) = (origin, number, command)
    }

    init(encoded bytes: [UInt8]) throws {
        var reader = ByteReader(bytes)
        let version = try reader.byte()
        guard version == Self.version else { throw reader.malformed(.unknownVersion(version)) }
        let node = NodeID(rawValue: UInt16(try reader.number(max: UInt64(NodeID.maximum))))!
        origin = Origin(node: node, process: UInt64(bitPattern: try reader.fixed()))
        number = try reader.number()
        command = try MetadataCommand(decoding: try reader.block())
        try reader.end()
    }
}

extension MetadataCommand {
    /// ``encoded()``, with the error that people get.
    func bytes() throws(MetadataError) -> [UInt8] {
        do {
            return try encoded()
        } catch {
            throw MetadataError(
                .tooLarge, "the command is too large", detail: "\(error)",
                hint: "values have \(MetadataEntry.valueBytesMax) bytes at most")
        }
    }
}

/// What the bytes of a message between nodes are; numbers are never used again for something else.
enum PeerKind: UInt8 {
    /// A message of `Consensus`.
    case consensus = 1
    /// A command for the leader to propose.
    case propose = 2
    /// Asks the leader up to which slot a read has to wait; the answer is the slot, or nothing from who does not lead.
    case readIndex = 3
    /// Asks the leader to change who takes part; the answer is a ``MembershipAnswer``.
    case changeMembership = 4
    /// A ``ClientRequest``, from whoever; the answer is a ``ClientAnswer``.
    case client = 5
    /// Asks the leader to let a voter lead: its number.
    case handOver = 6
    /// A ``CoordinatorLetter``.
    case coordinator = 7
}
