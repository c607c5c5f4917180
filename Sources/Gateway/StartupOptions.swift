import PostgresWire

/// The parameter `options` of a startup packet: the command line of a server process.
///
/// As in PostgreSQL (`pg_split_opts`, `process_postgres_switches`), words are separated by white space, of which a
/// backslash takes away the meaning. Only settings are taken: `-c name=value` and `--name=value`.
enum StartupOptions {
    /// The settings that the words make, in their order.
    static func settings(_ options: String) throws(WireError) -> [StartupMessage.Parameter] {
        var words = words(options)[...]
        var settings: [StartupMessage.Parameter] = []
        while let word = words.popFirst() {
            if word.hasPrefix("--"), word.count > 2 {
                settings.append(try setting(word.dropFirst(2), of: word))
            } else if word == "-c" {
                guard let next = words.popFirst() else { throw invalid(word) }
                settings.append(try setting(next[...], of: "-c " + next))
            } else if word.hasPrefix("-c") {
                settings.append(try setting(word.dropFirst(2), of: "-c " + word.dropFirst(2)))
            } else {
                throw invalid(word)
            }
        }
        return settings
    }

    private static func setting(_ text: Substring, of word: String) throws(WireError) -> StartupMessage.Parameter {
        guard let sign = text.firstIndex(of: "=") else {
            throw WireError(.syntaxError, "\(word) requires a value", consequence: .endsConnection)
        }
        let name = text[..<sign].map { $0 == "-" ? "_" : $0 }
        return StartupMessage.Parameter(String(name), String(text[text.index(after: sign)...]))
    }

    private static func invalid(_ word: String) -> WireError {
        WireError(
            .syntaxError, "invalid command-line argument for server process: \(word)",
            hint: "give settings only, as in -c name=value", consequence: .endsConnection)
    }

    private static func words(_ options: String) -> [String] {
        var words: [String] = []
        var word: String?
        var isEscaped = false
        for scalar in options.unicodeScalars {
            if isEscaped {
                word = (word ?? "") + String(scalar)
                isEscaped = false
            } else if scalar == "\\" {
                word = word ?? ""
                isEscaped = true
            } else if "\t\n\u{B}\u{C}\r ".unicodeScalars.contains(scalar) {
                if let word { words.append(word) }
                word = nil
            } else {
                word = (word ?? "") + String(scalar)
            }
        }
        return words + [word].compactMap(\.self)
    }
}
