import Consensus
import TransactionCore

/// Who takes part in the metadata.
extension MetadataNode {
    public var status: MetadataStatus {
        let members = replica.membership.members.nodes
        return MetadataStatus(
            node: node, membership: replica.membership, leader: replica.leader,
            connected: NodeSet(members.filter { $0 == node || transport.isConnected(to: $0) }),
            chosenUpTo: replica.chosenUpTo, promised: replica.durable.promised,
            holdsLease: isClockTrusted && replica.holdsLease(at: now()))
    }

    /// Returns when this node has seen the change chosen.
    public func change(_ change: Membership.Change, deadline: ContinuousClock.Instant) async throws(MetadataError) {
        while true {
            try await catchUp(deadline: deadline)
            guard let wanted = replica.membership.applying(change) else {
                guard isDone(change) else {
                    throw MetadataError(
                        .refused, "the members can't be changed like that", detail: "\(replica.membership)")
                }
                return
            }
            let answer = await askForChange(change)
            if case .refused = answer {
                // It may have been chosen just now.
                try await catchUp(deadline: deadline)
                if isDone(change) { return }
                throw MetadataError(.refused, "the leader refuses to make the members \(wanted)")
            }
            guard .now < deadline else {
                throw MetadataError(
                    .noLeader, "the members were not changed in time",
                    detail: answer == .notCaughtUp ? "the node lacks too many entries yet" : "\(replica.membership)")
            }
            try? await loop.sleep(for: .milliseconds(20))
        }
    }

    private func isDone(_ change: Membership.Change) -> Bool {
        switch change {
        case .addLearner(let node): replica.membership.contains(node)
        case .promote(let node): replica.membership.voters.contains(node)
        case .remove(let node): !replica.membership.contains(node)
        }
    }

    private func askForChange(_ change: Membership.Change) async -> MembershipAnswer {
        let answer = changeMembershipHere(change)
        guard answer == .notLeader, let leader = replica.leader, leader != node else { return answer }
        return await withUnsafeContinuation { continuation in
            transport.request(
                change.encoded, kind: PeerKind.changeMembership.rawValue, of: leader, within: .seconds(1)
            ) { answer in
                let number = (try? answer.get())?.first
                continuation.resume(returning: number.flatMap(MembershipAnswer.init) ?? .notLeader)
            }
        }
    }

    func changeMembershipHere(_ change: Membership.Change) -> MembershipAnswer {
        defer { schedulePump() }
        return switch replica.changeMembership(change) {
        case .proposed: .proposed
        case .notLeader: .notLeader
        case .busy: .busy
        case .impossible: .refused
        case .notCaughtUp: .notCaughtUp
        }
    }

    /// Lets another node lead, if this one does: `successor`, or who is best at it.
    public func handOver(to successor: NodeID? = nil) {
        replica.handOver(to: successor, at: now())
        schedulePump()
    }

    public func lead(_ successor: NodeID, deadline: ContinuousClock.Instant) async throws(MetadataError) {
        try await catchUp(deadline: deadline)
        guard replica.membership.voters.contains(successor) else {
            throw MetadataError(
                .refused, "node \(successor) can't lead", detail: "the voters are \(replica.membership.voters)")
        }
        while replica.leader != successor {
            try checkRunning()
            guard .now < deadline else {
                throw MetadataError(
                    .noLeader, "node \(successor) did not come to lead in time", hint: "is it running, and caught up?")
            }
            if replica.leader == node {
                handOver(to: successor)
            } else if let leader = replica.leader {
                transport.send(successor.encoded, kind: PeerKind.handOver.rawValue, to: leader)
            }
            // A lease's time is enough for an election; then it may have gone to another.
            let next = min(deadline, .now + .nanoseconds(configuration.timing.leaseNanoseconds))
            while replica.leader != successor, .now < next { try? await loop.sleep(for: .milliseconds(5)) }
        }
    }
}

/// What a leader says to a wish to change the members.
enum MembershipAnswer: UInt8 {
    case proposed = 1
    case notLeader, busy, refused, notCaughtUp
}

extension NodeID {
    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.number(UInt64(rawValue))
        return writer.bytes
    }

    init(encoded bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        self = NodeID(rawValue: UInt16(try reader.number(max: UInt64(NodeID.maximum))))!
        try reader.end()
    }
}

extension Membership.Change {
    var encoded: [UInt8] {
        var writer = ByteWriter()
        let (kind, node): (UInt8, NodeID) =
            switch self {
            case .addLearner(let node): (1, node)
            case .promote(let node): (2, node)
            case .remove(let node): (3, node)
            }
        writer.byte(kind)
        writer.number(UInt64(node.rawValue))
        return writer.bytes
    }

    init(encoded bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        let kind = try reader.byte()
        let node = NodeID(rawValue: UInt16(try reader.number(max: UInt64(NodeID.maximum))))!
        try reader.end()
        switch kind {
        case 1: self = .addLearner(node)
        case 2: self = .promote(node)
        case 3: self = .remove(node)
        default: throw reader.malformed(.unknownKind(kind))
        }
    }
}
