import ClientAuthentication
import Testing
import TransactionCore

private func connection(
    _ address: String?, isEncrypted: Bool = false, user: String = "alice", database: String = "bank"
) throws -> HostRules.Connection {
    guard let address else { return HostRules.Connection(from: .local, user: user, database: database) }
    let host = try #require(HostAddress(address))
    return HostRules.Connection(from: .network(host, isEncrypted: isEncrypted), user: user, database: database)
}

/// The method, or nil when the client may not in.
private func method(_ rules: String, _ connection: HostRules.Connection) throws -> HostRules.Method? {
    let rules = try HostRules(parsing: rules)
    return try? rules.method(for: connection)
}

@Suite struct HostRulesTests {
    @Test("the first rule that fits decides")
    func firstMatch() throws {
        let rules = """
            # databases and users may be lists

            host  bank  mallory     all        reject
            host  bank  alice, bob  10.0.0.0/8 trust   # the office
            host  all   all         10.0.0.0/8 md5
            host  all   all         all        scram-sha-256
            """
        #expect(try method(rules, connection("10.1.2.3")) == .trust)
        #expect(try method(rules, connection("10.1.2.3", user: "bob")) == .trust)
        #expect(try method(rules, connection("10.1.2.3", user: "carol")) == .md5)
        #expect(try method(rules, connection("10.1.2.3", database: "shop")) == .md5)
        #expect(try method(rules, connection("11.1.2.3")) == .scramSHA256)
        #expect(try method(rules, connection("::1")) == .scramSHA256)
        #expect(try method(rules, connection("10.1.2.3", user: "mallory")) == nil)
    }

    @Test("a rule is for connections with TLS, without, either, or a local socket")
    func transports() throws {
        for (transport, fitting) in [
            ("host", [true, true, false]), ("hostssl", [false, true, false]), ("hostnossl", [true, false, false]),
            ("local", [false, false, true]),
        ] {
            let rules = "\(transport) all all \(transport == "local" ? "" : "all") trust"
            let connections = [
                try connection("192.0.2.1"), try connection("192.0.2.1", isEncrypted: true), try connection(nil),
            ]
            #expect(try connections.map { try method(rules, $0) == .trust } == fitting, "\(transport)")
        }
    }

