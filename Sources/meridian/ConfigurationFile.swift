import Foundation
import PeerTransport
import ReplicatedMetadata
import SystemClock
import TransactionCore
import TransactionEngine
import Yams

extension ClusterConfiguration {
    /// Reads a configuration file. Throws ``ConfigurationError`` with the file, the line and what is allowed there.
    init(contentsOf path: String) throws {
        let text: String
        do {
            text = try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            let reason = FileManager.default.fileExists(atPath: path) ? "\(error.localizedDescription)" : nil
            throw ConfigurationError(
                "could not read configuration file \(path)", detail: reason ?? "there is no such file"
            )
        }
        try self.init(yaml: text, file: path)
    }

    /// Reads the text of a configuration file; `file` is for messages.
    init(yaml: String, file: String) throws {
        let root: Node
        do {
            root = try Yams.compose(yaml: yaml) ?? Node([(Node, Node)]())
        } catch {
            throw ConfigurationError("configuration file \(file) is not YAML", detail: "\(error)")
        }
        let keys = ["node", "shards", "gateway", "admin", "cluster", "clock", "retention", "pool", "timeouts"]
        try self.init(ConfigurationSection(root, file: file, path: "", keys: keys))
    }

    private init(_ section: ConfigurationSection) throws {
        let shards = try section.sections("shards", keys: ["name", "conninfo"]).map { shard in
            ShardConfiguration(
                id: try shard.required("name", ShardConfiguration.nameExplanation) { ShardID($0) },
                conninfo: try shard.required("conninfo", "a conninfo is what libpq takes, like host=db1 dbname=bank") {
                    $0.contains("=") || $0.contains("://") ? $0 : nil
                }
            )
        }
        do {
            try ShardConfiguration.check(shards)
        } catch let error as ConfigurationError {
            throw ConfigurationError(
                "in configuration file \(section.file): \(error.message)", detail: error.detail, hint: error.hint
            )
        }
        self.init(shards: shards)

        let number = "a node's number is 1 to \(NodeID.maximum)"
        let node = try section.value("node", number) { UInt16($0).flatMap { $0 > 0 ? NodeID(rawValue: $0) : nil } }
        engine.node = node ?? engine.node
        retention = try section.duration("retention", in: .seconds(2) ... .seconds(365 * 86_400)) ?? retention
        let gatewayKeys = ["listen", "database", "clients", "rules", "users", "tls_certificate", "tls_key"]
        gateway = try section.section("gateway", keys: gatewayKeys).map(Self.gateway) ?? gateway
        admin = try section.section("admin", keys: ["listen", "token"]).map { section in
            let address = try section.required("listen", GatewaySettings.addressExplanation, GatewaySettings.address)
            return AdminSettings(host: address.host, port: address.port, token: try section.path("token"))
        }
        let clusterKeys = ["name", "listen", "address", "nodes", "directory"] + Self.peerTLSKeys
        replication = try section.section("cluster", keys: clusterKeys).map(Self.replication)
        clock = try section.section("clock", keys: ["source", "uncertainty"]).map(Self.clock) ?? clock
        if let pool = try section.section("pool", keys: ["writers", "readers", "streams", "pinned", "wait"]) {
            engine.writersMax = try pool.number("writers", in: 1...10_000) ?? engine.writersMax
            engine.readersMax = try pool.number("readers", in: 1...10_000) ?? engine.readersMax
            engine.streamsMax = try pool.number("streams", in: 1...10_000) ?? engine.streamsMax
            engine.pinnedMax = try pool.number("pinned", in: 0...10_000) ?? engine.pinnedMax
            engine.admissionTimeout = try pool.duration("wait", in: .zero ... .seconds(3600)) ?? engine.admissionTimeout
        }
        if let timeouts = try section.section("timeouts", keys: ["statement", "outcome", "safe_time"]) {
            let range: ClosedRange<Duration> = .milliseconds(1) ... .seconds(3600)
            engine.statementTimeout = try timeouts.duration("statement", in: range) ?? engine.statementTimeout
            engine.outcomeTimeout = try timeouts.duration("outcome", in: range) ?? engine.outcomeTimeout
            engine.safeTimeTimeout = try timeouts.duration("safe_time", in: range) ?? engine.safeTimeTimeout
        }
    }

    private static func gateway(_ section: ConfigurationSection) throws -> GatewaySettings {
        var gateway = GatewaySettings()
        let address = try section.value("listen", GatewaySettings.addressExplanation, GatewaySettings.address)
        (gateway.host, gateway.port) = address ?? (gateway.host, gateway.port)
        gateway.database = try section.value("database", "it is a name") { $0.isEmpty ? nil : $0 } ?? gateway.database
        gateway.clients = try section.number("clients", in: 1...1_000_000) ?? gateway.clients
        gateway.rules = try section.path("rules")
        gateway.users = try section.path("users")
        gateway.tlsCertificate = try section.path("tls_certificate")
        gateway.tlsKey = try section.path("tls_key")
        return gateway
    }

    private static let peerTLSKeys = ["tls_certificate", "tls_key", "tls_authority"]

