import Placement
import PostgresWire
import StatementRouting
import TransactionCore
import TransactionEngine

/// Where a client's transaction block stands.
struct TransactionBlock: Sendable {
    private enum State {
        case none
        case open
        case failed
    }

    private var state = State.none
    /// READ ONLY or READ WRITE, where one was said.
    var isReadOnly: Bool?
    /// DEFERRABLE or NOT DEFERRABLE, where one was said. It changes nothing: a transaction that is READ ONLY reads at a
    /// snapshot which nothing can make it fail at, so it has no need to wait for one as on PostgreSQL.
    var isDeferrable: Bool?
    /// The session's variables when the block began, for ROLLBACK; and before the first SET LOCAL, for COMMIT.
    private var atBegin: SessionVariables?
    private var beforeLocal: SessionVariables?
    /// What was set by each savepoint.
    private var atSavepoints: [(name: String, variables: SessionVariables, cursorCount: Int)] = []

    /// BEGIN was said, and not yet COMMIT or ROLLBACK.
    var isOpen: Bool { state != .none }
    var hasFailed: Bool { state == .failed }

    var status: TransactionStatus {
        switch state {
        case .none: .idle
        case .open: .inTransaction
        case .failed: .failed
        }
    }

    /// The modes that were said, for AND CHAIN. A block that has failed has lost them, as on PostgreSQL.
    var modes: TransactionModes {
        hasFailed
            ? TransactionModes()
            : TransactionModes(isReadOnly: isReadOnly, isDeferrable: isDeferrable)
    }

    mutating func begin(_ variables: SessionVariables) {
        self = TransactionBlock()
        state = .open
        atBegin = variables
    }

    /// Ends the block; returns the variables that hold from here on.
    mutating func end(committing: Bool, _ variables: SessionVariables) -> SessionVariables {
        var left = committing ? beforeLocal ?? variables : atBegin ?? variables
        left.commitTimestamp = variables.commitTimestamp
        if committing { left.channels = variables.channels }
        self = TransactionBlock()
        return left
    }

    /// A statement failed.
    mutating func failed() { if state == .open { state = .failed } }

    mutating func rememberLocal(_ variables: SessionVariables) { beforeLocal = beforeLocal ?? variables }

    mutating func savepoint(_ name: String, _ variables: SessionVariables, cursorCount: Int) {
        atSavepoints.append((name, variables, cursorCount))
    }

    mutating func release(_ name: String) {
        if let index = atSavepoints.lastIndex(where: { $0.name == name }) { atSavepoints.removeSubrange(index...) }
    }

    /// Rolled back to a savepoint; returns the variables as they were, and how many cursors had been declared.
    mutating func rollback(to name: String) -> (variables: SessionVariables, cursorCount: Int)? {
        guard let index = atSavepoints.lastIndex(where: { $0.name == name }) else { return nil }
        state = .open
        atSavepoints.removeSubrange((index + 1)...)
        return (atSavepoints[index].variables, atSavepoints[index].cursorCount)
    }
}

/// BEGIN, COMMIT, ROLLBACK and savepoints.
extension Conversation {
    func runTransaction(_ command: TransactionCommand) async throws {
        switch command {
        case .begin(let modes):
            if block.isOpen {
                warn(.activeTransaction, "there is already a transaction in progress")
            } else {
                beginBlock(modes)
            }
            writer.commandComplete("BEGIN")
        case .commit(let chains):
            try await commit(andChain: chains)
        case .rollback(let chains):
            if chains { try checkInBlock("ROLLBACK AND CHAIN") }
            if !block.isOpen { warn(.noActiveTransaction, "there is no transaction in progress") }
            let modes = block.modes
            await rollback()
            if chains { beginAgain(modes) }
            writer.commandComplete("ROLLBACK")
        case .savepoint(let name):
            try checkInBlock("SAVEPOINT")
            try await currentTransaction(isBlock: true).savepoint(quotedIdentifier(name))
            block.savepoint(name, variables, cursorCount: cursorCount)
            writer.commandComplete("SAVEPOINT")
        case .release(let name):
            try checkInBlock("RELEASE SAVEPOINT")
            try await currentTransaction(isBlock: true).release(quotedIdentifier(name))
            block.release(name)
            writer.commandComplete("RELEASE")
        case .rollbackTo(let name):
            try checkInBlock("ROLLBACK TO SAVEPOINT")
            try await currentTransaction(isBlock: true).rollback(to: quotedIdentifier(name))
            temporariesMayDiffer()
            if let earlier = block.rollback(to: name) {
                variables = earlier.variables
                cursors = cursors.filter { $0.value.number <= earlier.cursorCount }
            }
            writer.commandComplete("ROLLBACK")
        case .setModes(let modes, let forSession):
            if let isReadOnly = modes.isReadOnly {
                if forSession { variables.isReadOnlyByDefault = isReadOnly } else { try setReadOnly(isReadOnly) }
            }
            if let isDeferrable = modes.isDeferrable {
                if forSession {
                    variables.isDeferrableByDefault = isDeferrable
                } else {
                    block.isDeferrable = isDeferrable
                }
            }
            writer.commandComplete("SET")
        case .unsupported(let words):
            throw TransactionError(
                .featureNotSupported, "\(words) is not supported",
                hint: "a transaction is prepared on its shards by COMMIT, when it wrote several")
        }
    }

