import TransactionCore

/// Where a node listens for the others.
public struct PeerAddress: Hashable, Sendable, CustomStringConvertible {
    /// A name or a numeric address.
    public var host: String
    public var port: Int

    public init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    public var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

extension NodeID {
    /// Who speaks to nodes and is none: it makes connections, and nobody makes one to it. Nodes' numbers begin at 1.
    public static let client = NodeID(rawValue: 0)!
}

/// What a node's ``PeerTransport`` is like.
public struct PeerConfiguration: Sendable {
    /// What tells the cluster from every other one: at most 255 bytes.
    public var cluster: String
    public var node: NodeID
    /// The versions of what is said that this node understands. Two nodes use the newest that both do.
    public var versions: ClosedRange<UInt16> = 1...1
    /// Nil: nothing is encrypted, and every process that can reach the port may pass for a node.
    public var tls: PeerTLS?

    /// A frame above this is neither sent nor taken: a snapshot of the metadata has to fit.
    public var frameBytesMax = 64 << 20
    /// How much waits at most for a connection that takes no more at the moment; one frame always may.
    public var queueBytesMax = 16 << 20
    /// The same in frames.
    public var queueFramesMax = 8_192
    /// After that time without an answer an attempt to connect is given up.
    public var connectTimeout = Duration.seconds(1)
    /// How often each connection shows that it is alive.
    public var pingInterval = Duration.milliseconds(400)
    /// A connection is given up when nothing has come for so many intervals. They are counted, not timed: a node that
    /// was stopped itself does not take the others for dead when it goes on.
    public var silentIntervalsMax = 4
    /// How long it takes to the next attempt to connect: the first of these, twice as long each time, up to the second,
    /// and at random down to half of that.
    public var backOff = Duration.milliseconds(50)...Duration.seconds(1)

    public init(cluster: String, node: NodeID, tls: PeerTLS? = nil) {
        precondition(cluster.utf8.count <= 255, "the cluster's identity is too long: \(cluster)")
        self.cluster = cluster
        self.node = node
        self.tls = tls
    }
}

/// Why a transport did not start.
public struct PeerTransportError: ReportedError, Hashable {
    /// What happened: lower case, no full stop.
    public var message: String
    /// The facts.
    public var detail: String?
    /// The next step.
    public var hint: String?
}

/// Why a request has no answer. Whether the peer has got it and acted on it is not known, except where it was not sent.
public enum PeerRequestError: Error, Hashable, Sendable {
    /// There is no connection: it was not sent.
    case notConnected
    /// Too much waits for the peer already, or the request is above the bound of frames: it was not sent.
    case notSent
    /// The connection ended before the answer came.
    case connectionLost
    /// The answer did not come in time.
    case timedOut
}
