import Dispatch
import EventLoops
import Logging
import NIOCore
import TransactionCore

/// Keeps up the connection to one other node, from when it is made to ``end()``. On the loop only.
final class PeerLink: @unchecked Sendable {
    /// Where it stands; each case says what may follow.
    private enum State {
        /// Next: `connecting`, `ended`.
        case waiting(ScheduledTimer?)
        /// Next: `greeting`, `waiting`, `ended`.
        case connecting
        /// Next: `open`, `waiting`, `ended`.
        case greeting(PeerConnection)
        /// Next: `waiting`, `ended`.
        case open(PeerConnection)
        case ended
    }

    let peer: NodeID
    let address: PeerAddress
    private let transport: PeerTransport
    private var state = State.waiting(nil)
    /// How many attempts in a row have failed.
    private var failedAttempts = 0
    /// Why the last attempt failed, or the connection ended; nil while there is none of that, or a connection.
    private(set) var failure: String?

    init(to peer: NodeID, at address: PeerAddress, of transport: PeerTransport) {
        self.peer = peer
        self.address = address
        self.transport = transport
    }

    /// The connection, when both sides agree to talk.
    var connection: PeerConnection? {
        if case .open(let connection) = state { connection } else { nil }
    }

    func start() { resolve() }

    func end() {
        let previous = state
        state = .ended
        switch previous {
        case .waiting(let timer): timer?.cancel()
        case .greeting(let connection), .open(let connection): connection.close("the node is no peer any more")
        case .connecting, .ended: break
        }
    }

    // MARK: Attempts

    private func resolve() {
        state = .connecting
        if let numeric = try? SocketAddress(ipAddress: address.host, port: address.port) {
            return connect(to: numeric)
        }
        // Looking up a name may take seconds.
        let (loop, address) = (transport.loop, address)
        DispatchQueue.global().async { [self] in
            let result = Result { try SocketAddress.makeAddressResolvingHost(address.host, port: address.port) }
            loop.execute { [self] in
                switch result {
                case .success(let resolved): connect(to: resolved)
                case .failure(let error): failed("\(error)")
                }
            }
        }
    }

    private func connect(to resolved: SocketAddress) {
        guard case .connecting = state else { return }
        transport.connector.connect(to: resolved, within: transport.configuration.connectTimeout) { [self] channel in
            try connected(channel)
        } failed: { [self] error in
            failed("\(error)")
        }
    }

    private struct NoPeerAnyMore: Error {}

    private func connected(_ channel: any Channel) throws {
        guard case .connecting = state else { throw NoPeerAnyMore() }
        let connection = PeerConnection(.client(of: peer), channel, loop: transport.loop, owner: transport)
        if let tls = transport.tls {
            try channel.pipeline.syncOperations.addHandler(tls.makeClientHandler())
        }
        try channel.pipeline.syncOperations.addHandler(connection)
        transport.enter(connection, link: self)
        state = .greeting(connection)
    }

    /// Both sides agree to talk.
    func opened(_ connection: PeerConnection) {
        state = .open(connection)
        failedAttempts = 0
        failure = nil
    }

    /// The connection, or an attempt, has ended: another one follows.
    func failed(_ reason: String) {
        switch state {
        case .ended: return
        case .waiting, .connecting, .greeting, .open: break
        }
        let backOff = transport.configuration.backOff
        let longest = min(backOff.upperBound, backOff.lowerBound * (1 << min(failedAttempts, 20)))
        failedAttempts += 1
        state = .waiting(
            transport.loop.schedule(at: .now + longest * Double.random(in: 0.5...1)) { [self] in
                if case .waiting = state { resolve() }
            })
        // Every attempt of an hour would say the same.
        guard reason != failure else { return }
        failure = reason
        transport.logger.warning(
            "no connection to a node", metadata: ["peer": "\(peer)", "address": "\(address)", "reason": "\(reason)"])
    }
}
