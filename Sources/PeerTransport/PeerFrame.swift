import NIOCore
import TransactionCore

/// What goes over a connection between two nodes.
///
/// A frame is the length of what follows (4 bytes), its type (1 byte), and what the type has, highest bytes first. The
/// side that connects says `hello`, the other one `welcome` or `refusal`; then the former sends messages, requests and
/// pings, and the latter answers and pongs.
enum PeerFrame: Hashable {
    case hello(PeerHello)
    /// The version that is spoken from here on.
    case welcome(version: UInt16)
    /// The reason, for people.
    case refusal(String)
    case ping
    case pong
    case message(kind: UInt8, [UInt8])
    case request(id: UInt64, kind: UInt8, [UInt8])
    case answer(id: UInt64, [UInt8])

    /// Bytes that are no frame; the connection is of no use any more.
    struct Malformed: Error, Hashable {
        var reason: String
    }

    /// All of a frame but the payload: more than any type has.
    static let overheadBytes = 16
    /// A stranger can't make us wait for more than this.
    static let greetingBytesMax = 1_024

    private enum Kind: UInt8 {
        case hello = 1
        case welcome, refusal, ping, pong, message, request, answer
    }

    var encoded: ByteBuffer {
        var buffer = ByteBufferAllocator().buffer(capacity: payloadCount + Self.overheadBytes)
        buffer.writeInteger(UInt32(0))
        write(to: &buffer)
        buffer.setInteger(UInt32(buffer.readableBytes - 4), at: 0)
        return buffer
    }

    private var payloadCount: Int {
        switch self {
        case .message(_, let payload), .request(_, _, let payload), .answer(_, let payload): payload.count
        case .hello, .welcome, .refusal, .ping, .pong: Self.greetingBytesMax
        }
    }

    private func write(to buffer: inout ByteBuffer) {
        func begin(_ kind: Kind) { buffer.writeInteger(kind.rawValue) }
        switch self {
        case .hello(let hello):
            begin(.hello)
            hello.write(to: &buffer)
        case .welcome(let version):
            begin(.welcome)
            buffer.writeInteger(version)
        case .refusal(let reason):
            begin(.refusal)
            buffer.writeString(reason)
        case .ping: begin(.ping)
        case .pong: begin(.pong)
        case .message(let kind, let payload):
            begin(.message)
            buffer.writeInteger(kind)
            buffer.writeBytes(payload)
        case .request(let id, let kind, let payload):
            begin(.request)
            buffer.writeMultipleIntegers(id, kind)
            buffer.writeBytes(payload)
        case .answer(let id, let payload):
            begin(.answer)
            buffer.writeInteger(id)
            buffer.writeBytes(payload)
        }
    }

    /// Takes the next frame out of what has arrived; nil while it is not whole.
    static func next(from buffer: inout ByteBuffer, lengthMax: Int) throws(Malformed) -> PeerFrame? {
        guard let length = buffer.getInteger(at: buffer.readerIndex, as: UInt32.self) else { return nil }
        guard 1...lengthMax ~= Int(length) else { throw Malformed(reason: "a frame of \(length) bytes") }
        guard buffer.readableBytes - 4 >= Int(length) else { return nil }
        buffer.moveReaderIndex(forwardBy: 4)
        var frame = buffer.readSlice(length: Int(length))!
        return try PeerFrame(&frame)
    }

    private init(_ buffer: inout ByteBuffer) throws(Malformed) {
        let number: UInt8 = try buffer.take()
        guard let kind = Kind(rawValue: number) else { throw Malformed(reason: "a frame of type \(number)") }
        switch kind {
        case .hello: self = .hello(try PeerHello(&buffer))
        case .welcome: self = .welcome(version: try buffer.take())
        case .refusal: self = .refusal(String(buffer: buffer))
        case .ping: self = .ping
        case .pong: self = .pong
        case .message: self = .message(kind: try buffer.take(), Array(buffer.readableBytesView))
        case .request:
            self = .request(id: try buffer.take(), kind: try buffer.take(), Array(buffer.readableBytesView))
        case .answer: self = .answer(id: try buffer.take(), Array(buffer.readableBytesView))
        }
    }
}

/// The first thing that a node says. Its form is the same in all versions, but for what a newer one adds at the end.
struct PeerHello: Hashable {
    /// No other protocol begins like that.
    private static let mark = Array("meridian".utf8)

    var versions: ClosedRange<UInt16>
    var sender: NodeID
    /// Whom it means to talk to.
    var recipient: NodeID
    var cluster: String

    fileprivate func write(to buffer: inout ByteBuffer) {
        buffer.writeBytes(Self.mark)
        buffer.writeMultipleIntegers(
            versions.lowerBound, versions.upperBound, sender.rawValue, recipient.rawValue, UInt8(cluster.utf8.count))
        buffer.writeString(cluster)
    }
}

extension PeerHello {
    fileprivate init(_ buffer: inout ByteBuffer) throws(PeerFrame.Malformed) {
        guard buffer.readBytes(length: Self.mark.count) == Self.mark else {
            throw PeerFrame.Malformed(reason: "another protocol")
        }
        let (oldest, newest): (UInt16, UInt16) = (try buffer.take(), try buffer.take())
        let (sender, recipient) = (NodeID(rawValue: try buffer.take()), NodeID(rawValue: try buffer.take()))
        let length: UInt8 = try buffer.take()
        guard oldest <= newest, let sender, let recipient, let cluster = buffer.readString(length: Int(length)) else {
            throw PeerFrame.Malformed(reason: "a malformed hello")
        }
        self.init(versions: oldest...newest, sender: sender, recipient: recipient, cluster: cluster)
    }

    /// What a node of this configuration makes of it: the version to speak, or why not.
    func answer(_ configuration: PeerConfiguration) -> PeerFrame {
        let ours = configuration.versions
        if cluster != configuration.cluster {
            return .refusal("this is a node of cluster \(configuration.cluster), and not of \(cluster)")
        }
        if recipient != configuration.node || sender == configuration.node {
            return .refusal("this is node \(configuration.node), and not \(recipient), which node \(sender) wants")
        }
        guard versions.overlaps(ours) else {
            return .refusal(
                "this node speaks versions \(ours.lowerBound) to \(ours.upperBound), "
                    + "and not \(versions.lowerBound) to \(versions.upperBound)")
        }
        return .welcome(version: min(versions.upperBound, ours.upperBound))
    }
}

extension ByteBuffer {
    fileprivate mutating func take<Number: FixedWidthInteger>() throws(PeerFrame.Malformed) -> Number {
        guard let number: Number = readInteger() else { throw PeerFrame.Malformed(reason: "a frame too short") }
        return number
    }
}
