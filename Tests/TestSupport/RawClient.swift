import Foundation
import NIOCore
public import PostgresWire
import Synchronization

/// A TCP socket that a test writes bytes to; whatever blocks does so on a thread of its own.
public final class RawClient: Sendable {
    public struct Failure: Error, CustomStringConvertible {
        public let description: String
    }

    private let descriptor: Int32
    private let received = Mutex(ByteBuffer())
    private let isOpen = Mutex(true)

    /// Connects. Reading and writing give up after `timeout`.
    public init(port: Int, timeout: Int = 30) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var limit = timeval(tv_sec: timeout, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 else { throw Failure(description: "connect: \(String(cString: strerror(errno)))") }
    }

    deinit {
        hangUp()
    }

    /// Closes the socket.
    public func hangUp() {
        isOpen.withLock { isOpen in
            if isOpen { close(descriptor) }
            isOpen = false
        }
    }

    /// Sends everything, unless the server closes before.
    public func send(_ bytes: [UInt8]) async {
        await blocking { [descriptor] in
            var sent = 0
            while sent < bytes.count {
                let count = bytes[sent...].withUnsafeBytes {
                    Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                guard count > 0 else { return }
                sent += count
            }
        }
    }

    public func send(_ packet: StartupPacket) async {
        var buffer = ByteBuffer()
        packet.write(to: &buffer)
        await send(Array(buffer.readableBytesView))
    }

    public func send(_ messages: FrontendMessage...) async {
        var buffer = ByteBuffer()
        for message in messages { message.write(to: &buffer) }
        await send(Array(buffer.readableBytesView))
    }

    /// What comes next, up to 64 kB; empty at the end. Throws when nothing comes in time.
    public func receive() async throws -> [UInt8] {
        let answer = await blocking { [descriptor] in
            var bytes = [UInt8](repeating: 0, count: 65_536)
            let count = recv(descriptor, &bytes, bytes.count, 0)
            return count < 0 && errno == EAGAIN ? nil : Array(bytes.prefix(max(count, 0)))
        }
        guard let answer else { throw Failure(description: "nothing came from the server") }
        return answer
    }

    /// The next message; nil at the end.
    public func nextMessage() async throws -> BackendMessage? {
        while true {
            if let message = try received.withLock({ try BackendMessage.next(from: &$0) }) { return message }
            let bytes = try await receive()
            if bytes.isEmpty { return nil }
            _ = received.withLock { $0.writeBytes(bytes) }
        }
    }

    /// All that comes until the server closes.
    public func receiveToEnd() async throws -> [UInt8] {
        var all: [UInt8] = []
        while case let bytes = try await receive(), !bytes.isEmpty { all += bytes }
        return all
    }

    /// Messages up to the first that is ReadyForQuery, or to the end.
    public func messagesToReady() async throws -> [BackendMessage] {
        var messages: [BackendMessage] = []
        while let message = try await nextMessage() {
            messages.append(message)
            if case .readyForQuery = message { break }
        }
        return messages
    }

    /// Connects as a user that is trusted; the messages up to ReadyForQuery.
    @discardableResult
    public func logIn(
        user: String = "trusted", database: String = "bank", _ parameters: [StartupMessage.Parameter] = [],
        version: ProtocolVersion = .newest
    ) async throws -> [BackendMessage] {
        await send(
            .startup(
                StartupMessage(
                    version: version, parameters: [.init("user", user), .init("database", database)] + parameters)))
        return try await messagesToReady()
    }
}

private func blocking<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async -> Result {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: body()) }
    }
}

/// The first column of each row among messages.
public func rows(_ messages: [BackendMessage]) -> [String] {
    messages.compactMap { message in
        if case .dataRow(let columns) = message { String(buffer: (columns.first ?? nil) ?? ByteBuffer()) } else { nil }
    }
}

/// The first error among messages.
public func error(_ messages: [BackendMessage]) -> ErrorFields? {
    messages.lazy.compactMap { if case .errorResponse(let fields) = $0 { fields } else { nil } }.first
}

/// The first error among bytes that a server sent.
public func error(_ bytes: [UInt8]) throws -> ErrorFields? {
    var buffer = ByteBuffer(bytes: bytes)
    var messages: [BackendMessage] = []
    while let message = try BackendMessage.next(from: &buffer) { messages.append(message) }
    return error(messages)
}
