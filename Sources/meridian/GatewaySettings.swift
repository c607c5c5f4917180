import ClientAuthentication
import Foundation
import Gateway

/// How clients reach a node, and who may: the section `gateway` of the configuration.
struct GatewaySettings: Sendable, Equatable {
    var host = "127.0.0.1"
    /// 0: a free one.
    var port = 5432
    /// The database's name for clients.
    var database = "meridian"
    /// How many clients may be connected.
    var clients = 10_000
    /// Paths of files; see `ops/meridian.example.yaml`.
    var rules: String?
    var users: String?
    var tlsCertificate: String?
    var tlsKey: String?

    static let addressExplanation = "it is an address, a colon and a port, like 0.0.0.0:5432 or [::1]:5432"

    /// Reads `host:port`; nil when the text is something else.
    static func address(_ text: String) -> (host: String, port: Int)? {
        guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
            (0...65_535).contains(port)
        else { return nil }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        return host.isEmpty ? nil : (String(host), port)
    }

    /// Where clients of this machine connect.
    func url(port: Int) -> String {
        let host = ["0.0.0.0", "::"].contains(host) ? "127.0.0.1" : host
        return "postgresql://meridian@\(host.contains(":") ? "[\(host)]" : host):\(port)/\(database)"
    }

    /// Reads the files. Throws ``ConfigurationError``.
    func load() throws -> GatewayConfiguration {
        let text = try rules.map { try Self.read($0) } ?? "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust"
        let parsed: HostRules
        do {
            parsed = try HostRules(parsing: text)
        } catch {
            throw ConfigurationError("the rules in \(rules ?? "the defaults") are refused", detail: "\(error)")
        }
        guard (tlsCertificate == nil) == (tlsKey == nil) else {
            throw ConfigurationError("a certificate for TLS and its key go together", hint: "give both, or neither")
        }
        var configuration = GatewayConfiguration(
            host: host, port: port, hostRules: parsed, mockSecret: (0..<32).map { _ in UInt8.random(in: 0...255) })
        configuration.clientsMax = clients
        if let tlsCertificate, let tlsKey {
            configuration.tls = .init(certificateChain: tlsCertificate, privateKey: tlsKey)
        }
        return configuration
    }

    /// The users' verifiers. Throws ``ConfigurationError``.
    func loadUsers() throws -> [String: PasswordVerifier] {
        guard let users else { return [:] }
        var verifiers: [String: PasswordVerifier] = [:]
        let lines = try Self.read(users).split(separator: "\n", omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() {
            let words = line.split(separator: " ")
            if words.isEmpty || line.hasPrefix("#") { continue }
            guard words.count == 2, let verifier = PasswordVerifier(String(words[1])) else {
                throw ConfigurationError(
                    "line \(index + 1) of \(users) is no user",
                    detail: "it is a name, a blank and a password's verifier",
                    hint: "take the verifier from pg_authid.rolpassword; it begins with SCRAM-SHA-256$")
            }
            verifiers[String(words[0])] = verifier
        }
        return verifiers
    }

    private static func read(_ path: String) throws -> String {
        do {
            return try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw ConfigurationError("could not read \(path)", detail: error.localizedDescription)
        }
    }
}
