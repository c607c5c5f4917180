import ArgumentParser
import Consensus
import EventLoops
import Foundation
import Histogram
import Logging
import Metadata
import PeerTransport
import ReplicatedMetadata
import SystemClock
import TransactionCore

/// What a program that puts load on three members has measured, in JSON.
struct LoadResult: Codable {
    /// How long it counted, after the warm-up.
    var seconds: Double
    /// Its own processor time in these seconds.
    var processor: Double
    /// Operations, those of the warm-up too.
    var total: Int
    /// By what is measured, pairs: a latency in microseconds, and how often it was seen.
    var latencies: [String: [[UInt64]]]
}

/// `metadata-node`: one member of a cluster that has the metadata and nothing else, until it is ended.
struct MetadataMember: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "metadata-node", shouldDisplay: false)
    static let cluster = "bench"

    @Argument var node: Int
    @Argument var addresses: String
    @Argument var directory: String

    func run() async throws {
        let addresses = try memberAddresses(addresses)
        let node = NodeID(rawValue: UInt16(node))!
        let loop = try EventLoop()
        defer { loop.shutdown() }
        let configuration = MetadataNodeConfiguration(
            peers: PeerConfiguration(cluster: Self.cluster, node: node), listenAddress: addresses[node]!,
            addresses: addresses, founders: NodeSet(addresses.keys), directory: directory)
        let clock = SystemBoundedClock(source: .host(uncertainty: .milliseconds(1)))
        let member = try await MetadataNode.start(
            configuration, clock: clock, loop: loop, logger: Logger(label: "node"))
        try await Task.sleep(for: .seconds(86_400))
        await member.stop()
    }
}

/// `metadata-load`: puts load on such members from outside.
struct MetadataLoad: AsyncParsableCommand {
    static let configuration = CommandConfiguration(commandName: "metadata-load", shouldDisplay: false)

    enum Operation: String, ExpressibleByArgument {
        case fill, write, read, watch
    }

    @Argument var addresses: String
    @Argument var keys: Int
    @Argument var valueBytes: Int
    @Argument var operation: Operation
    @Argument var clients: Int
    @Argument var warmUpSeconds: Double
    @Argument var seconds: Double

    func run() async throws {
        let addresses = try memberAddresses(addresses)
        let loop = try EventLoop()
        defer { loop.shutdown() }
        let clock = SystemBoundedClock(source: .host(uncertainty: .milliseconds(1)))
        var members: [RemoteMetadata] = []
        for node in addresses.keys.sorted() {
            members.append(
                try await RemoteMetadata.connect(
                    cluster: MetadataMember.cluster, tls: nil, nodes: addresses, preferring: node, loop: loop,
                    logger: Logger(label: "load")))
        }
        var loadClients: [LoadClient] = []
        for number in 0..<clients {
            let member = members[number % members.count]
            loadClients.append(
                LoadClient(
                    number: number, member: member, watcher: members[(number + 1) % members.count],
                    session: try await NodeSession.open(
                        on: member, duration: .seconds(30), clock: clock, deadline: .now + .seconds(60)),
                    keys: keys, value: [UInt8](repeating: UInt8(ascii: "v"), count: valueBytes)))
        }
        let result = try await measure(loadClients, on: loop)
        for client in loadClients { try await client.session.close(deadline: .now + .seconds(10)) }
        for member in members { await member.close() }
        print(String(decoding: try JSONEncoder().encode(result), as: UTF8.self))
    }

    private func measure(_ clients: [LoadClient], on loop: EventLoop) async throws -> LoadResult {
        let begin = ContinuousClock.now + .seconds(warmUpSeconds)
        let window = begin..<begin + .seconds(seconds)
        async let processor = Self.processorSeconds(in: window)
        var result = LoadResult(seconds: seconds, processor: 0, total: 0, latencies: [:])
        var counts: [String: [UInt64: UInt64]] = [:]
        try await withThrowingTaskGroup(of: LoadCounts.self) { group in
            for client in clients {
                group.addTask(executorPreference: loop) { [operation] in
                    try await client.run(operation, of: clients.count, counting: LoadCounts(window: window))
                }
            }
            for try await client in group {
                result.total += client.total
                for (name, series) in client.latencies { counts[name, default: [:]].merge(series, uniquingKeysWith: +) }
            }
        }
        result.processor = try await processor
        result.latencies = counts.mapValues { $0.map { [$0.key, $0.value] } }
        return result
    }

