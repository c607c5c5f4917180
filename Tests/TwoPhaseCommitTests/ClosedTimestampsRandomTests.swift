import Testing
import TransactionCore

@testable import TwoPhaseCommit

/// Three coordinators and a network that loses, doubles and reorders, in every interleaving that chance brings. Time is
/// a count; each has a clock that is wrong by no more than it says.
@Suite struct ClosedTimestampsRandomTests {
    @Test(
        "no read misses what was chosen at or before it, or was acknowledged before it began (R8, R9)", arguments: 0..<8
    )
    func random(block: UInt64) {
        var reads = 0
        for seed in (block * 100 + 1)...(block * 100 + 100) {
            var world = World(seed: seed)
            for _ in 0..<400 { world.step() }
            reads += world.readCount
            for violation in world.violations.prefix(1) { Issue.record("seed \(seed): \(violation)") }
        }
        #expect(reads > 500)
    }

    @Test("once nothing is lost any more every read ends", arguments: 1...40)
    func progress(seed: UInt64) {
        var world = World(seed: seed)
        for _ in 0..<300 { world.step() }
        world.mend()
        for _ in 0..<3000 where !world.isQuiet { world.step() }
        #expect(world.isQuiet, "\(world.waiting)")
        #expect(world.violations.isEmpty)
    }
}

/// SplitMix64.
private struct Chance {
    var state: UInt64

    mutating func below(_ count: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((mixed ^ (mixed >> 31)) % UInt64(count))
    }
}

private struct World {
    struct Commit {
        let timestamp: Timestamp
        let node: Incarnation
        let shards: [ShardID]
        /// Where it is not applied yet.
        var inFlight: Set<ShardID>
    }

    struct Read {
        /// Waits for it; 0 for a read of the past, which waits for none.
        let round: UInt64
        let shard: ShardID
        /// The newest commit that was acknowledged, or seen by a read that was over, when it began.
        let floor: Timestamp
        var timestamp = Timestamp.zero
    }

    final class Member {
        var closed: ClosedTimestamps
        var tracker: SafeTimeTracker
        let clockError: Int64
        /// Is to choose a timestamp as soon as it is active.
        var wantsToCommit = false
        var reads: [Read] = []
        var held: [(waiter: SafeTimeTracker.WaiterID, read: Read)] = []
        var endedRounds: [(round: UInt64, upTo: Timestamp)] = []
        /// Those that have appeared, of which it has not been told yet.
        var news: [Incarnation] = []
        /// What it has still to fence.
        var gone: [Incarnation] = []

        init(_ closed: ClosedTimestamps, _ tracker: SafeTimeTracker, clockError: Int64) {
            (self.closed, self.tracker, self.clockError) = (closed, tracker, clockError)
        }
    }

    private static let uncertainty: Int64 = 8 << Timestamp.nodeBits
    private static let shards = [a, b]

    var chance: Chance
    var now = makeTimestamp(1000)
    var epoch: Int64 = 0
    var members: [Incarnation: Member] = [:]
    var mail: [(message: ClosedTimestamps.Message, from: Incarnation, to: Incarnation)] = []
    var commits: [Commit] = []
    /// Nodes without a life.
    var down: [UInt16] = [1, 2, 3]
    /// The newest timestamp at which a read has taken a snapshot, by shard.
    var newestRead: [ShardID: Timestamp] = [:]
    /// The newest commit acknowledged, or seen by a read that is over.
    var known = Timestamp.zero
    var isMended = false
    var readCount = 0
    var violations: [String] = []

    init(seed: UInt64) {
        chance = Chance(state: seed)
        for _ in 1...3 { startOne() }
    }

    /// Starts a node that is down; it settles what nobody coordinates before it begins.
    private mutating func startOne() {
        guard !down.isEmpty else { return }
        let number = down.removeFirst()
        for index in commits.indices where members[commits[index].node] == nil { settle(index) }
        epoch += 1
        let own = Incarnation(NodeID(rawValue: number)!, Epoch(rawValue: epoch))
        let newest = commits.map(\.timestamp).max() ?? .zero
        var tracker = SafeTimeTracker(node: own.node, newest: newest)
        let closed = ClosedTimestamps(own, peers: members.keys.sorted(), &tracker)
        for peer in members.keys.sorted() { members[peer]!.news.append(own) }
        let error = Int64(chance.below(Int(2 * Self.uncertainty))) - Self.uncertainty
        members[own] = Member(closed, tracker, clockError: error)
    }

