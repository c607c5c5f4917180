import CLibPQ

/// Where a shard is and how to connect to it: a libpq connection string, checked.
///
/// TLS, several hosts, `target_session_attrs`, service files and everything else mean what they mean to libpq.
public struct ConnectionSettings: Sendable {
    /// How long the server may take to stop what it was told to stop, before the connection is closed.
    public var cancelGrace: Duration = .seconds(5)
    /// How long a pool tries to open a connection and to set it up.
    public var connectTimeout: Duration = .seconds(5)
    /// How many statements each connection keeps prepared.
    public var preparedStatementsMax = 256

    /// The libpq keywords that are set, in libpq's order.
    private(set) var parameters: [(keyword: String, value: String)]

    /// Parses a connection string or URI.
    ///
    /// - Parameters:
    ///   - conninfo: what `psql` takes: `host=… port=…` or `postgresql://…`.
    ///   - overrides: libpq keywords that replace those of `conninfo`, such as `application_name`.
    /// - Throws: ``ShardError/Kind/invalidUse``; its message holds nothing that may be a password.
    public init(_ conninfo: String, overrides: [String: String] = [:]) throws(ShardError) {
        var message: UnsafeMutablePointer<CChar>?
        guard let options = PQconninfoParse(conninfo, &message) else {
            defer { PQfreemem(message) }
            let reason = message.map { String(cString: $0) } ?? "out of memory"
            throw ShardError(.invalidUse, "invalid connection string: \(Self.redact(reason))")
        }
        defer { PQconninfoFree(options) }
        var overrides = overrides
        overrides["client_encoding"] = "UTF8"
        var parameters: [(keyword: String, value: String)] = []
        var option = options
        while let keyword = option.pointee.keyword.map({ String(cString: $0) }) {
            let given = option.pointee.val.map { String(cString: $0) }
            if let value = overrides.removeValue(forKey: keyword) ?? given { parameters.append((keyword, value)) }
            option += 1
        }
        if let unknown = overrides.keys.min() {
            throw ShardError(.invalidUse, "invalid connection option \"\(unknown)\"")
        }
        self.parameters = parameters
    }

    /// The value of a libpq keyword, if set.
    public subscript(keyword: String) -> String? {
        parameters.first { $0.keyword == keyword }?.value
    }

    /// The same for each of the servers that `host` and `hostaddr` list, in their order, so that one may choose among
    /// them; these settings alone where there is one.
    public var servers: [ConnectionSettings] {
        func list(_ keyword: String) -> [Substring] {
            (self[keyword] ?? "").split(separator: ",", omittingEmptySubsequences: false)
        }
        let count = max(list("host").count, list("hostaddr").count)
        let lists = ["host", "hostaddr", "port"].map { (keyword: $0, values: list($0)) }
        // A list that does not fit the others is libpq's to refuse.
        guard count > 1, lists.allSatisfy({ [1, count].contains($0.values.count) }) else { return [self] }
        return (0..<count).map { index in
            var settings = self
            for (keyword, values) in lists where self[keyword] != nil {
                settings.set(keyword, to: String(values.count == 1 ? values[0] : values[index]))
            }
            return settings
        }
    }

    /// The same for the one of several servers that accepts writes.
    public var ofPrimary: ConnectionSettings {
        guard servers.count > 1 else { return self }
        var settings = self
        settings.set("target_session_attrs", to: "read-write")
        return settings
    }

    /// Adds or replaces the value of a libpq keyword.
    mutating func set(_ keyword: String, to value: String) {
        parameters.removeAll { $0.keyword == keyword }
        parameters.append((keyword, value))
    }

    /// libpq quotes the part of the string that it could not read, and that part may be a password.
    private static func redact(_ message: String) -> String {
        let line = message.split(separator: "\n").first.map(String.init) ?? ""
        guard !line.hasPrefix("invalid connection option") else { return line }
        return line.split(separator: "\"", omittingEmptySubsequences: false).enumerated()
            .map { $0.offset.isMultiple(of: 2) ? String($0.element) : "…" }.joined(separator: "\"")
    }
}

extension ConnectionSettings: CustomStringConvertible, CustomReflectable {
    /// Where the shard is and who connects to it; no secrets.
    public var description: String {
        let shown = [
            "host", "hostaddr", "port", "dbname", "user", "application_name", "target_session_attrs", "sslmode",
        ]
        return parameters.filter { shown.contains($0.keyword) }.map { "\($0.keyword)=\($0.value)" }
            .joined(separator: " ")
    }

    public var customMirror: Mirror { Mirror(self, children: ["description": description]) }
}
