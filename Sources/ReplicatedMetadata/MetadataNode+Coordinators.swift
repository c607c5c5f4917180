import Consensus
public import TransactionCore

/// What the nodes' coordinators say to each other, over the connections that the metadata has.
extension MetadataNode {
    /// Sends bytes from this node's coordinator to another's, after those sent before. They may be lost. From any
    /// thread; from another than the loop's it costs a hop.
    public nonisolated func send(_ message: [UInt8], from own: Incarnation, to recipient: Incarnation) {
        let letter = CoordinatorLetter(sender: own.epoch, recipient: recipient.epoch, message: message)
        let send = { @Sendable [weak self] in
            guard let self else { return }
            assumeIsolated { node in
                guard node.isRunning else { return }
                node.transport.send(letter.encoded, kind: PeerKind.coordinator.rawValue, to: recipient.node)
            }
        }
        if loop.isCurrent { send() } else { loop.execute(send) }
    }

    /// Hands what other nodes' coordinators send to `own` to `body`, on the loop; what comes for another life of this
    /// node is dropped.
    public func listen(
        as own: Incarnation, _ body: @escaping @Sendable (_ message: [UInt8], _ sender: Incarnation) -> Void
    ) {
        coordinator = (own.epoch, body)
    }

    /// What comes from now on is dropped.
    public func stopListening() {
        coordinator = nil
    }

    func letterReceived(_ payload: [UInt8], from sender: NodeID) {
        guard let letter = CoordinatorLetter(encoded: payload) else {
            return logger.error("a coordinator's message can't be read", metadata: ["peer": "\(sender)"])
        }
        guard let coordinator, coordinator.epoch == letter.recipient else { return }
        coordinator.received(letter.message, Incarnation(sender, letter.sender))
    }

    // MARK: Who reaches whom

    /// Whether messages to that node arrive, and those from there do, as it says itself.
    public func isConnectedBothWays(to peer: NodeID, within duration: Duration) async -> Bool {
        await withUnsafeContinuation { continuation in
            askForStatus(of: peer, within: duration) { [node] status in
                continuation.resume(returning: status?.connected.contains(node) ?? false)
            }
        }
    }

    /// What that node says of itself; nil where it does not answer. On the loop.
    func askForStatus(
        of peer: NodeID, within duration: Duration, then body: @escaping @Sendable (MetadataStatus?) -> Void
    ) {
        let request = ClientRequest.status.encoded(within: duration)
        transport.request(request, kind: PeerKind.client.rawValue, of: peer, within: duration) { answer in
            guard case .status(let status)? = (try? answer.get()).flatMap({ try? ClientAnswer(encoded: $0) })
            else { return body(nil) }
            body(status)
        }
    }
}

/// What one coordinator says to another, as it goes over the connection: both epochs, then the bytes.
///
/// The nodes are those of the connection. A message to a life that is over must not reach the next one, which knows
/// nothing of what it is about.
struct CoordinatorLetter: Hashable {
    var sender: Epoch
    var recipient: Epoch
    var message: [UInt8]

    private static let headBytes = 16

    init(sender: Epoch, recipient: Epoch, message: [UInt8]) {
        (self.sender, self.recipient, self.message) = (sender, recipient, message)
    }

    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.fixed(sender.rawValue)
        writer.fixed(recipient.rawValue)
        return writer.bytes + message
    }

    /// Returns nil for bytes that are none.
    init?(encoded bytes: [UInt8]) {
        var reader = ByteReader(bytes)
        guard let sender = try? reader.fixed(), let recipient = try? reader.fixed() else { return nil }
        self.init(
            sender: Epoch(rawValue: sender), recipient: Epoch(rawValue: recipient),
            message: Array(bytes.dropFirst(Self.headBytes)))
    }
}
