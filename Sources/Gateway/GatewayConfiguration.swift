import ClientAuthentication
import PostgresWire

/// How clients come in.
public struct GatewayConfiguration: Sendable {
    /// Where the server's certificate is, as PEM.
    public struct TLS: Hashable, Sendable {
        /// The path of the chain, the server's own certificate first.
        public var certificateChain: String
        /// The path of its private key.
        public var privateKey: String

        public init(certificateChain: String, privateKey: String) {
            self.certificateChain = certificateChain
            self.privateKey = privateKey
        }
    }

    /// The address to listen on, or a name of which the first address is taken.
    public var host: String
    /// The port to listen on; 0 for a free one.
    public var port: Int
    /// Nil: clients that ask for TLS are told that there is none.
    public var tls: TLS?
    public var hostRules: HostRules
    /// How many clients may be connected, as PostgreSQL's `max_connections`; the next one gets 53300.
    public var clientsMax = 10_000
    /// From the first byte to the first ReadyForQuery; PostgreSQL's `authentication_timeout`.
    public var authenticationTimeout: Duration = .seconds(60)
    /// What the salts shown for users without a verifier are made of: the same on all nodes, kept, and secret
    /// (``ClientAuthentication/SCRAMServer``).
    public var mockSecret: [UInt8]
    /// The longest message that is taken from a client.
    public var messageLengthMax = FrontendDecoder.largeLengthMax
    /// How many bytes of whole frames a client may be ahead of its session before reading pauses; one read may go
    /// beyond.
    public var unprocessedBytesMax = 1 << 20
    /// With that many bytes waiting for a client, its ``ClientOutput/isBacklogged``.
    public var backlogHighWaterBytes = 256 << 10
    /// With fewer than that many bytes waiting, ``ClientOutput/drained()`` returns.
    public var backlogLowWaterBytes = 64 << 10
    /// How long a connection that is to be closed may take for what is still to be sent.
    public var closeTimeout: Duration = .seconds(10)

    public init(host: String = "127.0.0.1", port: Int, tls: TLS? = nil, hostRules: HostRules, mockSecret: [UInt8]) {
        self.host = host
        self.port = port
        self.tls = tls
        self.hostRules = hostRules
        self.mockSecret = mockSecret
    }
}
