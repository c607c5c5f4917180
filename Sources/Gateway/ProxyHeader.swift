import NIOCore

/// The line by which a node says where a client is that it hands on: the PROXY protocol, version 1 (HAProxy's
/// specification, §2.1).
struct ProxyHeader {
    var source: SocketAddress?
    private let line: String

    struct Malformed: Error {}

    private static let start = Array("PROXY ".utf8)
    /// With its end; the specification's bound.
    private static let bytesMax = 107

    init(source: SocketAddress, destination: SocketAddress?) {
        self.source = source
        let (from, to) = (source.ipAddress ?? "", destination?.ipAddress ?? source.ipAddress ?? "")
        let family = source.protocol == .inet6 ? "TCP6" : "TCP4"
        line = "PROXY \(family) \(from) \(to) \(source.port ?? 0) \(destination?.port ?? 0)\r\n"
    }

    var encoded: ByteBuffer { ByteBuffer(string: line) }

    /// Takes a header out of the first bytes of a connection: one without source while it has not come whole, nil when
    /// they are no header.
    static func next(from buffer: inout ByteBuffer) throws(Malformed) -> ProxyHeader? {
        let view = buffer.readableBytesView
        guard view.prefix(start.count).elementsEqual(start.prefix(view.count)) else { return nil }
        guard let end = view.firstIndex(of: UInt8(ascii: "\n")) else {
            guard view.count < bytesMax else { throw Malformed() }
            return ProxyHeader()
        }
        let length = end - view.startIndex + 1
        guard let text = buffer.readString(length: length) else { throw Malformed() }
        let words = text.dropLast(2).split(separator: " ")
        guard words.count == 6, text.hasSuffix("\r\n"), let port = UInt16(words[4]),
            let address = try? SocketAddress(ipAddress: String(words[2]), port: Int(port))
        else { throw Malformed() }
        return ProxyHeader(source: address, destination: nil)
    }

    private init() {
        (source, line) = (nil, "")
    }
}
