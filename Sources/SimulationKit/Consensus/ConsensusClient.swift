import Consensus
import TransactionCore

/// What a client saw: an append to the list, or a read of it.
struct ListOperation {
    enum Kind {
        case append(UInt64)
        case read([UInt64])
    }

    let client: Int
    let kind: Kind
    let begun: Timestamp
    /// When it was acknowledged; a client that gives up repeats itself until it is.
    let ended: Timestamp
}

/// A client that appends to the replicated list and reads it, one thing after the other, asking any node.
final class ConsensusClient {
    private let number: Int
    private unowned let cluster: ConsensusCluster
    private var random: SeededGenerator
    private let byLease: Bool
    private var count: UInt64 = 0
    private var attempt = 0
    private(set) var operations: [ListOperation] = []
    var isClosing = false
    private(set) var isIdle = false

    init(number: Int, byLease: Bool, cluster: ConsensusCluster) {
        self.number = number
        self.byLease = byLease
        self.cluster = cluster
        self.random = cluster.scheduler.random.split()
    }

    private var scheduler: Scheduler { cluster.scheduler }

    func proceed() {
        guard !isClosing else { return isIdle = true }
        scheduler.after(random.delay(in: 0...20 * millisecond)) { [self] in
            let begun = scheduler.now
            if random.chance(0.5) {
                count += 1
                append(UInt64(number) << 32 | count, begun: begun)
            } else {
                read(begun: begun)
            }
        }
    }

    private func append(_ command: UInt64, begun: Timestamp) {
        attempting({ node, answer in node.propose(command, answer: answer) }) { [self] isChosen in
            guard isChosen == true else { return append(command, begun: begun) }
            end(.append(command), begun: begun)
        }
    }

    private func read(begun: Timestamp) {
        attempting({ [self] node, answer in node.read(byLease: byLease) { answer($0) } }) { [self] list in
            // A read may be given up: it has told nobody anything.
            guard let list, let list else { return isClosing ? proceed() : read(begun: begun) }
            end(.read(list), begun: begun)
        }
    }

    private func end(_ kind: ListOperation.Kind, begun: Timestamp) {
        operations.append(ListOperation(client: number, kind: kind, begun: begun, ended: scheduler.now))
        proceed()
    }

    /// Asks some node, and is answered after a while, or nil comes when too much time has passed.
    private func attempting<Answer>(
        _ ask: @escaping (SimulatedReplica, @escaping (Answer) -> Void) -> Void, then: @escaping (Answer?) -> Void
    ) {
        attempt += 1
        let attempt = attempt
        let finish = { [weak self] (answer: Answer?) in
            guard let self, attempt == self.attempt else { return }
            self.attempt += 1
            scheduler.after(answer == nil ? 0 : random.delay(in: 0...2 * millisecond)) { then(answer) }
        }
        let node = random.chance(0.2) ? nil : cluster.leader
        let target = node ?? random.element(of: cluster.nodes)
        scheduler.after(random.delay(in: 0...2 * millisecond)) { [self] in
            ask(target) { [self] answer in scheduler.after(random.delay(in: 0...2 * millisecond)) { finish(answer) } }
        }
        scheduler.after(100 * millisecond) { finish(nil) }
    }
}