    private func setReadOnly(_ isReadOnly: Bool) throws(TransactionError) {
        if !isReadOnly, block.isReadOnly == true, transaction != nil {
            throw TransactionError(
                .activeTransaction, "transaction read-write mode must be set before any query")
        }
        block.isReadOnly = isReadOnly
    }

    private func commit(andChain chains: Bool) async throws {
        if chains { try checkInBlock("COMMIT AND CHAIN") }
        guard block.isOpen else {
            warn(.noActiveTransaction, "there is no transaction in progress")
            // Of several statements in one text or pipeline, those before it are one.
            try await endImplicitTransaction()
            return writer.commandComplete("COMMIT")
        }
        let modes = block.modes
        if block.hasFailed {
            await rollback()
            writer.commandComplete("ROLLBACK")
        } else {
            let ending = transaction
            transaction = nil
            temporariesMayDiffer()
            do {
                try await beginListening()
                if let ending, let timestamp = try await commit(ending) { variables.commitTimestamp = timestamp }
                variables = block.end(committing: true, variables)
                endCursors(committing: true)
                await endListening()
            } catch {
                // If it came before the commit.
                await ending?.rollback()
                variables = block.end(committing: false, variables)
                endCursors(committing: false)
                await endListening()
                throw error
            }
            writer.commandComplete("COMMIT")
        }
        if chains { beginAgain(modes) }
    }

    private func beginAgain(_ modes: TransactionModes) {
        portals = [:]
        beginBlock(modes)
    }

    func beginBlock(_ modes: TransactionModes) {
        block.begin(variables)
        (block.isReadOnly, block.isDeferrable) = (modes.isReadOnly, modes.isDeferrable)
    }

    /// Rolls back the block and what is left of its transaction.
    func rollback() async {
        let ending = transaction
        transaction = nil
        temporariesMayDiffer()
        endCursors(committing: false)
        await ending?.rollback()
        variables = block.end(committing: false, variables)
        await endListening()
    }

    /// Commits what was done outside a block since the last Sync, or in one query string.
    func endImplicitTransaction() async throws {
        guard !block.isOpen, let ending = transaction else { return }
        transaction = nil
        temporariesMayDiffer()
        if let timestamp = try await commit(ending) { variables.commitTimestamp = timestamp }
    }

    /// The transaction that a statement belongs to; begun with the first one that needs it.
    func currentTransaction(isBlock: Bool) throws(TransactionError) -> ClientTransaction {
        if let transaction { return transaction }
        let modes = ClientTransaction.Modes(
            isReadOnly: block.isReadOnly ?? variables.isReadOnlyByDefault, isBlock: isBlock || block.isOpen,
            bound: try variables.readBound())
        let begun = ClientTransaction(
            node.engine, node.catalogs, modes, in: temporaries?.session, settings: variables.settings,
            applied: node.applied
        ) { connection, fields in self.onLoop { $0.forward(fields, from: connection) } }
        transaction = begun
        return begun
    }

    func checkInBlock(_ command: String) throws(TransactionError) {
        guard !block.isOpen else { return }
        throw TransactionError(.noActiveTransaction, "\(command) can only be used in transaction blocks")
    }

    func checkNotInBlock(_ command: String) throws(TransactionError) {
        guard block.isOpen || isImplicitBlock else { return }
        throw TransactionError(.activeTransaction, "\(command) cannot run inside a transaction block")
    }

    func warn(_ state: SQLState, _ message: String) {
        writer.noticeResponse(ErrorFields(.warning, state, message))
    }
}
