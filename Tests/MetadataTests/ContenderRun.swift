import SimulationKit
import TransactionCore

@testable import Metadata

/// Clients that want one lock, each with a session, over one state: what they send and are told comes late, and
/// commands come twice. Sessions die by chance, with or without their clients knowing.
struct ContenderRun {
    private struct Client {
        var session: MetadataSession
        var contender: Contender
        /// Nothing reaches it any more.
        var isDead = false
        /// Messages to it, in sequence.
        var inbox: [Input] = []
        /// Commands from it; any may come next, and again.
        var outbox: [MetadataCommand] = []
        var reads: [MetadataQuery] = []
        var watches: [MetadataKey: Watches.WatchID] = [:]
    }

    private enum Input {
        case answered(UInt64, MetadataAnswer)
        case found(QueryAnswer)
        case changed(MetadataChange)
    }

    private let lock = Contender.lock("l")!
    private var source: CommandSource
    private var state = MetadataState()
    private var watches: Watches
    private var clients: [Client] = []
    private var isDraining = false
    private(set) var deaths = 0
    private(set) var tokens: [Revision] = []
    private(set) var findings: [String] = []

    init(seed: UInt64) {
        source = CommandSource(seed: seed)
        watches = Watches(of: state)
    }

    mutating func step() {
        if clients.count(where: { !$0.isDead && $0.contender.state != .ended }) < 8, source.number(0...3) == 0 {
            enter()
        }
        let active = clients.indices.filter { index in
            !clients[index].outbox.isEmpty || !clients[index].isDead && clients[index].contender.state != .ended
        }
        if active.isEmpty { return }
        let index = source.pick(active)
        switch source.number(0...99) {
        case 0..<40: deliverCommand(of: index)
        case 40..<60: answerRead(of: index)
        case 60..<80: deliver(to: index)
        case 80..<98: if isHolding(index) || source.number(0...29) == 0 { act(index) { $0.release() } }
        default: if source.number(0...4) == 0 { die(index) }
        }
    }

    /// Everything under way arrives, and who holds gives the lock back, until nothing moves.
    mutating func drain() {
        isDraining = true
        var isMoving = true
        while isMoving {
            isMoving = false
            for index in clients.indices.reversed() {
                let client = clients[index]
                if client.isDead { continue }
                isMoving = isMoving || !client.inbox.isEmpty || !client.outbox.isEmpty || !client.reads.isEmpty
                if !client.outbox.isEmpty { deliverCommand(of: index) }
                answerRead(of: index)
                deliver(to: index)
                if isHolding(index) {
                    act(index) { $0.release() }
                    isMoving = true
                }
            }
        }
        let left = clients.filter { !$0.isDead && $0.contender.state != .ended }
        if !left.isEmpty { findings.append("\(left.count) wait for ever: \(left.map(\.contender.state))") }
    }

    private mutating func enter() {
        guard case .session(let id, let expiry) = apply(.openSession(node: NodeID(rawValue: 1)!, expiry: .zero)) else {
            return
        }
        let session = MetadataSession(id, expiry: expiry, durationNanoseconds: 1)
        let (contender, actions) = Contender.enter(lock, value: [])
        clients.append(Client(session: session, contender: contender))
        carryOut(actions, of: clients.count - 1)
    }

    /// The session ends. Its client, if it lives, has known before: it could not call it alive any more.
    private mutating func die(_ index: Int) {
        guard !clients[index].isDead, clients[index].contender.state != .ended else { return }
        deaths += 1
        if source.number(0...1) == 0 { act(index) { $0.sessionEnded() } }
        clients[index].isDead = true
        for id in clients[index].watches.values { watches.cancel(id) }
        _ = apply(.expireSession(clients[index].session.id, expiry: .zero))
    }

    private mutating func deliverCommand(of index: Int) {
        guard !clients[index].outbox.isEmpty else { return }
        let position = source.number(0...(clients[index].outbox.count - 1))
        let command = clients[index].outbox[position]
        guard case .transaction(let number, _) = command else { return }
        // Now and then it stays, as if the answer had been lost.
        let isLast = isDraining || source.number(0...3) > 0
        if isLast { clients[index].outbox.remove(at: position) }
        let answer = apply(command)
        if isLast { clients[index].inbox.append(.answered(number.number, answer)) }
    }

    private mutating func answerRead(of index: Int) {
        guard let query = clients[index].reads.popLast() else { return }
        clients[index].inbox.append(.found(state.read(query)))
    }

    private mutating func deliver(to index: Int) {
        guard !clients[index].isDead, !clients[index].inbox.isEmpty else { return }
        switch clients[index].inbox.removeFirst() {
        case .answered(let number, let answer):
            clients[index].session.answered(number)
            act(index) { $0.answered(answer) }
        case .found(let answer): act(index) { $0.found(answer) }
        case .changed(let change): act(index) { $0.changed(change) }
        }
    }

    private mutating func act(_ index: Int, _ input: (inout Contender) -> [Contender.Action]) {
        guard !clients[index].isDead else { return }
        carryOut(input(&clients[index].contender), of: index)
    }

    private mutating func carryOut(_ actions: [Contender.Action], of index: Int) {
        for action in actions {
            switch action {
            case .submit(let transaction):
                if let command = clients[index].session.submit(transaction) { clients[index].outbox.append(command) }
            case .read(let query): clients[index].reads.append(query)
            case .watch(let key, let revision):
                let (id, isReady) = watches.watch(.key(key), after: revision)
                clients[index].watches[key] = id
                if isReady { tell(index, id) }
            case .unwatch(let key):
                if let id = clients[index].watches.removeValue(forKey: key) { watches.cancel(id) }
            case .held(let token):
                tokens.append(token)
                let holders = clients.indices.filter { isHolding($0) && !clients[$0].isDead }
                if holders != [index] { findings.append("\(holders) hold") }
            case .ended: break
            }
        }
    }

    private func isHolding(_ index: Int) -> Bool {
        if case .holding = clients[index].contender.state { true } else { false }
    }

    private mutating func apply(_ command: MetadataCommand) -> MetadataAnswer {
        let next = Revision(rawValue: state.revision.rawValue + 1)
        let (answer, changes) = state.apply(command, at: next)
        let ready = watches.applied(changes, at: next)
        let left = changes.count { $0.entry == nil }
        if ready.count > left { findings.append("\(left) left and \(ready.count) were woken") }
        for id in ready {
            for index in clients.indices where clients[index].watches.values.contains(id) { tell(index, id) }
        }
        return answer
    }

    private mutating func tell(_ index: Int, _ id: Watches.WatchID) {
        do {
            for change in try watches.take(id, from: state).changes { clients[index].inbox.append(.changed(change)) }
        } catch {
            findings.append("\(error)")
        }
    }
}
