import NIOCore
import PostgresWire

/// One of each, and more of those with parts that may be missing.
enum Samples {
    static let startupPackets: [StartupPacket] = [
        .sslRequest, .gssEncryptionRequest,
        .cancelRequest(CancelRequest(processID: 4_711, secret: -2)),
        .startup(StartupMessage(parameters: [.init("user", "alice")])),
        .startup(
            StartupMessage(parameters: [
                .init("user", "zoë"), .init("database", "bank"), .init("application_name", ""),
                .init("options", "-c geqo=off"),
            ])),
        .startup(
            StartupMessage(
                version: ProtocolVersion(major: 3, minor: 2),
                parameters: [.init("user", "alice"), .init("_pq_.x", "1"), .init("_pq_.y", "2")])),
    ]

    static let sessionMessages: [FrontendMessage] = [
        .query(""), .query("select 'é'; select 2"),
        .parse(.init(query: "select 1")),
        .parse(.init(statement: "s1", query: "select $1, $2", parameterTypes: [23, 0])),
        .bind(.init()),
        .bind(
            .init(
                portal: "p", statement: "s1", parameterFormats: [.text, .binary, .text],
                parameters: [makeBytes("12"), makeBytes([0, 0xFF]), nil], resultFormats: [.binary])),
        .bind(.init(parameterFormats: [.binary], parameters: [makeBytes([]), makeBytes([1])], resultFormats: [.text])),
        .describe(.statement("s1")), .describe(.portal("")), .close(.statement("")), .close(.portal("p")),
        .execute(.init()), .execute(.init(portal: "p", rowsMax: 100)), .execute(.init(rowsMax: -1)),
        .flush, .sync,
        .functionCall(
            .init(
                function: 1_244, argumentFormats: [.binary], arguments: [makeBytes([1]), nil], resultFormat: .binary)),
        .functionCall(.init(function: 1)),
        .copyData(makeBytes([])), .copyData(makeBytes([0, 1, 0xFF])), .copyDone, .copyFail("no more"),
        .terminate,
    ]

    static let backendMessages: [BackendMessage] = [
        .authentication(.ok), .authentication(.cleartextPassword), .authentication(.md5Password(salt: 0x0102_0304)),
        .authentication(.sasl(mechanisms: ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])),
        .authentication(.saslContinue(makeBytes("r=a"))), .authentication(.saslFinal(makeBytes("v=b"))),
        .backendKeyData(CancelRequest(processID: 4_711, secret: -2)),
        .bindComplete, .closeComplete, .parseComplete, .portalSuspended, .noData, .emptyQueryResponse, .copyDone,
        .commandComplete("SELECT 5"),
        .copyData(makeBytes("1\t2\n")), .copyInResponse(.text, columns: [.text, .text]),
        .copyOutResponse(.binary, columns: [.binary]),
        .dataRow([]), .dataRow([nil, makeBytes([]), makeBytes([0, 0xFF])]),
        .errorResponse(everyErrorField), .noticeResponse(ErrorFields(.notice, .undefinedTable, "skipping")),
        .functionCallResponse(nil), .functionCallResponse(makeBytes([1])),
        .negotiateProtocolVersion(newest: .newest, unrecognisedOptions: ["_pq_.x", "_pq_.y"]),
        .notificationResponse(processID: 7, channel: "ch", payload: "été"),
        .parameterDescription([]), .parameterDescription([23, 4_294_967_295]),
        .parameterStatus("client_encoding", "UTF8"),
        .readyForQuery(.idle), .readyForQuery(.inTransaction), .readyForQuery(.failed),
        .rowDescription([]),
        .rowDescription([
            FieldDescription(
                name: "id", table: 16_384, attribute: 1, type: 23, typeSize: 4, typeModifier: -1, format: .binary),
            FieldDescription(name: "?column?", type: 25),
        ]),
    ]

    static let everyErrorField = ErrorFields(
        fields: ErrorFields.Code.all.enumerated().map { ErrorFields.Field($1, "value \($0)") })
}

func makeBytes(_ bytes: [UInt8]) -> ByteBuffer { ByteBuffer(bytes: bytes) }

func makeBytes(_ text: String) -> ByteBuffer { ByteBuffer(string: text) }

/// A frame of that type with that body; `length` is what its length word says instead of the truth.
func makeFrame(_ type: Character, _ body: [UInt8] = [], length: UInt32? = nil) -> ByteBuffer {
    var buffer = makeBytes(Array(String(type).utf8))
    buffer.writeInteger(length ?? UInt32(body.count + 4))
    buffer.writeBytes(body)
    return buffer
}