    private static func replication(_ section: ConfigurationSection) throws -> ReplicationSettings {
        let explanation = ReplicationSettings.addressExplanation
        let listen = try section.required("listen", explanation, PeerAddress.init(_:))
        let founders = try section.sections("nodes", keys: ["node", "address"]).map { node in
            (
                try node.required("node", "a node's number is 1 to \(NodeID.maximum)") {
                    UInt16($0).flatMap { $0 > 0 ? NodeID(rawValue: $0) : nil }
                },
                try node.required("address", explanation, PeerAddress.init(_:))
            )
        }
        guard !founders.isEmpty, Set(founders.map(\.0)).count == founders.count else {
            throw ConfigurationError(
                "in configuration file \(section.file): \"cluster.nodes\" has to name each node once",
                detail: "they are the nodes with which the cluster began")
        }
        guard let directory = try section.path("directory") else {
            throw ConfigurationError(
                "in configuration file \(section.file): \"cluster.directory\" is missing",
                detail: "it is the path of a directory that this node alone uses")
        }
        let paths = try peerTLSKeys.map { try section.path($0) }
        guard paths.allSatisfy({ $0 == nil }) || paths.allSatisfy({ $0 != nil }) else {
            throw ConfigurationError(
                "in configuration file \(section.file): cluster.\(peerTLSKeys.joined(separator: ", cluster.")) go "
                    + "together")
        }
        return ReplicationSettings(
            name: try section.required("name", "it is a name of at most 255 bytes") {
                (1...255).contains($0.utf8.count) ? $0 : nil
            },
            listen: listen, address: try section.value("address", explanation, PeerAddress.init(_:)) ?? listen,
            founders: Dictionary(founders) { first, _ in first },
            directory: directory,
            tls: paths[0].map { PeerTLS(certificateChain: $0, privateKey: paths[1]!, trustRoots: paths[2]!) })
    }

    private static func clock(_ section: ConfigurationSection) throws -> ClockSource {
        let uncertainty = try section.duration("uncertainty", in: .zero...ClockSource.uncertaintyMax)
        return try section.required("source", "it is host or kernel") {
            try? ClockSource(name: $0, uncertainty: uncertainty ?? ClockSource.uncertaintyDefault)
        }
    }
}

/// One mapping of a configuration file. It knows where it is, and that it has no keys but those allowed.
private struct ConfigurationSection {
    let file: String
    private let path: String
    private let mapping: Node.Mapping

    init(_ node: Node, file: String, path: String, keys: [String]) throws {
        self.file = file
        self.path = path
        guard case .mapping(let mapping) = node else {
            throw Self.error(
                "\(path.isEmpty ? "the file" : "\"\(path)\"") is not a list of keys and values", at: node, file: file,
                detail: "the keys are \(keys.joined(separator: ", "))"
            )
        }
        self.mapping = mapping
        for (key, _) in mapping where !keys.contains(key.string ?? "") {
            let place = path.isEmpty ? "" : " in \"\(path)\""
            throw Self.error(
                "unknown key \"\(key.string ?? "?")\"\(place)", at: key, file: file,
                detail: "the keys are \(keys.joined(separator: ", "))"
            )
        }
    }

    /// A section below this one, nil when it isn't there.
    func section(_ key: String, keys: [String]) throws -> ConfigurationSection? {
        try mapping[Node(key)].map { try ConfigurationSection($0, file: file, path: path(to: key), keys: keys) }
    }

    /// The sections of a list; none when it isn't there.
    func sections(_ key: String, keys: [String]) throws -> [ConfigurationSection] {
        guard let node = mapping[Node(key)] else { return [] }
        guard case .sequence(let list) = node else {
            throw Self.error("\"\(path(to: key))\" is not a list", at: node, file: file)
        }
        return try list.enumerated().map { index, node in
            try ConfigurationSection(node, file: file, path: "\(path(to: key))[\(index + 1)]", keys: keys)
        }
    }

    /// The value of a key, nil when it isn't there; `parse` returns nil for what `allowed` rules out.
    func value<Value>(_ key: String, _ allowed: String, _ parse: (String) throws -> Value?) throws -> Value? {
        guard let node = mapping[Node(key)] else { return nil }
        guard case .scalar(let scalar) = node, let value = try parse(scalar.string) else {
            let given = node.scalar.map { "can't be \"\($0.string)\"" } ?? "is not a single value"
            throw Self.error("\"\(path(to: key))\" \(given)", at: node, file: file, detail: allowed)
        }
        return value
    }

    /// The value of a key that must be there.
    func required<Value>(_ key: String, _ allowed: String, _ parse: (String) throws -> Value?) throws -> Value {
        if let value = try value(key, allowed, parse) { return value }
        throw Self.error("\"\(path(to: key))\" is missing", at: .mapping(mapping), file: file, detail: allowed)
    }

    /// The path of a file; it may be relative to the configuration's.
    func path(_ key: String) throws -> String? {
        try value(key, "it is the path of a file") { path in
            let directory = URL(filePath: file).deletingLastPathComponent()
            return path.isEmpty ? nil : URL(filePath: path, relativeTo: directory).path(percentEncoded: false)
        }
    }

    func number(_ key: String, in range: ClosedRange<Int>) throws -> Int? {
        try value(key, "it is \(range.lowerBound) to \(range.upperBound)") { text in
            Int(text).flatMap { range.contains($0) ? $0 : nil }
        }
    }

    func duration(_ key: String, in range: ClosedRange<Duration>) throws -> Duration? {
        let bounds = "\(DurationArgument(range.lowerBound)) to \(DurationArgument(range.upperBound))"
        return try value(key, "it is \(bounds); \(DurationArgument.explanation)") { text in
            DurationArgument(argument: text).flatMap { range.contains($0.duration) ? $0.duration : nil }
        }
    }

    private func path(to key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

    private static func error(_ message: String, at node: Node, file: String, detail: String? = nil) -> any Error {
        let line = node.mark.map { ", line \($0.line)" } ?? ""
        return ConfigurationError("in configuration file \(file)\(line): \(message)", detail: detail)
    }
}
