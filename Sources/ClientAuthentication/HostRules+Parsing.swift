/// What is wrong with a list of rules: where, what, and what to do about it.
public struct HostRulesError: Error, Hashable, Sendable {
    /// From 1.
    public var line: Int
    public var message: String
    public var hint: String

    public init(line: Int, message: String, hint: String) {
        self.line = line
        self.message = message
        self.hint = hint
    }
}

extension HostRulesError: CustomStringConvertible {
    public var description: String { "line \(line): \(message)\nHINT:  \(hint)" }
}

extension HostRules {
    /// Reads rules, one a line: transport, databases, users, address (not with `local`), method. `#` begins a comment,
    /// `"` encloses a name that has spaces or commas or means something else without.
    ///
    ///     # transport  databases  users       address       method
    ///     local        all        all                       trust
    ///     hostssl      all        all         0.0.0.0/0     scram-sha-256
    ///     host         bank       app,report  10.0.0.0/8    md5
    public init(parsing text: String) throws(HostRulesError) {
        var rules: [Rule] = []
        let lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline)
        for (index, line) in lines.enumerated() {
            do {
                if let rule = try Rule(line) { rules.append(rule) }
            } catch {
                throw HostRulesError(line: index + 1, message: error.message, hint: error.hint)
            }
        }
        self.rules = rules
    }
}

/// What is wrong with a line, wherever it stands.
private struct RuleError: Error {
    let message: String
    let hint: String

    init(_ message: String, hint: String) {
        self.message = message
        self.hint = hint
    }
}

/// A word of a line.
private struct Word: Hashable {
    var text: String
    /// Then it is a name, whatever it says.
    var isQuoted = false
}

extension HostRules.Rule {
    /// Reads a line; nil when it has nothing but a comment.
    fileprivate init?(_ line: Substring) throws(RuleError) {
        var fields = try HostRules.Rule.fields(of: line)[...]
        guard let first = fields.popFirst() else { return nil }
        transport = try HostRules.Rule.transport(try HostRules.Rule.single(first, "transport"))
        let layout =
            transport == .local
            ? "local  databases  users  method" : "\(transport.rawValue)  databases  users  address  method"
        func next(_ what: String) throws(RuleError) -> [Word] {
            guard let field = fields.popFirst() else {
                throw RuleError("the \(what) is missing", hint: "write: \(layout)")
            }
            return field
        }
        databases = try HostRules.Rule.names(
            try next("database"), "database", reserved: ["sameuser", "samerole", "samegroup", "replication"])
        users = try HostRules.Rule.names(try next("user"), "user", reserved: [])
        network =
            transport == .local
            ? nil : try HostRules.Rule.network(try HostRules.Rule.single(try next("address"), "address"))
        method = try HostRules.Rule.method(try HostRules.Rule.single(try next("method"), "method"))
        if let extra = fields.first?.first {
            throw RuleError("\"\(extra.text)\" comes after the method", hint: "methods have no options: leave it out")
        }
    }

    /// The fields of a line, each a list of words.
    private static func fields(of line: Substring) throws(RuleError) -> [[Word]] {
        var fields: [[Word]] = []
        var rest = line
        // After a comma the list goes on, over spaces too.
        var isContinued = false
        while let character = rest.first, character != "#" {
            if character.isWhitespace {
                rest.removeFirst()
            } else if character == "," {
                guard !fields.isEmpty, !isContinued else {
                    throw RuleError("a comma has no name before it", hint: "write name,name")
                }
                isContinued = true
                rest.removeFirst()
            } else {
                let word = try takeWord(&rest)
                if isContinued {
                    fields[fields.count - 1].append(word)
                } else {
                    fields.append([word])
                }
                isContinued = false
            }
        }
        if isContinued { throw RuleError("a comma has no name after it", hint: "write name,name") }
        return fields
    }

    private static func takeWord(_ rest: inout Substring) throws(RuleError) -> Word {
        guard rest.first == "\"" else {
            let text = rest.prefix { !$0.isWhitespace && $0 != "," && $0 != "#" && $0 != "\"" }
            rest = rest[text.endIndex...]
            return Word(text: String(text))
        }
        rest.removeFirst()
        let text = rest.prefix { $0 != "\"" }
        guard text.endIndex < rest.endIndex else {
            throw RuleError("a quotation mark is not closed", hint: "end the name with \"")
        }
        rest = rest[rest.index(after: text.endIndex)...]
        return Word(text: String(text), isQuoted: true)
    }

    private static func single(_ words: [Word], _ what: String) throws(RuleError) -> String {
        guard words.count == 1 else {
            throw RuleError(
                "there are \(words.count) values for the \(what)", hint: "write a line for each of them")
        }
        return words[0].text
    }

    private static func transport(_ text: String) throws(RuleError) -> HostRules.Transport {
        guard let transport = HostRules.Transport(rawValue: text) else {
            throw RuleError("unknown transport \"\(text)\"", hint: "write \(list(HostRules.Transport.allCases))")
        }
        return transport
    }

    private static func method(_ text: String) throws(RuleError) -> HostRules.Method {
        guard let method = HostRules.Method(rawValue: text) else {
            throw RuleError("unknown method \"\(text)\"", hint: "write \(list(HostRules.Method.allCases))")
        }
        return method
    }

    private static func list<Choice: RawRepresentable<String>>(_ choices: [Choice]) -> String {
        let names = choices.map(\.rawValue)
        return names.dropLast().joined(separator: ", ") + " or " + names[names.count - 1]
    }

    private static func names(
        _ words: [Word], _ what: String, reserved: Set<String>
    ) throws(RuleError) -> HostRules.Names {
        for word in words where !word.isQuoted {
            if reserved.contains(word.text) {
                throw RuleError(
                    "the \(what) \"\(word.text)\" is not supported",
                    hint: "name the \(what)s, or write \"\(word.text)\" in quotation marks for one of that name")
            }
            if let first = word.text.first, "+@/".contains(first) {
                throw RuleError(
                    "groups, files and regular expressions such as \"\(word.text)\" are not supported",
                    hint: "name the \(what)s one by one, separated by commas")
            }
        }
        if words.contains(Word(text: "all")) { return .all }
        return .some(Set(words.map(\.text)))
    }

    private static func network(_ text: String) throws(RuleError) -> HostNetwork? {
        if text == "all" { return nil }
        if let network = HostNetwork(text) { return network }
        if let address = HostAddress(text) {
            throw RuleError(
                "the address \"\(text)\" has no mask", hint: "write \(text)/\(address.bitCount) for this host alone")
        }
        throw RuleError(
            "invalid address \"\(text)\"",
            hint: "write all, or an address and its bits such as 192.0.2.0/24 or ::1/128")
    }
}
