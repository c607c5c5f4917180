import NIOCore
import TransactionCore

/// The first thing that a client says, which has no type byte.
public enum StartupPacket: Hashable, Sendable {
    /// Asks for TLS. The answer is one byte, `S` or `N`; the next packet comes after it.
    case sslRequest
    /// Asks for GSSAPI encryption. The answer is one byte, `G` or `N`; the next packet comes after it.
    case gssEncryptionRequest
    /// Asks for another connection's statement to be cancelled; the connection is closed without an answer.
    case cancelRequest(CancelRequest)
    case startup(StartupMessage)
}

/// Whose statement to cancel: what BackendKeyData said on that connection.
public struct CancelRequest: Hashable, Sendable {
    public var processID: Int32
    public var secret: Int32

    public init(processID: Int32, secret: Int32) {
        self.processID = processID
        self.secret = secret
    }
}

/// Who connects, to which database, with which settings.
public struct StartupMessage: Hashable, Sendable {
    public struct Parameter: Hashable, Sendable {
        public var name: String
        public var value: String

        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    public var version: ProtocolVersion
    /// In the client's order; of two with one name the later counts.
    public var parameters: [Parameter]

    public init(version: ProtocolVersion = .newest, parameters: [Parameter]) {
        self.version = version
        self.parameters = parameters
    }

    /// The value of a parameter, nil when the client did not send it.
    public subscript(name: String) -> String? {
        parameters.last { $0.name == name }?.value
    }

    /// Never empty in a packet that was decoded.
    public var user: String { self["user"] ?? "" }

    /// The user's name unless the client says otherwise.
    public var database: String {
        let name = self["database"] ?? ""
        return name.isEmpty ? user : name
    }

    /// Settings for the session: every parameter that says neither who and where nor something about the protocol.
    public var settings: [Parameter] {
        parameters.filter { parameter in
            !["user", "database", "options", "replication"].contains(parameter.name)
                && !parameter.name.hasPrefix(StartupMessage.protocolOptionPrefix)
        }
    }

    /// The options of the protocol that the client asks for, none of which exists here.
    public var unrecognisedOptions: [String] {
        parameters.map(\.name).filter { $0.hasPrefix(StartupMessage.protocolOptionPrefix) }
    }

    /// The client asks for more than there is, and must be sent NegotiateProtocolVersion before anything else.
    public var needsNegotiation: Bool {
        version.minor > ProtocolVersion.newest.minor || !unrecognisedOptions.isEmpty
    }

    private static let protocolOptionPrefix = "_pq_."
}

/// Takes startup packets off what a client sends first.
///
/// One such value lasts from the connection's first byte to its StartupMessage or CancelRequest: each kind of
/// encryption may be asked for once. After TLS has begun a new one begins (`isEncrypted`), since nothing may be asked
/// for any more.
public struct StartupDecoder: Hashable, Sendable {
    /// `MAX_STARTUP_PACKET_LENGTH`, without the length word.
    public static let bodyLengthMax = 10_000

    private var mayAskForTLS: Bool
    private var mayAskForGSS: Bool

    public init(isEncrypted: Bool = false) {
        mayAskForTLS = !isEncrypted
        mayAskForGSS = !isEncrypted
    }

    /// Takes the next packet off `buffer`; nil, and nothing taken, when it is not all there yet.
    ///
    /// Every error ends the connection. After an ``StartupPacket/sslRequest`` whoever goes on to TLS throws
    /// ``WireError/unencryptedDataAfterSSLRequest`` when there is anything left in the buffer.
    public mutating func nextPacket(from buffer: inout ByteBuffer) throws(WireError) -> StartupPacket? {
        let start = buffer.readerIndex
        guard let length = buffer.getInteger(at: start, as: UInt32.self).map(Int.init) else { return nil }
        guard (8...StartupDecoder.bodyLengthMax + 4).contains(length) else { throw .invalidStartupLength }
        guard buffer.readableBytes >= length, let body = buffer.getSlice(at: start + 4, length: length - 4) else {
            return nil
        }
        let packet: StartupPacket
        do {
            packet = try decode(body)
        } catch {
            throw error.asFatal
        }
        buffer.moveReaderIndex(forwardBy: length)
        return packet
    }

    private mutating func decode(_ body: ByteBuffer) throws(WireError) -> StartupPacket {
        var reader = MessageReader(body)
        let code = try reader.integer(as: UInt32.self)
        switch code {
        case StartupPacket.cancelCode:
            guard reader.bytesLeft == 8 else { throw .invalidStartupLength }
            return .cancelRequest(CancelRequest(processID: try reader.integer(), secret: try reader.integer()))
        case StartupPacket.sslCode where mayAskForTLS:
            mayAskForTLS = false
            return .sslRequest
        case StartupPacket.gssCode where mayAskForGSS:
            mayAskForGSS = false
            return .gssEncryptionRequest
        default:
            let version = ProtocolVersion(rawValue: code)
            guard version.major == ProtocolVersion.newest.major else {
                throw WireError(
                    .featureNotSupported,
                    "unsupported frontend protocol \(version): server supports 3.0 to \(ProtocolVersion.newest)")
            }
            return .startup(try StartupMessage(version: version, &reader))
        }
    }
}

extension StartupMessage {
    fileprivate init(version: ProtocolVersion, _ reader: inout MessageReader) throws(WireError) {
        self.init(version: version, parameters: [])
        while true {
            let name = try StartupMessage.text(&reader)
            if name.isEmpty { break }
            parameters.append(Parameter(name, try StartupMessage.text(&reader)))
        }
        guard reader.bytesLeft == 0 else { throw .invalidStartupLayout }
        if user.isEmpty {
            throw WireError(
                .invalidAuthorizationSpecification, "no PostgreSQL user name specified in startup packet")
        }
    }

    /// Unlike PostgreSQL, which has no encoding yet at this point and takes any bytes, we want UTF-8.
    private static func text(_ reader: inout MessageReader) throws(WireError) -> String {
        do {
            return try reader.string()
        } catch {
            throw error == .invalidString ? .invalidStartupLayout : error
        }
    }
}

// MARK: Encoding, for clients

extension StartupPacket {
    fileprivate static let cancelCode: UInt32 = 1234 << 16 | 5678
    fileprivate static let sslCode: UInt32 = 1234 << 16 | 5679
    fileprivate static let gssCode: UInt32 = 1234 << 16 | 5680

    /// Writes the packet as a client sends it.
    public func write(to buffer: inout ByteBuffer) {
        let start = buffer.writerIndex
        buffer.writeInteger(UInt32(0))
        switch self {
        case .sslRequest: buffer.writeInteger(StartupPacket.sslCode)
        case .gssEncryptionRequest: buffer.writeInteger(StartupPacket.gssCode)
        case .cancelRequest(let request):
            buffer.writeMultipleIntegers(StartupPacket.cancelCode, request.processID, request.secret)
        case .startup(let message):
            buffer.writeInteger(message.version.rawValue)
            for parameter in message.parameters {
                buffer.writeText(parameter.name)
                buffer.writeText(parameter.value)
            }
            buffer.writeInteger(UInt8(0))
        }
        buffer.setInteger(UInt32(buffer.writerIndex - start), at: start)
    }
}