/// A startup packet with that code and what follows it; `length` is what its length word says instead of the truth.
func makeStartup(_ code: UInt32, _ body: [UInt8] = [], length: UInt32? = nil) -> ByteBuffer {
    var buffer = ByteBuffer()
    buffer.writeMultipleIntegers(length ?? UInt32(body.count + 8), code)
    buffer.writeBytes(body)
    return buffer
}

func makeWritten(_ messages: [FrontendMessage]) -> ByteBuffer {
    var buffer = ByteBuffer()
    for message in messages { message.write(to: &buffer) }
    return buffer
}

func makeWritten(_ packet: StartupPacket) -> ByteBuffer {
    var buffer = ByteBuffer()
    packet.write(to: &buffer)
    return buffer
}

func makeWritten(_ messages: [BackendMessage]) -> ByteBuffer {
    var writer = BackendWriter(capacity: 0)
    for message in messages { writer.write(message) }
    return writer.take()
}

extension BackendWriter {
    mutating func write(_ message: BackendMessage) {
        switch message {
        case .authentication(let request): authentication(request)
        case .backendKeyData(let key): backendKeyData(key)
        case .bindComplete: bindComplete()
        case .closeComplete: closeComplete()
        case .commandComplete(let tag): commandComplete(tag)
        case .copyData(let bytes): copyData(bytes)
        case .copyDone: copyDone()
        case .copyInResponse(let format, let columns): copyInResponse(format, columns: columns)
        case .copyOutResponse(let format, let columns): copyOutResponse(format, columns: columns)
        case .dataRow(let columns):
            beginDataRow(columns: columns.count)
            for column in columns { self.column(column) }
            endDataRow()
        case .emptyQueryResponse: emptyQueryResponse()
        case .errorResponse(let fields): errorResponse(fields)
        case .functionCallResponse(let value): functionCallResponse(value)
        case .negotiateProtocolVersion(let newest, let options):
            negotiateProtocolVersion(newest: newest, unrecognisedOptions: options)
        case .noData: noData()
        case .noticeResponse(let fields): noticeResponse(fields)
        case .notificationResponse(let processID, let channel, let payload):
            notificationResponse(processID: processID, channel: channel, payload: payload)
        case .parameterDescription(let types): parameterDescription(types)
        case .parameterStatus(let name, let value): parameterStatus(name, value)
        case .parseComplete: parseComplete()
        case .portalSuspended: portalSuspended()
        case .readyForQuery(let status): readyForQuery(status)
        case .rowDescription(let fields): rowDescription(fields)
        }
    }
}

// MARK: Feeding

/// What a decoder made of some bytes, and the error that ended it.
struct Decoded<Message: Hashable>: Hashable {
    var messages: [Message] = []
    var error: WireError?
    /// How many bytes have made no message, those behind an error among them.
    var bytesLeft = 0
}

/// Gives `bytes` to `next` in pieces of `pieceLength`, gathered as an owner would, until it throws or they are used up.
func feed<Message: Hashable>(
    _ bytes: ByteBuffer, pieceLength: Int = .max, to next: (inout ByteBuffer) throws(WireError) -> Message?
) -> Decoded<Message> {
    var (rest, buffer, decoded) = (bytes, ByteBuffer(), Decoded<Message>())
    while let piece = rest.readSlice(length: min(pieceLength, rest.readableBytes)), piece.readableBytes > 0 {
        buffer.writeImmutableBuffer(piece)
        do throws(WireError) {
            while let message = try next(&buffer) { decoded.messages.append(message) }
        } catch {
            decoded.error = error
            break
        }
    }
    decoded.bytesLeft = buffer.readableBytes + rest.readableBytes
    return decoded
}

/// Feeds what a client sends in a session.
func feedSession(_ bytes: ByteBuffer, pieceLength: Int = .max) -> Decoded<FrontendMessage> {
    let decoder = FrontendDecoder(phase: .session)
    return feed(bytes, pieceLength: pieceLength) { buffer throws(WireError) in
        try decoder.nextFrame(from: &buffer)?.decode()
    }
}

/// Feeds what a client sends first.
func feedStartup(
    _ bytes: ByteBuffer, pieceLength: Int = .max, isEncrypted: Bool = false
) -> Decoded<StartupPacket> {
    var decoder = StartupDecoder(isEncrypted: isEncrypted)
    return feed(bytes, pieceLength: pieceLength) { buffer throws(WireError) in
        try decoder.nextPacket(from: &buffer)
    }
}

/// Feeds what a server sends.
func feedBackend(_ bytes: ByteBuffer, pieceLength: Int = .max) -> Decoded<BackendMessage> {
    feed(bytes, pieceLength: pieceLength) { buffer throws(WireError) in try BackendMessage.next(from: &buffer) }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
