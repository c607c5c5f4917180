import CLibPQ
import EventLoops
import Glibc

extension ConnectionSettings {
    /// Returns settings whose hosts all have addresses, so that libpq need not resolve names, for which it would block.
    ///
    /// A name with several addresses becomes several hosts, as libpq would try them all. `host` stays beside
    /// `hostaddr`, since TLS checks the server's certificate against it.
    func resolvingHosts(on loop: EventLoop, deadline: ContinuousClock.Instant?) async throws(ShardError) -> Self {
        guard self["hostaddr"] == nil, let hosts = self["host"] else { return self }
        let names = hosts.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard names.contains(where: Self.isName) else { return self }
        let ports = (self["port"] ?? "").split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        guard ports.count <= 1 || ports.count == names.count else { return self }

        let found = try await Self.lookUp(names, on: loop, deadline: deadline)
        var resolved: [(host: String, address: String, port: String)] = []
        for (index, name) in names.enumerated() {
            let port = ports.count > 1 ? ports[index] : ports.first ?? ""
            resolved += found[index].map { (name, $0, port) }
        }
        guard !resolved.isEmpty else {
            throw ShardError(.notConnected(nil), "could not translate host name \"\(hosts)\" to an address")
        }
        var settings = self
        settings.set("host", to: resolved.map(\.host).joined(separator: ","))
        settings.set("hostaddr", to: resolved.map(\.address).joined(separator: ","))
        settings.set("port", to: resolved.map(\.port).joined(separator: ","))
        return settings
    }

    /// Neither a directory with a socket, nor an address, nor left to libpq's default.
    private static func isName(_ host: String) -> Bool {
        var address = in6_addr()
        return !host.isEmpty && !host.hasPrefix("/") && !host.hasPrefix("@")
            && inet_pton(AF_INET, host, &address) != 1 && inet_pton(AF_INET6, host, &address) != 1
    }

    /// The addresses of each host on a thread of its own, which is left behind when the deadline passes.
    private static func lookUp(
        _ hosts: [String], on loop: EventLoop, deadline: ContinuousClock.Instant?
    ) async throws(ShardError) -> [[String]] {
        let answer = Answer<[[String]]>()
        let isStarted = BlockingCall.run {
            answer.give(hosts.map { isName($0) ? addresses(of: $0) : [$0.hasPrefix("/") ? "" : $0] })
        }
        guard isStarted else { throw ShardError(.notConnected(nil), "no thread to look up the shard's host name on") }
        let timeout = deadline.map { deadline in loop.schedule(at: deadline) { answer.give(nil) } }
        defer { timeout?.cancel() }
        let found = await withTaskCancellationHandler {
            await answer.wait()
        } onCancel: {
            answer.give(nil)
        }
        guard let found else {
            throw ShardError(
                Task.isCancelled ? .cancelled : .timedOut, "looking up the shard's host name took too long")
        }
        return found
    }

    private static func addresses(of host: String) -> [String] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, nil, &hints, &list) == 0 else { return [] }
        defer { freeaddrinfo(list) }
        return sequence(first: list, next: { $0?.pointee.ai_next }).compactMap { entry in
            guard let entry else { return nil }
            var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
            let code = getnameinfo(
                entry.pointee.ai_addr, entry.pointee.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST)
            return code == 0
                ? String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self) : nil
        }
    }
}