    func clock(_ node: Incarnation) -> TimestampInterval {
        let wall = now.advanced(byNanoseconds: members[node]!.clockError)
        return TimestampInterval(
            earliest: wall.advanced(byNanoseconds: -Self.uncertainty),
            latest: wall.advanced(byNanoseconds: Self.uncertainty))
    }

    mutating func mend() {
        isMended = true
        for node in members.keys { members[node]!.wantsToCommit = false }
        while !down.isEmpty { startOne() }
    }

    var waiting: [String] {
        members.keys.sorted().flatMap { node in
            (members[node]!.reads + members[node]!.held.map(\.read)).map { "\(node): \($0)" }
        }
    }

    var isQuiet: Bool { isMended && waiting.isEmpty && commits.allSatisfy { $0.inFlight.isEmpty } }

    // MARK: Steps

    mutating func step() {
        now = now.advanced(byNanoseconds: Int64(chance.below(2 << Timestamp.nodeBits)))
        let nodes = members.keys.sorted()
        let node = nodes[chance.below(nodes.count)]
        switch chance.below(24) {
        case 0...9: deliver()
        case 10 where !isMended: members[node]!.wantsToCommit = true
        case 11...12 where !isMended: read(node)
        case 13...15: apply()
        case 16...17: perform(members[node]!.closed.ticked(members[node]!.tracker), node)
        case 18: act(node) { $0.fallSilent(at: $2, &$1) }
        case 19: act(node) { $0.broadcast(closing: $2.latest, &$1) }
        case 20: hearNews(node)
        case 21: fence(node)
        case 22 where !isMended && chance.below(6) == 0: crash(node)
        case 23: startOne()
        default: break
        }
        for node in members.keys.sorted() { proceed(node) }
    }

    private mutating func act(
        _ node: Incarnation,
        _ body: (inout ClosedTimestamps, inout SafeTimeTracker, TimestampInterval) -> [ClosedTimestamps.Action]
    ) {
        let now = clock(node)
        perform(body(&members[node]!.closed, &members[node]!.tracker, now), node)
    }

    private mutating func deliver() {
        guard !mail.isEmpty else { return }
        let index = chance.below(mail.count)
        let letter = mail[index]
        switch isMended ? 0 : chance.below(5) {
        case 0...2: mail.remove(at: index)
        case 3: break
        default:
            mail.remove(at: index)
            return
        }
        guard members[letter.to] != nil else { return }
        act(letter.to) { closed, tracker, _ in closed.received(letter.message, from: letter.from, &tracker) }
    }

    private mutating func perform(_ actions: [ClosedTimestamps.Action], _ node: Incarnation) {
        for action in actions {
            switch action {
            case .send(let message, let peer): mail.append((message, node, peer))
            case .activated: break
            case .roundEnded(let round, let upTo): members[node]!.endedRounds.append((round, upTo))
            case .release(let waiters):
                let held = members[node]!.held
                members[node]!.held.removeAll { waiters.contains($0.waiter) }
                for (waiter, read) in held where waiters.contains(waiter) { take(read) }
            }
        }
    }

    // MARK: Commits

    /// What can go on at `node` after anything has happened.
    private mutating func proceed(_ node: Incarnation) {
        if members[node]!.wantsToCommit {
            act(node) { closed, _, _ in closed.activate() }
            if members[node]!.closed.isActive { commit(node) }
        }
        let ended = members[node]!.endedRounds
        members[node]!.endedRounds = []
        for (round, upTo) in ended {
            let reads = members[node]!.reads
            members[node]!.reads.removeAll { $0.round <= round }
            for read in reads where read.round <= round {
                snapshot(read, at: min(upTo, members[node]!.tracker.strongReadTimestamp), node)
            }
        }
    }

    private mutating func commit(_ node: Incarnation) {
        members[node]!.wantsToCommit = false
        let written = chance.below(2) == 0 ? Self.shards : [Self.shards[chance.below(2)]]
        let timestamp = members[node]!.tracker.choose(at: clock(node), writing: written)
        for shard in written where timestamp <= newestRead[shard] ?? .zero {
            violations.append("\(timestamp) is chosen, \(newestRead[shard]!) was read on \(shard)")
        }
        commits.append(Commit(timestamp: timestamp, node: node, shards: written, inFlight: Set(written)))
    }

