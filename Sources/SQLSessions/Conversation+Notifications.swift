import PostgresWire
import ShardBackend
import TransactionCore

/// What a session has heard and not told its client yet.
struct HeardNotifications: Sendable {
    private(set) var notifications: [ShardConnection.Notification] = []
    private var byteCount = 0
    /// Why the client hears no more, and has to go.
    private(set) var end: ErrorFields?

    /// For a client that is long in a transaction, or does not read. PostgreSQL keeps 8 GB, for all together.
    private static let bytesMax = 16 << 20

    mutating func add(_ notification: ShardConnection.Notification) {
        byteCount += notification.channel.utf8.count + notification.payload.utf8.count + 64
        guard byteCount <= Self.bytesMax else {
            return endHearing(
                .configurationLimitExceeded, "terminating connection because it does not take its notifications")
        }
        notifications.append(notification)
    }

    mutating func endHearing(_ state: SQLState, _ message: String) {
        (notifications, end) = ([], end ?? ErrorFields(.fatal, state, message))
    }

    mutating func take() -> [ShardConnection.Notification] {
        defer { (notifications, byteCount) = ([], 0) }
        return notifications
    }

    var isEmpty: Bool { notifications.isEmpty && end == nil }
}

/// LISTEN and UNLISTEN, which take effect with the commit, and what is heard, told between two transactions.
extension Conversation {
    func listen(to channel: String) async throws(TransactionError) {
        variables.channels.insert(channel)
        if !block.isOpen { try await beginListening() }
        writer.commandComplete("LISTEN")
    }

    /// - Parameter channel: nil for all.
    func unlisten(_ channel: String?) async throws(TransactionError) {
        if let channel { variables.channels.remove(channel) } else { variables.channels = [] }
        if !block.isOpen { await endListening() }
        writer.commandComplete("UNLISTEN")
    }

    /// Listens to what was asked for, before the commit is told.
    func beginListening() async throws(TransactionError) {
        for channel in variables.channels.subtracting(listening).sorted() {
            do throws(TransactionError) {
                try await node.hub.listen(self, to: channel)
                listening.insert(channel)
            } catch {
                variables.channels = listening
                throw error
            }
        }
    }

    /// Listens no more to what is not asked for.
    func endListening() async {
        for channel in listening.subtracting(variables.channels) {
            listening.remove(channel)
            await node.hub.unlisten(self, to: channel)
        }
    }

    // MARK: The hub's calls

    func notified(_ notification: ShardConnection.Notification) {
        heard.add(notification)
        tellHeardIfIdle()
    }

    func hearsNoMore() {
        heard.endHearing(.connectionFailure, "terminating connection because the shard of its notifications was lost")
        tellHeardIfIdle()
    }

    func tellHeardIfIdle() {
        guard !heard.isEmpty, !isServing, !isGone, !block.isOpen, !isWaitingToTell else { return }
        guard !output.isBacklogged else {
            isWaitingToTell = true
            Task(executorPreference: node.engine.loop) { await self.tellHeardWhenDrained() }
            return
        }
        tellHeard()
        flush()
        if heard.end != nil { output.close() }
    }

    private func tellHeardWhenDrained() async {
        _ = await output.drained()
        isWaitingToTell = false
        tellHeardIfIdle()
    }

    /// Between two transactions.
    func tellHeard() {
        for notification in heard.take() {
            writer.notificationResponse(
                processID: notification.processID, channel: notification.channel, payload: notification.payload)
        }
        if let end = heard.end { writer.errorResponse(end) }
    }
}
