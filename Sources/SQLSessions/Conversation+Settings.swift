import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// SET, RESET, SHOW and DISCARD.
extension Conversation {
    /// What clients are told of without asking, whenever it changes.
    private static let reported: [String: String] = [
        "application_name": "application_name", "client_encoding": "client_encoding", "datestyle": "DateStyle",
        "intervalstyle": "IntervalStyle", "timezone": "TimeZone",
        "standard_conforming_strings": "standard_conforming_strings",
    ]

    func runSetting(_ command: SettingCommand) async throws {
        switch command {
        case .set(let name, let values, let isLocal):
            let name = name.lowercased()
            let value = values.map { $0.count == 1 ? $0[0] : $0.map { quotedIdentifier($0) }.joined(separator: ", ") }
            if isLocal, !block.isOpen {
                warn(.noActiveTransaction, "SET LOCAL can only be used in transaction blocks")
                // It would end with the statement, but is looked at.
                if let value, !name.hasPrefix("meridian.") { _ = try await check(name, value) }
            } else if let value {
                try await set(name, to: value, isLocal: isLocal)
            } else {
                try await reset(name)
            }
            writer.commandComplete("SET")
        case .reset(let name):
            try await reset(name.lowercased())
            writer.commandComplete("RESET")
        case .resetAll:
            let channels = variables.channels
            variables = node.defaultVariables(startup)
            variables.channels = channels
            writer.commandComplete("RESET")
        case .show(let name): try await show(name)
        case .discard(let target):
            if target == "all" { try await discardAll() }
            if target == "temp" { try await discardTemporaries() }
            writer.commandComplete("DISCARD \(target.uppercased())")
        }
    }

    private static func isOn(_ value: String) -> Bool { ["on", "true", "yes", "1"].contains(value.lowercased()) }

    private func discardAll() async throws(TransactionError) {
        try checkNotInBlock("DISCARD ALL")
        try await discardTemporaries()
        variables.channels = []
        await endListening()
        variables = node.defaultVariables(startup)
        statements = [:]
        portals = [:]
    }

    func set(_ name: String, to value: String, isLocal: Bool) async throws(TransactionError) {
        if isLocal { block.rememberLocal(variables) }
        switch name {
        case "meridian.read_staleness":
            _ = try SessionVariables.bound(value)
            variables.readStaleness = value
        case "meridian.read_timestamp": variables.readTimestamp = try SessionVariables.timestamp(value)
        case "application_name":
            variables.applicationName = value
            report(name, value)
        case "client_encoding":
            guard ["utf8", "utf-8", "unicode"].contains(value.lowercased()) else {
                throw TransactionError(
                    .featureNotSupported, "client_encoding \(value) is not supported", hint: "use UTF8")
            }
        case "default_transaction_read_only":
            variables.isReadOnlyByDefault = Self.isOn(value)
        case "default_transaction_deferrable": variables.isDeferrableByDefault = Self.isOn(value)
        case "transaction_deferrable": block.isDeferrable = Self.isOn(value)
        case "role" where value != "none", "session_authorization" where value != "default":
            throw TransactionError(
                .featureNotSupported, "SET \(name == "role" ? "ROLE" : "SESSION AUTHORIZATION") is not supported",
                detail: "clients share the shards' role", hint: "log in as the user whose rights are wanted")
        case _ where SessionSettings.reserved.contains(name): break
        default:
            guard !name.hasPrefix("meridian.") else {
                throw TransactionError(.undefinedObject, "unrecognized configuration parameter \"\(name)\"")
            }
            let shown = try await check(name, value)
            guard !SessionVariables.limitNames.contains(name) else { return variables.limits[name] = shown }
            variables.settings[name] = shown
            report(name, shown)
            try await transaction?.changeSettings(variables.settings, name, shown)
        }
    }

    /// Has a server look at a value; returns it as the server would show it.
    private func check(_ name: String, _ value: String) async throws(TransactionError) -> String {
        let result = try await evaluate(
            SQLStatement(
                "SELECT set_config($1, $2, true), current_setting($1)", [.text(name), .text(value)], isPrepared: false,
                resultFormat: .text))
        do throws(ShardError) { return try result[0].text(0) } catch { throw TransactionError(error, shard: nil) }
    }

    private func reset(_ name: String) async throws(TransactionError) {
        switch name {
        case "meridian.read_staleness": variables.readStaleness = "strong"
        case "meridian.read_timestamp": variables.readTimestamp = nil
        default:
            let initial = node.defaultVariables(startup)
            variables.limits[name] = initial.limits[name]
            variables.settings[name] = initial.settings[name]
            // A name of an extension's may come to mean something; any other must do now.
            guard !name.contains(".") else { return }
            report(name, try await current(name))
        }
    }

    private func report(_ name: String, _ value: String) {
        if let name = Self.reported[name] { writer.parameterStatus(name, value) }
    }

    private func show(_ name: String) async throws {
        guard name.lowercased() != "all" else {
            try await write(
                StatementResult([try await evaluate(SQLStatement("SHOW ALL", resultFormat: .text))]), tag: "SHOW")
            return
        }
        writeText([try await current(name.lowercased())], column: name.lowercased())
        writer.commandComplete("SHOW")
    }

    /// The value of a setting as SHOW says it.
    func current(_ name: String) async throws(TransactionError) -> String {
        switch name {
        case "meridian.read_staleness": return variables.readStaleness
        case "meridian.read_timestamp":
            if let timestamp = variables.readTimestamp { return "\(timestamp)" }
            return await transaction?.snapshot.map { "\($0.timestamp)" } ?? ""
        case "meridian.commit_timestamp": return variables.commitTimestamp.map { "\($0)" } ?? ""
        case "meridian.commit_wait_share": return "\(await node.engine.currentStatistics().commitWaitShare)"
        case "transaction_isolation", "default_transaction_isolation": return "serializable"
        case "transaction_read_only": return block.isReadOnly ?? variables.isReadOnlyByDefault ? "on" : "off"
        case "default_transaction_read_only": return variables.isReadOnlyByDefault ? "on" : "off"
        case "transaction_deferrable": return block.isDeferrable ?? variables.isDeferrableByDefault ? "on" : "off"
        case "default_transaction_deferrable": return variables.isDeferrableByDefault ? "on" : "off"
        case let name where variables.limits[name] != nil: return variables.limits[name]!
        case "application_name": return variables.applicationName
        case "client_encoding": return "UTF8"
        default:
            let result = try await evaluate(
                SQLStatement("SELECT current_setting($1)", [.text(name)], resultFormat: .text))
            do throws(ShardError) { return try result[0].text(0) } catch { throw TransactionError(error, shard: nil) }
        }
    }

    /// Runs what reads no table, with the session's settings.
    func evaluate(
        _ statement: SQLStatement, on shard: ShardID? = nil
    ) async throws(TransactionError) -> SQLResult {
        try await node.engine.evaluate(clientStatement(statement), on: shard)
    }
}