    /// Applies one commit that has passed, on one shard; its client was told with the first.
    private mutating func apply() {
        let open = commits.indices.filter { !commits[$0].inFlight.isEmpty && members[commits[$0].node] != nil }
        guard !open.isEmpty else { return }
        let index = open[chance.below(open.count)]
        let (timestamp, node) = (commits[index].timestamp, commits[index].node)
        guard clock(node).isAfter(timestamp) else { return }
        members[node]!.tracker.acknowledged(timestamp)
        known = max(known, timestamp)
        let shard = commits[index].inFlight.sorted()[0]
        commits[index].inFlight.remove(shard)
        let released = members[node]!.tracker.retire(timestamp, on: shard)
        perform([.release(released)] + members[node]!.closed.retired(timestamp, on: shard), node)
    }

    // MARK: Reads

    private mutating func read(_ node: Incarnation) {
        let upTo = clock(node).latest
        let shard = Self.shards[chance.below(2)]
        guard chance.below(3) > 0 else { return readAt(upTo, shard, node) }
        var round: UInt64 = 0
        act(node) { closed, _, _ in
            let (requested, actions) = closed.requestRound(upTo: upTo)
            round = requested
            return actions
        }
        members[node]!.reads.append(Read(round: round, shard: shard, floor: known))
    }

    /// A read of the past that asks nobody.
    private mutating func readAt(_ latest: Timestamp, _ shard: ShardID, _ node: Incarnation) {
        let past = latest.advanced(byNanoseconds: -4 * Self.uncertainty - Int64(chance.below(20 << Timestamp.nodeBits)))
        guard members[node]!.closed.isClosed(upTo: past) else { return }
        snapshot(Read(round: 0, shard: shard, floor: .zero), at: past, node)
    }

    private mutating func snapshot(_ read: Read, at timestamp: Timestamp, _ node: Incarnation) {
        var read = read
        read.timestamp = timestamp
        if timestamp < read.floor { violations.append("\(node) reads at \(timestamp), \(read.floor) was known") }
        if !members[node]!.closed.isClosed(upTo: timestamp) {
            violations.append("\(node): \(timestamp) is not closed after its round")
        }
        let isCurrent = members[node]!.tracker.isCurrent(at: timestamp, on: read.shard)
        if isCurrent, commits.contains(where: { isVisible($0, on: read.shard, after: timestamp) }) {
            violations.append("\(node): what \(read.shard) holds is not its state at \(timestamp)")
        }
        switch members[node]!.tracker.readRequested(at: timestamp, on: read.shard) {
        case .proceed: take(read)
        case .wait(let waiter): members[node]!.held.append((waiter, read))
        }
    }

    private func isVisible(_ commit: Commit, on shard: ShardID, after timestamp: Timestamp) -> Bool {
        commit.shards.contains(shard) && !commit.inFlight.contains(shard) && commit.timestamp > timestamp
    }

    /// The snapshot is taken: all that can be there at its timestamp is.
    private mutating func take(_ read: Read) {
        readCount += 1
        let timestamp = read.timestamp
        for commit in commits where commit.timestamp <= timestamp && commit.inFlight.contains(read.shard) {
            violations.append("a read of \(read.shard) at \(timestamp) misses \(commit.timestamp)")
        }
        newestRead[read.shard] = max(newestRead[read.shard] ?? .zero, timestamp)
        let seen = commits.filter { $0.timestamp <= timestamp && $0.shards.contains(read.shard) }.map(\.timestamp).max()
        known = max(known, seen ?? .zero)
    }

    // MARK: Lives

    private mutating func hearNews(_ node: Incarnation) {
        guard !members[node]!.news.isEmpty else { return }
        let peer = members[node]!.news.removeFirst()
        members[node]!.closed.appeared(peer, &members[node]!.tracker)
    }

    /// It ends where it stands: what it has in flight stays so until somebody fences it.
    private mutating func crash(_ node: Incarnation) {
        guard members.count > 1 else { return }
        members[node] = nil
        down.append(node.node.rawValue)
        for peer in members.keys { members[peer]!.gone.append(node) }
    }

    private mutating func settle(_ index: Int) {
        // Its commit-wait is over by then.
        now = max(now, commits[index].timestamp)
        commits[index].inFlight = []
    }

    private mutating func fence(_ node: Incarnation) {
        guard !members[node]!.gone.isEmpty else { return }
        let peer = members[node]!.gone.removeFirst()
        for index in commits.indices where commits[index].node == peer { settle(index) }
        let timestamp = clock(node).latest
        now = timestamp.advanced(byNanoseconds: 2 * Self.uncertainty)
        act(node) { closed, tracker, _ in closed.fenced(peer, readingFrom: timestamp, &tracker) }
    }
}
