import Foundation
import TransactionCore
import TransactionEngine

/// What a session does, for `meridian.stat_activity`.
struct SessionActivity: Sendable {
    /// As in `pg_stat_activity`, whose texts are cut at `track_activity_query_size`.
    static let queryCharactersMax = 1_024

    let connectedAt = Date()
    private(set) var query = ""
    private(set) var queryStartedAt: Date?
    private(set) var changedAt: Date?
    private(set) var isActive = false
    /// When the transaction block began.
    private(set) var blockBeganAt: Date?

    mutating func began(_ text: String) {
        let now = Date()
        (query, queryStartedAt, changedAt, isActive) = (text, now, now, true)
    }

    mutating func ended(isInBlock: Bool) {
        let now = Date()
        (changedAt, isActive) = (now, false)
        if !isInBlock { blockBeganAt = nil } else if blockBeganAt == nil { blockBeganAt = queryStartedAt ?? now }
    }
}

/// A row of `meridian.stat_activity`.
struct ActivityRow: Encodable, Sendable {
    var process: Int32
    var user: String
    var applicationName: String
    var address: String
    var port: Int
    var connectedAt: Double
    var blockBeganAt: Double?
    var queryStartedAt: Double?
    var changedAt: Double?
    var state: String
    var readTimestamp: Int64?
    var shards: [String]
    var query: String
}

extension Conversation {
    func activityRow() async -> ActivityRow {
        let shards = await transaction?.writer?.shards ?? []
        let state =
            activity.isActive
            ? "active"
            : !block.isOpen ? "idle" : block.hasFailed ? "idle in transaction (aborted)" : "idle in transaction"
        return ActivityRow(
            process: process, user: startup.user, applicationName: variables.applicationName,
            address: startup.address, port: startup.port, connectedAt: activity.connectedAt.timeIntervalSince1970,
            blockBeganAt: activity.blockBeganAt?.timeIntervalSince1970,
            queryStartedAt: activity.queryStartedAt?.timeIntervalSince1970,
            changedAt: activity.changedAt?.timeIntervalSince1970, state: state,
            readTimestamp: await transaction?.snapshot?.timestamp.rawValue, shards: shards.map(\.rawValue).sorted(),
            query: String(activity.query.prefix(SessionActivity.queryCharactersMax)))
    }
}

extension SessionNode {
    /// The sessions of all clients, by process number.
    func activity() async -> [ActivityRow] {
        var rows: [ActivityRow] = []
        for session in openSessions { rows.append(await session.activityRow()) }
        return rows.sorted { $0.process < $1.process }
    }
}
