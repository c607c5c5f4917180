import Foundation

/// A TCP port on 127.0.0.1 that nobody listens on now.
///
/// It lies below the range that the kernel gives to outgoing connections. In that range, a client that tries again and
/// again while the server is down is one day given the server's own port, is connected to itself, and keeps the server
/// from coming back.
public func freePort() throws -> UInt16 {
    let range = (try? String(contentsOfFile: "/proc/sys/net/ipv4/ip_local_port_range", encoding: .utf8)) ?? ""
    let outgoing = range.split(whereSeparator: \.isWhitespace).first.flatMap { UInt16($0) } ?? 32768
    let candidates: Range<UInt16> = outgoing > 12000 ? 10000..<outgoing : 61000..<65535
    for _ in 0..<1000 {
        let port = UInt16.random(in: candidates)
        if isFree(port: port) { return port }
    }
    throw LocalClusterError(
        "could not find a free TCP port on 127.0.0.1",
        detail: "tried 1000 of \(candidates.lowerBound) to \(candidates.upperBound - 1)"
    )
}

/// Tries to listen as PostgreSQL would.
func isFree(port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var reuse: Int32 = 1
    setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &reuse, socklen_t(MemoryLayout<Int32>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let isBound = withUnsafePointer(to: &address) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
    return isBound && listen(descriptor, 1) == 0
}