    private static func processorSeconds(in window: Range<ContinuousClock.Instant>) async throws -> Double {
        try await Task.sleep(until: window.lowerBound, clock: .continuous)
        let before = ProcessorTime.spent(servers: []).own
        try await Task.sleep(until: window.upperBound, clock: .continuous)
        return ProcessorTime.spent(servers: []).own - before
    }
}

/// Reads `host:port,host:port`, of node 1 and so on.
private func memberAddresses(_ text: String) throws -> [NodeID: PeerAddress] {
    let addresses = text.split(separator: ",").compactMap { PeerAddress(String($0)) }
    guard !addresses.isEmpty else { throw ValidationError("there are no addresses in \"\(text)\"") }
    return Dictionary(
        uniqueKeysWithValues: addresses.enumerated().map { (NodeID(rawValue: UInt16($0.offset + 1))!, $0.element) })
}

/// What one client has counted.
struct LoadCounts {
    /// What ends in here counts.
    let window: Range<ContinuousClock.Instant>
    var total = 0
    var latencies: [String: [UInt64: UInt64]] = [:]

    mutating func note(_ now: ContinuousClock.Instant, _ series: [String: Duration]) {
        total += 1
        guard window.contains(now) else { return }
        for (name, latency) in series {
            latencies[name, default: [:]][UInt64(max(.zero, latency) / .microseconds(1)), default: 0] += 1
        }
    }
}

/// One client in a closed loop: its next operation begins when the last one is answered.
struct LoadClient: Sendable {
    let number: Int
    let member: RemoteMetadata
    /// Another member than that which is written to.
    let watcher: RemoteMetadata
    let session: NodeSession
    let keys: Int
    let value: [UInt8]

    func run(
        _ operation: MetadataLoad.Operation, of clients: Int, counting counts: LoadCounts
    ) async throws -> LoadCounts {
        var counts = counts
        switch operation {
        case .fill: for key in stride(from: number, to: keys, by: clients) { try await write(Self.key(key)) }
        case .write: try await repeatedly(&counts) { try await write($0) }
        case .read:
            try await repeatedly(&counts) { key in
                _ = try await member.read(.get(key), deadline: .now + .seconds(30))
            }
        case .watch: try await watch(&counts)
        }
        return counts
    }

    private func repeatedly(_ counts: inout LoadCounts, _ operate: (MetadataKey) async throws -> Void) async throws {
        var began = ContinuousClock.now
        while began < counts.window.upperBound {
            try await operate(Self.key(.random(in: 0..<keys)))
            let now = ContinuousClock.now
            counts.note(now, ["": now - began])
            began = now
        }
    }

    private func watch(_ counts: inout LoadCounts) async throws {
        let key = Self.key(number)
        let revision = try await watcher.read(.get(key), deadline: .now + .seconds(30)).revision
        var watch = watcher.watch(.key(key), after: revision)
        while true {
            let began = ContinuousClock.now
            guard began < counts.window.upperBound else { return }
            async let acknowledged = {
                try await write(key)
                return ContinuousClock.now
            }()
            _ = try await watch.next()
            let told = ContinuousClock.now
            counts.note(told, ["from start": told - began, "from answer": told - (try await acknowledged)])
        }
    }

    private func write(_ key: MetadataKey) async throws {
        _ = try await session.transaction(MetadataTransaction(then: [.put(key, value)]), deadline: .now + .seconds(30))
    }

    private static func key(_ number: Int) -> MetadataKey { MetadataKey(String(format: "/bench/%06d", number))! }
}
