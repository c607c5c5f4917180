import CLinux
import Glibc
import NIOCore

/// Sockets of the kernel's, none of which blocks.
enum TCPSocket {
    /// Begins to listen. Throws `IOError`.
    static func listen(on address: SocketAddress, backlog: Int32) throws(IOError) -> Int32 {
        let socket = try make(for: address)
        do throws(IOError) {
            set(SOL_SOCKET, SO_REUSEADDR, 1, on: socket)
            let bound: Int32 = address.withSockAddr { bind(socket, $0, socklen_t($1)) }
            try check(bound, "bind")
            try check(Glibc.listen(socket, backlog), "listen")
        } catch {
            close(socket)
            throw error
        }
        return socket
    }

    /// Begins to connect: how it went shows when the socket can be written to. Throws `IOError`.
    static func connect(to address: SocketAddress) throws(IOError) -> Int32 {
        let socket = try make(for: address)
        let connected: Int32 = address.withSockAddr { Glibc.connect(socket, $0, socklen_t($1)) }
        guard connected == 0 || errno == EINPROGRESS || errno == EINTR else {
            let error = IOError(errnoCode: errno, reason: "connect")
            close(socket)
            throw error
        }
        return socket
    }

    private static func make(for address: SocketAddress) throws(IOError) -> Int32 {
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let socket = Glibc.socket(Int32(address.protocol.rawValue), kind, 0)
        try check(socket, "socket")
        return socket
    }

    private static func check(_ result: Int32, _ call: String) throws(IOError) {
        if result < 0 { throw IOError(errnoCode: errno, reason: call) }
    }

    private static func set(_ level: Int32, _ option: Int32, _ value: Int32, on socket: Int32) {
        withUnsafeBytes(of: value) { value in
            _ = setsockopt(socket, level, option, value.baseAddress, socklen_t(value.count))
        }
    }

    /// What is written leaves at once. A host that is gone without a word is noticed after about two minutes, so that a
    /// client's transaction ends; PostgreSQL leaves that to the kernel's own default, which is two hours.
    static func configure(_ socket: Int32) {
        let tcp = Int32(IPPROTO_TCP)
        set(tcp, TCP_NODELAY, 1, on: socket)
        set(SOL_SOCKET, SO_KEEPALIVE, 1, on: socket)
        set(tcp, TCP_KEEPIDLE, 60, on: socket)
        set(tcp, TCP_KEEPINTVL, 10, on: socket)
        set(tcp, TCP_KEEPCNT, 6, on: socket)
    }

    /// The error that the socket has met, as a value of `errno`; 0 when there is none.
    static func pendingError(of socket: Int32) -> Int32 {
        var code: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        return getsockopt(socket, SOL_SOCKET, SO_ERROR, &code, &length) == 0 ? code : errno
    }

    static func localAddress(of socket: Int32) -> SocketAddress? {
        makeAddress { getsockname(socket, $0, $1) }
    }

    /// Nil for an address of another kind than IPv4 and IPv6.
    static func makeAddress(
        _ fill: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &storage) { pointer in
            let raw = UnsafeMutableRawPointer(pointer)
            guard fill(raw.assumingMemoryBound(to: sockaddr.self), &length) >= 0 else { return nil }
            return switch Int32(pointer.pointee.ss_family) {
            case AF_INET: SocketAddress(raw.load(as: sockaddr_in.self))
            case AF_INET6: SocketAddress(raw.load(as: sockaddr_in6.self))
            default: nil
            }
        }
    }
}
