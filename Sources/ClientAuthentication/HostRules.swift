import TransactionCore

/// Who may connect from where, and how they prove who they are: a list in the manner of `pg_hba.conf`.
///
/// The first rule that fits a connection decides, whether or not the client then passes; without one nobody may in.
public struct HostRules: Hashable, Sendable {
    /// How a client proves who it is.
    public enum Method: String, Hashable, Sendable, CaseIterable {
        /// Not at all.
        case trust
        /// It may not in.
        case reject
        /// By MD5, or by SCRAM when the user's verifier is for that.
        case md5
        case scramSHA256 = "scram-sha-256"
    }

    /// Which connections a rule is for.
    public enum Transport: String, Hashable, Sendable, CaseIterable {
        /// TCP, with TLS or without.
        case host
        /// TCP with TLS.
        case hostWithTLS = "hostssl"
        /// TCP without TLS.
        case hostWithoutTLS = "hostnossl"
        /// A socket in the file system.
        case local
    }

    /// Where a connection comes from.
    public enum Origin: Hashable, Sendable {
        /// Through a socket in the file system.
        case local
        case network(HostAddress, isEncrypted: Bool)
    }

    /// Who connects, from where, to which database.
    public struct Connection: Hashable, Sendable {
        public var origin: Origin
        public var user: String
        public var database: String

        public init(from origin: Origin, user: String, database: String) {
            self.origin = origin
            self.user = user
            self.database = database
        }
    }

    /// What a rule is for: everything, or just these.
    enum Names: Hashable, Sendable {
        case all
        case some(Set<String>)

        func contains(_ name: String) -> Bool {
            switch self {
            case .all: true
            case .some(let names): names.contains(name)
            }
        }
    }

    struct Rule: Hashable, Sendable {
        let transport: Transport
        let databases: Names
        let users: Names
        /// Nil for every address, and for ``Transport/local``.
        let network: HostNetwork?
        let method: Method

        func fits(_ connection: Connection) -> Bool {
            databases.contains(connection.database) && users.contains(connection.user) && fits(connection.origin)
        }

        private func fits(_ origin: Origin) -> Bool {
            switch (transport, origin) {
            case (.local, .local): return true
            case (.local, .network), (.host, .local), (.hostWithTLS, .local), (.hostWithoutTLS, .local),
                (.hostWithTLS, .network(_, isEncrypted: false)), (.hostWithoutTLS, .network(_, isEncrypted: true)):
                return false
            case (.host, .network(let address, _)), (.hostWithTLS, .network(let address, _)),
                (.hostWithoutTLS, .network(let address, _)):
                return network?.contains(address) ?? true
            }
        }
    }

    let rules: [Rule]

    /// How this client proves who it is: never ``Method/reject``, which is thrown, like the lack of a rule.
    public func method(for connection: Connection) throws(AuthenticationError) -> Method {
        guard let rule = rules.first(where: { $0.fits(connection) }) else {
            throw refusal(of: connection, "no pg_hba.conf entry for")
        }
        if rule.method == .reject { throw refusal(of: connection, "pg_hba.conf rejects connection for") }
        return rule.method
    }

    /// PostgreSQL's words, `pg_hba.conf` among them: drivers look for them.
    private func refusal(of connection: Connection, _ reason: String) -> AuthenticationError {
        let (host, encryption) =
            switch connection.origin {
            case .local: ("[local]", "no encryption")
            case .network(let address, let isEncrypted):
                (address.description, isEncrypted ? "SSL encryption" : "no encryption")
            }
        let (user, database) = (connection.user, connection.database)
        return AuthenticationError(
            .invalidAuthorizationSpecification,
            "\(reason) host \"\(host)\", user \"\(user)\", database \"\(database)\", \(encryption)")
    }
}

extension HostRules.Method {
    /// What goes over the wire.
    public enum Exchange: Hashable, Sendable {
        case none
        case md5
        case scram
    }

    /// The exchange for a user with this verifier, nil for one who has none or does not exist.
    ///
    /// As in PostgreSQL, `md5` does with a SCRAM verifier what `scram-sha-256` does. It does so without a verifier too,
    /// which tells who has an `md5` verifier, but not who exists among the others.
    public func exchange(with verifier: PasswordVerifier?) -> Exchange {
        switch (self, verifier) {
        case (.trust, _), (.reject, _): .none
        case (.md5, .md5): .md5
        case (.md5, .scram), (.md5, nil), (.scramSHA256, _): .scram
        }
    }
}
