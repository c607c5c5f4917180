import StatementRouting
import TransactionCore
import TransactionEngine

/// What a transaction remembers of its statements: what the client has been told must be so at the commit timestamp.
extension ClientTransaction {
    struct RecordedRead {
        /// What the client has been told of the rows.
        enum Extent {
            case all(RowsDigest)
            /// Some at the snapshot, or all in a form that has no digest.
            case some
            /// Some before an error, or under locks.
            case broken
            /// What a write said, or any statement that failed, to be run again; and what was quiet before it.
            case answer(StatementAnswer, [LockingRun.Piece], TransactionEngine.QuietShards?)
            /// What an EXPLAIN ANALYZE tells by the rows that it finds, or a write of temporary tables: nothing that
            /// could be compared.
            case found
        }

        let statement: BoundStatement
        var extent: Extent
    }

    /// Its rows must be the same when the transaction turns to locking.
    func isRemembered(_ statement: BoundStatement) -> Bool {
        modes.isBlock && !modes.isReadOnly && modes.bound == .strong && !statement.plan.tables.isEmpty
            && !statement.plan.usesTemporaryTables
    }

    /// Remembers a read of which the client is told in portions, or in a form that has no digest.
    func remember(_ statement: BoundStatement) async throws(TransactionError) {
        guard isRemembered(statement) else {
            if statement.plan.usesTemporaryTables { rememberFound(by: statement) }
            return
        }
        guard let writer else { return reads.append(RecordedRead(statement: statement, extent: .some)) }
        // Locks may be given up by going back to a savepoint, and not otherwise.
        guard !savepoints.isEmpty else { return }
        let digest = try await locking(writer).digest(of: statement)
        reads.append(RecordedRead(statement: statement, extent: .all(digest)))
    }

    /// Remembers a statement that was explained, or that has to do with temporary tables: the client has been told what
    /// it found.
    ///
    /// Its locks keep that as it is, unless they are given up by going back to a savepoint.
    func rememberFound(by statement: BoundStatement) {
        guard modes.isBlock, !savepoints.isEmpty, !statement.tables.isEmpty else { return }
        reads.append(RecordedRead(statement: statement, extent: .found))
    }

    /// The client can go on after an error by going back to a savepoint, and knows then what it said.
    func remember(
        _ error: TransactionError, of statement: BoundStatement, _ pieces: [LockingRun.Piece],
        _ quiet: TransactionEngine.QuietShards?
    ) {
        guard !savepoints.isEmpty, isRemembered(statement), let answer = StatementAnswer(error) else { return }
        reads.append(RecordedRead(statement: statement, extent: .answer(answer, pieces, quiet)))
    }

    /// What is quiet before a statement that may fail and be undone.
    func quietShards() async -> TransactionEngine.QuietShards? {
        guard !savepoints.isEmpty else { return nil }
        quietBefore = await engine.quietShards()
        return quietBefore
    }

    // MARK: Comparing

    func validate(_ reads: ArraySlice<RecordedRead>) async throws(TransactionError) {
        for read in reads {
            guard try await isUnchanged(read) else { throw change() }
        }
    }

    /// What the client has been told is not so any more, and the transaction can't commit.
    private func change() -> TransactionError {
        changed = Self.changedRead
        return Self.changedRead
    }

    /// Locks and reads again what was read; whether it is the same.
    private func isUnchanged(_ read: RecordedRead) async throws(TransactionError) -> Bool {
        do throws(TransactionError) {
            return try await isSame(read)
        } catch  where error.sqlState.isAboutRows {
            // It did not fail then.
            throw change()
        }
    }

    private func isSame(_ read: RecordedRead) async throws(TransactionError) -> Bool {
        guard let writer else { return true }
        let run = locking(writer)
        switch read.extent {
        case .all(let digest): return try await run.digest(of: read.statement) == digest
        case .some:
            // All are to be the same.
            let again = try await run.digest(of: read.statement)
            return try await snapshotRun().digest(of: read.statement) == again
        case .broken:
            // What had been sent before the error is not known, and the error would come again.
            try await run.lock(read.statement)
            return false
        case .answer(let answer, let pieces, _):
            return try await run.answerAgain(of: read.statement, pieces, wasError: answer.isError) == answer
        case .found:
            try await run.lockFound(by: read.statement)
            return false
        }
    }

    private static let changedRead = TransactionError(
        .serializationFailure, "could not serialize access due to concurrent update",
        detail: "rows that the transaction had read were changed before it locked them",
        hint: "the transaction might succeed if retried")

    // MARK: Savepoints

    /// `name` as it stands in SQL.
    func savepoint(_ name: String) async throws(TransactionError) {
        try await sessions?.savepoint(name)
        savepoints.append((name, reads.count))
    }

    func release(_ name: String) async throws(TransactionError) {
        guard let index = savepoints.lastIndex(where: { $0.name == name }) else { throw Self.noSavepoint(name) }
        try await sessions?.release(name)
        savepoints.removeSubrange(index...)
    }

    func rollback(to name: String) async throws(TransactionError) {
        guard let index = savepoints.lastIndex(where: { $0.name == name }) else { throw Self.noSavepoint(name) }
        if let changed { throw changed }
        savepoints.removeSubrange((index + 1)...)
        guard let sessions else { return hasFailed = false }
        // At the snapshot they stay what they were.
        let remembered = (isLocking ? savepoints[index].readCount : reads.count)..<reads.count
        var before: TransactionEngine.QuietShards?
        if hasFailed {
            before = quietBefore
        } else if !remembered.isEmpty {
            before = await engine.quietShards()
        }
        // Nothing of what was read before the first lock may be another, if it was not all looked at then.
        if !isValidated { before = nil }
        try await sessions.rollback(to: name)
        // The client remembers what it read since, and the shards have given up the locks.
        for read in remembered { try await repeatRead(read, unchangedSince: before) }
        (isValidated, hasFailed) = (isLocking, false)
    }

    /// Locks and reads again what was read before a rollback to a savepoint.
    ///
    /// What the rolled-back part had written itself makes it another result; that of others must be the same. It is
    /// when nothing was committed on the shards from before their locks were given up until they were taken again; for
    /// a statement that failed, and so has had none, from before it ran.
    private func repeatRead(
        _ index: Int, unchangedSince before: TransactionEngine.QuietShards?
    ) async throws(TransactionError) {
        guard let writer else { return }
        let statement = reads[index].statement
        // Of the transaction's own schema: the tables may be gone, or others, with the rolled-back part.
        let isOwnSchema = statement.catalog.version == .max
        if isOwnSchema {
            try await locking(writer).lockWhatIsThere(of: statement)
        } else if try await isUnchanged(reads[index]) {
            return
        }
        var (moment, shards): (_, [ShardID]) = (before, [])
        if case .answer(let answer, let pieces, let quiet) = reads[index].extent {
            if answer.isError { moment = quiet }
            shards = pieces.map(\.shard)
        }
        if shards.isEmpty { shards = try statement.shards() }
        guard let moment, await engine.isQuiet(shards, since: moment) else { throw change() }
        switch reads[index].extent {
        case _ where isOwnSchema: return
        case .broken, .found, .answer: return
        case .all, .some: break
        }
        reads[index].extent = .all(try await locking(writer).digest(of: statement))
    }

    private static func noSavepoint(_ name: String) -> TransactionError {
        TransactionError(.invalidSavepoint, "savepoint \(name) does not exist")
    }
}
