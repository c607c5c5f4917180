import Consensus
import Metadata
import PeerTransport
import TransactionCore

/// What processes ask that hold no state of their own, and other nodes.
extension MetadataNode {
    /// So many may wait for their answers at once; who asks for more is told so.
    private static let clientRequestsMax = 4_096

    func clientRequested(_ payload: [UInt8], _ answer: PeerAnswer) {
        guard clientRequestCount < Self.clientRequestsMax else {
            let error = MetadataError(.refused, "too many requests wait for this node's answers")
            return answer(ClientAnswer.failed(error).encoded)
        }
        guard !isRemoved else {
            return answer(ClientAnswer.failed(MetadataError(.stopped, "node \(node) is no member any more")).encoded)
        }
        let (request, within): (ClientRequest, Duration)
        do {
            (request, within) = try ClientRequest.decode(payload)
        } catch {
            let error = MetadataError(
                .refused, "the request can't be read", detail: "\(error)",
                hint: "is that program newer than this node's, or the value too large?")
            return answer(ClientAnswer.failed(error).encoded)
        }
        clientRequestCount += 1
        // Without the preference it would go on, after each wait, by way of the global pool's threads.
        Task(executorPreference: loop) { await self.serve(request, within: within, answer) }
    }

    private func serve(_ request: ClientRequest, within duration: Duration, _ answer: PeerAnswer) async {
        answer(await self.answer(to: request, within: duration).encoded)
        clientRequestCount -= 1
    }

    private func answer(to request: ClientRequest, within duration: Duration) async -> ClientAnswer {
        let deadline = ContinuousClock.now + duration
        do {
            switch request {
            case .metadata(.read(let query)):
                return .metadata(.found(try await read(query, deadline: deadline)))
            case .metadata(.submit(let command)):
                return .metadata(.answer(try await submit(command, deadline: deadline)))
            case .metadata(.changes(let selection, let revision)):
                return .metadata(.changes(try await changes(of: selection, after: revision, within: duration)))
            case .status: return .status(status)
            case .change(let change): try await self.change(change, deadline: deadline)
            case .lead(let node): try await lead(node, deadline: deadline)
            }
            return .done
        } catch let error as CompactedError {
            return .metadata(.compacted(error))
        } catch let error as MetadataError {
            return .failed(error)
        } catch {
            return .failed(MetadataError(.stopped, "this node ends", detail: "\(error)"))
        }
    }

    // MARK: Whether it still takes part

    /// A node that was removed does not hear of it where the others stopped to speak to it before: while nobody leads,
    /// as far as it knows, it asks them.
    func lookForRemoval() {
        guard wasMember, !isRemoved, replica.leader == nil, removalAskDue <= .now else { return }
        removalAskDue = .now + .seconds(1)
        for peer in transport.connectedPeers {
            askForStatus(of: peer, within: .seconds(1)) { [weak self] status in
                self?.assumeIsolated { node in
                    guard let status, status.chosenUpTo > node.replica.chosenUpTo else { return }
                    node.membershipChosen(status.membership)
                }
            }
        }
    }

    /// The members are these from now on, or were at some time that this node has yet to come to.
    func membershipChosen(_ membership: Membership) {
        logger.notice("the members have changed", metadata: ["members": "\(membership)"])
        if membership.contains(node) {
            wasMember = true
        } else if wasMember, !isRemoved {
            isRemoved = true
            logger.notice("this node is no member any more")
        }
    }
}
