import Placement
import ShardBackend
import TransactionCore
import TransactionEngine

/// Who listens to what: one connection to the first shard listens for all of a node's clients.
///
/// PostgreSQL sends a notification when the transaction commits, in the order of the commits, and one of several alike
/// in a transaction. NOTIFY makes its transaction's home shard the first one, so that this commit is the decision.
actor NotificationHub {
    private let engine: TransactionEngine
    /// By channel and process.
    private var listeners: [String: [Int32: Conversation]] = [:]
    private var connection: Task<Result<ShardConnection, TransactionError>, Never>?

    nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    init(_ engine: TransactionEngine) { self.engine = engine }

    /// Returns when what is notified from now on is heard.
    func listen(_ session: Conversation, to channel: String) async throws(TransactionError) {
        let connection = try await opened().get()
        listeners[channel, default: [:]][session.process] = session
        do throws(ShardError) {
            // Again for each: it does no harm, and an UNLISTEN may be on its way.
            _ = try await connection.run(
                [SQLStatement("LISTEN \(quotedIdentifier(channel))", isPrepared: false)],
                deadline: .now + engine.configuration.statementTimeout)
        } catch {
            forget(session, channel)
            throw TransactionError(error, shard: engine.shards[0])
        }
    }

    func unlisten(_ session: Conversation, to channel: String) async {
        forget(session, channel)
        guard listeners[channel] == nil, case .success(let connection)? = await connection?.value,
            listeners[channel] == nil
        else { return }
        _ = try? await connection.run(
            [SQLStatement("UNLISTEN \(quotedIdentifier(channel))", isPrepared: false)],
            deadline: .now + engine.configuration.statementTimeout)
    }

    private func forget(_ session: Conversation, _ channel: String) {
        listeners[channel]?[session.process] = nil
        if listeners[channel]?.isEmpty == true { listeners[channel] = nil }
    }

    private func opened() async -> Result<ShardConnection, TransactionError> {
        if let connection { return await connection.value }
        let engine = engine
        let handlers = ShardConnection.Handlers(
            notification: { [weak self] in self?.received($0) }, closed: { [weak self] _ in self?.lost() })
        let opening = Task(executorPreference: engine.loop) { () -> Result<ShardConnection, TransactionError> in
            do throws(TransactionError) {
                return .success(try await engine.openListener(on: engine.shards[0], handlers))
            } catch {
                return .failure(error)
            }
        }
        connection = opening
        let outcome = await opening.value
        if case .failure = outcome, connection == opening { connection = nil }
        return outcome
    }

    /// Called on the loop.
    private nonisolated func received(_ notification: ShardConnection.Notification) {
        assumeIsolated { hub in
            for session in (hub.listeners[notification.channel] ?? [:]).values {
                session.assumeIsolated { $0.notified(notification) }
            }
        }
    }

    /// Called on the loop, perhaps in the middle of the connection's own work.
    private nonisolated func lost() {
        engine.loop.execute { [weak self] in self?.assumeIsolated { $0.tellLost() } }
    }

    /// What was notified meanwhile is not known: the clients have to begin anew, as when their server ends.
    private func tellLost() {
        connection = nil
        var sessions: [Int32: Conversation] = [:]
        for channel in listeners.values { sessions.merge(channel) { $1 } }
        listeners = [:]
        for session in sessions.values { session.assumeIsolated { $0.hearsNoMore() } }
    }
}