    @Test("nobody may in without a rule, and is told so in PostgreSQL's words")
    func noRule() throws {
        let rules = try HostRules(parsing: "")
        func error(_ connection: HostRules.Connection) -> AuthenticationError? {
            do throws(AuthenticationError) {
                _ = try rules.method(for: connection)
                return nil
            } catch {
                return error
            }
        }
        let start = "no pg_hba.conf entry for host"
        #expect(
            error(try connection("127.0.0.1"))
                == AuthenticationError(
                    .invalidAuthorizationSpecification,
                    "\(start) \"127.0.0.1\", user \"alice\", database \"bank\", no encryption"))
        #expect(
            error(try connection("::1", isEncrypted: true))?.message
                == "\(start) \"::1\", user \"alice\", database \"bank\", SSL encryption")
        #expect(
            error(try connection(nil))?.message
                == "\(start) \"[local]\", user \"alice\", database \"bank\", no encryption")
    }

    @Test("a rule may refuse, and the client is told so in PostgreSQL's words")
    func reject() throws {
        let rules = try HostRules(parsing: "host all all all reject\nhost all all all trust")
        #expect(
            throws: AuthenticationError(
                .invalidAuthorizationSpecification,
                "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"alice\", database \"bank\", "
                    + "no encryption"
            )
        ) { try rules.method(for: connection("127.0.0.1")) }
    }

    @Test("names in quotation marks are names, whatever they say")
    func quoted() throws {
        let rules = "host \"all\",\"my db\",\"#x\",\"a,b\" \"+staff\" all trust"
        for database in ["all", "my db", "#x", "a,b"] {
            #expect(try method(rules, connection("::1", user: "+staff", database: database)) == .trust)
        }
        #expect(try method(rules, connection("::1", user: "+staff")) == nil)
        #expect(try method("host all \"replication\" all trust", connection("::1", user: "replication")) == .trust)
    }

    @Test("names differ by case, and by nothing less than their whole")
    func exactNames() throws {
        #expect(try method("host Bank all all trust", connection("::1")) == nil)
        #expect(try method("host ban all all trust", connection("::1")) == nil)
    }

    @Test(
        "an error says where, what, and what to write instead",
        arguments: [
            ("hosts all all all trust", "unknown transport \"hosts\""),
            ("hostgssenc all all all trust", "unknown transport \"hostgssenc\""),
            ("host,local all all all trust", "there are 2 values for the transport"),
            ("host", "the database is missing"), ("host all", "the user is missing"),
            ("host all all", "the address is missing"), ("host all all all", "the method is missing"),
            ("local all all", "the method is missing"), ("local all all all trust", "unknown method \"all\""),
            ("host all all all peer", "unknown method \"peer\""),
            ("host all all all trust clientcert=verify-full", "\"clientcert=verify-full\" comes after the method"),
            ("host all all 10.0.0.1 trust", "the address \"10.0.0.1\" has no mask"),
            ("host all all 10.0.0.0/33 trust", "invalid address \"10.0.0.0/33\""),
            ("host all all 10.0.0/8 trust", "invalid address \"10.0.0/8\""),
            ("host all all samehost trust", "invalid address \"samehost\""),
            ("host all all example.com trust", "invalid address \"example.com\""),
            ("host sameuser all all trust", "the database \"sameuser\" is not supported"),
            ("host replication all all trust", "the database \"replication\" is not supported"),
            (
                "host all +staff all trust",
                "groups, files and regular expressions such as \"+staff\" are not supported"
            ),
            ("host @dbs all all trust", "groups, files and regular expressions such as \"@dbs\" are not supported"),
            ("host \"all all all trust", "a quotation mark is not closed"),
            ("host ,all all all trust", "there are 2 values for the transport"),
            ("host a,,b all all trust", "a comma has no name before it"),
            ("host all all all trust,", "a comma has no name after it"),
        ])
    func malformed(line: String, message: String) {
        do throws(HostRulesError) {
            _ = try HostRules(parsing: "# first\nlocal all all trust\n" + line + "\nhost")
            Issue.record("\(line) was read")
        } catch {
            #expect(error.line == 3)
            #expect(error.message == message)
            #expect(!error.hint.isEmpty)
        }
    }

    @Test("an error prints its line, and its hint below")
    func description() {
        #expect(
            throws: HostRulesError(
                line: 1, message: "unknown method \"peer\"", hint: "write trust, reject, md5 or scram-sha-256")
        ) { try HostRules(parsing: "local all all peer") }
        #expect("\(HostRulesError(line: 3, message: "a", hint: "b"))" == "line 3: a\nHINT:  b")
    }

    @Test("lines may end as on Windows, and fields be apart by tabs")
    func lineEnds() throws {
        #expect(try method("# a\r\nhost\tall\tall\tall\ttrust\r\n", connection("::1")) == .trust)
    }

    @Test("md5 does SCRAM with a verifier for it, and for who has none")
    func exchanges() {
        let scram = PasswordVerifier.scram(SCRAMVerifier(password: "a", salt: [1], iterations: 1))
        let md5 = PasswordVerifier.md5(MD5Verifier(password: "a", user: "b"))
        #expect([scram, md5, nil].map(HostRules.Method.md5.exchange) == [.scram, .md5, .scram])
        #expect([scram, md5, nil].map(HostRules.Method.scramSHA256.exchange) == [.scram, .scram, .scram])
        #expect([scram, md5, nil].map(HostRules.Method.trust.exchange) == [.none, .none, .none])
    }
}

@Suite struct HostAddressTests {
    @Test(
        "an address is written in its canonical form",
        arguments: [
            ("192.0.2.1", "192.0.2.1"), ("0.0.0.0", "0.0.0.0"), ("255.255.255.255", "255.255.255.255"),
            ("::", "::"), ("::1", "::1"), ("1::", "1::"), ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"), ("0:0:1::", "0:0:1::"),
            ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"),
            ("fe80::1%eth0", "fe80::1"), ("::ffff:192.0.2.1", "192.0.2.1"), ("::ffff:c000:201", "192.0.2.1"),
            ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"), ("1:2:3:4:5:6:192.0.2.1", "1:2:3:4:5:6:c000:201"),
        ])
    func canonical(text: String, canonical: String) throws {
        let address = try #require(HostAddress(text))
        #expect("\(address)" == canonical)
        #expect(HostAddress(canonical) == address)
    }

    @Test(
        "what is no address is not read as one",
        arguments: [
            "", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.04", "1.2.3.+4", "1.2.3.", "1.2.3.4/8", " 1.2.3.4",
            ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::", "1:2:3:4:5:6:7::8",
            "1.2.3.4::", "::1.2.3.4:5", "::1.2.3", "1:2:3:4:5:6:7:1.2.3.4", "localhost", "+1::",
        ])
    func noAddress(text: String) {
        #expect(HostAddress(text) == nil)
    }

    @Test(
        "a network has the addresses that begin with its bits, and none of the other family",
        arguments: [
            ("10.0.0.0/8", "10.255.0.1", true), ("10.0.0.0/8", "11.0.0.1", false), ("10.0.0.0/9", "10.128.0.0", false),
            ("10.0.0.0/9", "10.127.255.255", true), ("192.0.2.7/32", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false), ("0.0.0.0/0", "192.0.2.6", true), ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true), ("::/0", "192.0.2.6", false), ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false), ("::1/128", "::1", true), ("::1/128", "::2", false),
            ("192.0.2.0/24", "::ffff:192.0.2.9", true),
        ])
    func networks(network: String, address: String, isWithin: Bool) throws {
        #expect(try (method("host all all \(network) trust", connection(address)) == .trust) == isWithin)
    }
}
