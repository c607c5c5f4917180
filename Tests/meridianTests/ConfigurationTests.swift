import Foundation
import PeerTransport
import SystemClock
import Testing
import TransactionCore
import TransactionEngine

@testable import meridian

@Suite("Configuration") struct ConfigurationTests {
    private static let shard = "shards: [{name: a, conninfo: host=h}]\n"

    @Test("the annotated example has every key, with the defaults where there are any")
    func example() throws {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "../../ops").standardized
        let example = try ClusterConfiguration(contentsOf: path.path + "/meridian.example.yaml")
        // The engine's settings hold a function, so what they print as is compared.
        #expect("\(example)" == "\(ClusterConfiguration(shards: example.engine.shards))")
        #expect(example.engine.shards.map(\.id.rawValue) == ["east", "west"])
    }

    @Test("the example's cluster is one, with every key that there is")
    func exampleCluster() throws {
        let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "../../ops").standardized
        let lines = try String(contentsOfFile: path.path + "/meridian.example.yaml", encoding: .utf8)
            .split(separator: "\n", omittingEmptySubsequences: false)
        let start = try #require(lines.firstIndex(of: "# cluster:"))
        let section = lines[start...].prefix { $0.hasPrefix("#") }.map { $0.dropFirst(2) }.joined(separator: "\n")
        let cluster = try #require(try ClusterConfiguration(yaml: Self.shard + section, file: "/f").replication)
        let nodes = (1...3).map { NodeID(rawValue: $0)! }
        let addresses = nodes.map { PeerAddress(host: "node\($0).internal", port: 7432) }
        #expect(
            cluster
                == ReplicationSettings(
                    name: "bank", listen: PeerAddress(host: "10.0.0.1", port: 7432), address: addresses[0],
                    founders: Dictionary(uniqueKeysWithValues: zip(nodes, addresses)), directory: "/var/lib/meridian",
                    tls: PeerTLS(
                        certificateChain: "/node1.pem", privateKey: "/node1.key", trustRoots: "/cluster-ca.pem")))
    }

    @Test("every key that is set is taken")
    func everyKey() throws {
        let configuration = try ClusterConfiguration(
            yaml: """
                node: 7
                shards:
                  - {name: a, conninfo: "host=h"}
                  - {name: b, conninfo: "postgresql://k/db"}
                clock: {source: kernel, uncertainty: 250us}
                retention: 90min
                pool: {writers: 5, readers: 6, streams: 7, pinned: 3, wait: 250ms}
                timeouts: {statement: 1.5s, outcome: 2s, safe_time: 3s}
                """, file: "f")
        let engine = configuration.engine
        #expect(engine.node.rawValue == 7)
        #expect(engine.shards.map(\.conninfo) == ["host=h", "postgresql://k/db"])
        #expect(engine.writersMax == 5 && engine.readersMax == 6 && engine.streamsMax == 7 && engine.pinnedMax == 3)
        #expect(engine.admissionTimeout == .milliseconds(250))
        #expect(engine.statementTimeout == .milliseconds(1500))
        #expect(engine.outcomeTimeout == .seconds(2) && engine.safeTimeTimeout == .seconds(3))
        #expect(configuration.clock == .kernel(uncertaintyMin: .microseconds(250)))
        #expect(configuration.retention == .seconds(5400))
    }

    @Test(
        "a mistake is refused with its place and what is allowed there",
        arguments: [
            ("shrads: []", "line 1: unknown key \"shrads\"", "the keys are node, shards"),
            (
                "\(shard)clock:\n  source: host\n  offset: 1s", "line 4: unknown key \"offset\" in \"clock\"",
                "source, unc"
            ),
            ("\(shard)node: 0", "line 2: \"node\" can't be \"0\"", "1 to 1023"),
            ("\(shard)node: 1024", "line 2: \"node\" can't be \"1024\"", "1 to 1023"),
            ("\(shard)node: one", "line 2: \"node\" can't be \"one\"", "1 to 1023"),
            ("\(shard)node: [1]", "line 2: \"node\" is not a single value", "1 to 1023"),
            ("\(shard)retention: 1 hour", "line 2: \"retention\" can't be \"1 hour\"", "ns, us, ms, s, min, h"),
            ("\(shard)retention: 5", "line 2: \"retention\" can't be \"5\"", "2s to 365d"),
            ("\(shard)clock: {source: ntp}", "\"clock.source\" can't be \"ntp\"", "host or kernel"),
            ("\(shard)clock: {uncertainty: 1ms}", "\"clock.source\" is missing", "host or kernel"),
            ("\(shard)clock: {source: host, uncertainty: 11s}", "\"clock.uncertainty\" can't be \"11s\"", "0 to 10s"),
            ("\(shard)pool: {writers: 0}", "\"pool.writers\" can't be \"0\"", "1 to 10000"),
            ("\(shard)pool: 5", "line 2: \"pool\" is not a list of keys", "writers, readers, streams, pinned, wait"),
            ("\(shard)node: 1\nnode: 2", "not YAML", "node"),
            ("shards: [{name: A, conninfo: host=h}]", "\"shards[1].name\" can't be \"A\"", "lower-case"),
            ("shards: [{name: a}]", "\"shards[1].conninfo\" is missing", "libpq"),
            ("shards: {a: host=h}", "\"shards\" is not a list", ""),
            ("shards: []", "there is no shard", "name at least one"),
            ("", "there is no shard", "name at least one"),
            ("- a", "the file is not a list of keys", "shards"),
            (
                "shards: [{name: a, conninfo: host=h}, {name: a, conninfo: host=k}]", "two shards are named \"a\"",
                "its own name"
            ),
            (
                "shards: [{name: a, conninfo: host=h port=1 user=x}, {name: b, conninfo: 'postgresql://h:1'}]",
                "\"a\" and \"b\" are in the same place", "its own server"
            ),
            (
                "shards: [{name: a, conninfo: 'host=h passwrd=secret'}]",
                "shard \"a\" can't be reached: invalid connection string: invalid connection option \"passwrd\"", ""
            ),
        ]
    )
    func mistakes(yaml: String, message: String, advice: String) throws {
        let error = try #require(throws: ConfigurationError.self) {
            try ClusterConfiguration(yaml: yaml, file: "f.yaml")
        }
        #expect(error.message.contains("configuration file f.yaml"))
        #expect(error.message.contains(message))
        #expect(advice.isEmpty || error.description.contains(advice))
    }

    @Test("a shard on the command line is a name and a conninfo")
    func shardArgument() throws {
        let shard = try ShardConfiguration(argument: "a host=h port=1")
        #expect(shard == .init(id: try #require(ShardID("a")), conninfo: "host=h port=1"))
        for argument in ["", "a", "A host=h", "1a host=h"] {
            #expect(throws: ConfigurationError.self) { try ShardConfiguration(argument: argument) }
        }
    }
}

@Suite("DurationArgument") struct DurationArgumentTests {
    @Test(
        "a duration is read as it is written, and written as it is read",
        arguments: [
            ("0", .zero), ("1ns", .nanoseconds(1)), ("500us", .microseconds(500)), ("1ms", .milliseconds(1)),
            ("1500ms", .milliseconds(1500)), ("30s", .seconds(30)), ("2min", .seconds(120)), ("1h", .seconds(3600)),
            ("7d", .seconds(7 * 86_400)),
        ] as [(String, Duration)]
    )
    func roundTrip(text: String, duration: Duration) throws {
        #expect(DurationArgument(argument: text)?.duration == duration)
        #expect(DurationArgument(duration).description == text)
    }

    @Test("fractions are taken to the nanosecond")
    func fractions() {
        #expect(DurationArgument(argument: "2.5s")?.duration == .milliseconds(2500))
        #expect(DurationArgument(argument: "0.5us")?.duration == .nanoseconds(500))
    }

    @Test(
        "what is no duration is refused", arguments: ["", "5", "ms", "1 ms", "-1s", "1m", "1e3s", "1.2.3s", "2000000d"])
    func refused(text: String) {
        #expect(DurationArgument(argument: text) == nil)
    }
}
