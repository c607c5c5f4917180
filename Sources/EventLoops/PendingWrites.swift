import DequeModule
import Glibc
import NIOCore

/// What a channel was given to write and the socket has not taken yet.
struct PendingWrites {
    /// What one attempt to write came to.
    enum Outcome: Equatable {
        /// Everything that was flushed is written.
        case done
        /// The socket takes no more now.
        case wouldBlock
        /// The value of `errno`.
        case failed(Int32)
    }

    private struct Write {
        var bytes: ByteBuffer
        let promise: EventLoopPromise<Void>?
    }

    /// How many buffers one system call writes.
    private static let buffersPerCallMax = 32

    private var writes = Deque<Write>()
    /// How many of them are flushed.
    private var flushedCount = 0
    /// Not written yet, flushed or not.
    private(set) var bytes = 0

    mutating func append(_ bytes: ByteBuffer, _ promise: EventLoopPromise<Void>?) {
        writes.append(Write(bytes: bytes, promise: promise))
        self.bytes += bytes.readableBytes
    }

    mutating func markFlushed() { flushedCount = writes.count }

    /// Writes what is flushed as far as the socket takes it.
    ///
    /// - Returns: besides how it went, the promises to be kept: outside, since that may come back here.
    mutating func write(to socket: Int32) -> (Outcome, kept: [EventLoopPromise<Void>]) {
        var kept: [EventLoopPromise<Void>] = []
        while flushedCount > 0 {
            let written = flushedCount == 1 ? writeFirst(to: socket) : writeSeveral(to: socket)
            guard written >= 0 else {
                let code = errno
                if code == EINTR { continue }
                return (code == EAGAIN || code == EWOULDBLOCK ? .wouldBlock : .failed(code), kept)
            }
            took(written, &kept)
        }
        return (.done, kept)
    }

    private func writeFirst(to socket: Int32) -> Int {
        writes[0].bytes.withUnsafeReadableBytes { send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }

    private func writeSeveral(to socket: Int32) -> Int {
        let count = min(flushedCount, Self.buffersPerCallMax)
        return withUnsafeTemporaryAllocation(of: iovec.self, capacity: count) { vectors in
            for index in 0..<count {
                // The buffers' storage stays where it is as long as `writes` holds them.
                writes[index].bytes.withUnsafeReadableBytes { bytes in
                    vectors[index] = iovec(
                        iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
                }
            }
            var message = msghdr()
            message.msg_iov = vectors.baseAddress
            message.msg_iovlen = count
            return sendmsg(socket, &message, Int32(MSG_NOSIGNAL))
        }
    }

    /// The socket took that many bytes.
    private mutating func took(_ count: Int, _ kept: inout [EventLoopPromise<Void>]) {
        bytes -= count
        var left = count
        while flushedCount > 0 {
            let size = writes[0].bytes.readableBytes
            guard left >= size else { return writes[0].bytes.moveReaderIndex(forwardBy: left) }
            left -= size
            flushedCount -= 1
            if let promise = writes.removeFirst().promise { kept.append(promise) }
        }
    }

    /// Forgets everything; what is returned are the promises to be broken.
    mutating func removeAll() -> [EventLoopPromise<Void>] {
        defer { self = PendingWrites() }
        return writes.compactMap(\.promise)
    }
}
