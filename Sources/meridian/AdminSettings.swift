import AdminInterface
import EventLoops
import Foundation
import Logging
import Metrics
import SystemClock
import TransactionCore

/// How operators reach a node: the section `admin` of the configuration. Without it, there is no such interface.
struct AdminSettings: Sendable, Equatable {
    var host: String
    /// 0: a free one.
    var port: Int
    /// The path of a file whose first line is what a request that looks at the metadata has to know.
    var token: String?

    /// Throws ``ConfigurationError``.
    func loadToken() throws -> String? {
        guard let token else { return nil }
        let text: String
        do {
            text = try String(contentsOfFile: token, encoding: .utf8)
        } catch {
            throw ConfigurationError("could not read \(token)", detail: error.localizedDescription)
        }
        let line = text.prefix { !$0.isNewline }
        guard line.count >= 16, line.allSatisfy({ $0.isASCII && !$0.isWhitespace }) else {
            throw ConfigurationError(
                "the first line of \(token) is no token",
                detail: "it has 16 printable characters or more, and no blank",
                hint: "make one: openssl rand -hex 32")
        }
        return String(line)
    }

    /// Serves while `body` runs, and says where.
    fileprivate func serve(
        _ configuration: ClusterConfiguration, _ status: NodeStatus, _ clock: SystemBoundedClock,
        while body: () async throws -> Void
    ) async throws {
        let loop = try EventLoop(name: "admin")
        defer { loop.shutdown() }
        let node = configuration.engine.node
        let metadata = try await configuration.replication?.connect(
            asking: node, loop: loop, logger: Logger(label: "meridian.admin"))
        let routes = AdminRoutes(node: node, status: status, clock: clock, token: try loadToken(), metadata: metadata)
        let server = try AdminServer.start(host: host, port: port, on: loop) { await routes.answer($0) }
        let host = ["0.0.0.0", "::"].contains(host) ? "127.0.0.1" : host
        print("admin: http://\(host.contains(":") ? "[\(host)]" : host):\(server.port)")
        let result: Result<Void, any Error>
        do { result = .success(try await body()) } catch { result = .failure(error) }
        await server.shutdown()
        await metadata?.close()
        try result.get()
    }

    /// Where all of this process' metrics are; installed once.
    static let registry: MetricsRegistry = {
        let registry = MetricsRegistry()
        MetricsSystem.bootstrap(registry)
        return registry
    }()
}

extension ClusterConfiguration {
    /// Runs `body`, with an admin interface beside it if there is to be one.
    func withAdminInterface(
        _ status: NodeStatus, _ clock: SystemBoundedClock, _ body: () async throws -> Void
    ) async throws {
        guard let admin else { return try await body() }
        try await admin.serve(self, status, clock, while: body)
    }
}
