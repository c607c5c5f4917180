import Consensus
import Metadata
import PeerTransport
import TransactionCore

/// What comes from other nodes.
extension MetadataNode {
    func received(kind: UInt8, _ payload: [UInt8], from sender: NodeID) {
        guard isRunning else { return }
        // Who is no node has no part in it.
        guard sender != .client else { return }
        switch PeerKind(rawValue: kind) {
        case .consensus:
            do {
                replica.received(try Message(encoded: payload), from: sender, at: now())
            } catch {
                logger.error("a message can't be read", metadata: ["peer": "\(sender)", "error": "\(error)"])
            }
        case .propose:
            // What no node can read must not get into the log, where it would stop all of them.
            guard (try? ProposedCommand(encoded: payload)) != nil else {
                return logger.error("a command can't be read", metadata: ["peer": "\(sender)"])
            }
            _ = replica.propose(payload)
        case .handOver: if let successor = try? NodeID(encoded: payload) { handOver(to: successor) }
        case .coordinator: return letterReceived(payload, from: sender)
        case .readIndex, .changeMembership, .client, nil:
            logger.error("a message of an unknown kind", metadata: ["peer": "\(sender)", "kind": "\(kind)"])
        }
        schedulePump()
    }

    func requested(kind: UInt8, _ payload: [UInt8], _ answer: PeerAnswer) {
        guard isRunning else { return answer([]) }
        switch PeerKind(rawValue: kind) {
        case .readIndex:
            readIndex { slot in
                var writer = ByteWriter()
                if let slot { writer.number(UInt64(slot.rawValue)) }
                answer(writer.bytes)
            }
        case .changeMembership:
            let change = try? Membership.Change(encoded: payload)
            answer([(change.map(changeMembershipHere) ?? .refused).rawValue])
        case .client: clientRequested(payload, answer)
        case .consensus, .propose, .handOver, .coordinator, nil: answer([])
        }
        schedulePump()
    }

    func connectionChanged(_ peer: NodeID, _ isConnected: Bool) {
        if isConnected { resendCommands(to: peer) }
    }

    /// Keeps connections to all nodes that are known: from the configuration, and from the metadata, which counts.
    func connectToPeers() {
        var addresses = configuration.addresses
        for record in state.records(NodeRecord.self) {
            addresses[record.node] = record.state == .left ? nil : PeerAddress(record.peerAddress)
        }
        for reserved in [node, .client] { addresses[reserved] = nil }
        for peer in addresses.keys.sorted() { transport.setPeer(peer, at: addresses[peer]!) }
        for peer in connectedPeers.subtracting(addresses.keys).sorted() { transport.removePeer(peer) }
        connectedPeers = Set(addresses.keys)
    }
}

extension PeerAddress {
    /// Reads `host:port`, or `[host]:port` where the host has colons; nil where it is something else.
    public init?(_ text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = text[..<colon]
        if host.first == "[", host.last == "]" { host = host.dropFirst().dropLast() }
        guard !host.isEmpty else { return nil }
        self.init(host: String(host), port: Int(port))
    }
}
