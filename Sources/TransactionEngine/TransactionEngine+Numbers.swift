import ShardBackend
import TransactionCore

/// Types by number: see ``ObjectNumbers``.
extension TransactionEngine {
    /// The schema was changed: what is known of types' numbers may be wrong.
    public func forgetNumbers() { numbers = [:] }

    /// Statements with the numbers of the first shard, as another one must get them.
    func translated(_ statements: [SQLStatement], to shard: ShardID) async throws(TransactionError) -> [SQLStatement] {
        guard shard != shards[0] else { return statements }
        var translated = statements
        for index in statements.indices {
            let types = statements[index].parameterTypes
            guard types.contains(where: Self.needsLook) else { continue }
            let numbers = try await numbers(of: shard, knowing: types)
            guard !numbers.isSame else { continue }
            translated[index].parameterTypes = types.map { numbers.translated($0, .toShard) }
            for (place, parameter) in statements[index].parameters.enumerated() where place < types.count {
                guard case .bytes(var bytes) = parameter, numbers.holdsNumbers(types[place], .toShard) else { continue }
                numbers.translate(&bytes, of: types[place], .toShard)
                translated[index].parameters[place] = .bytes(bytes)
            }
        }
        return translated
    }

    /// Whether rows may hold numbers that are the shard's own.
    func needsTranslation(_ rows: SQLResult, from shard: ShardID) -> Bool {
        shard != shards[0] && rows.hasType(where: Self.needsLook)
    }

    /// Rows of a shard, with the numbers of the first shard.
    func translated(_ rows: SQLResult, from shard: ShardID) async throws(TransactionError) -> SQLResult {
        guard needsTranslation(rows, from: shard) else { return rows }
        let fields = rows.fields
        let numbers = try await numbers(of: shard, knowing: fields.map(\.typeOID))
        guard !numbers.isSame else { return rows }
        let described = fields.map { $0.ofType(numbers.translated($0.typeOID, .toCluster)) }
        let columns = fields.indices.filter {
            fields[$0].isBinary && numbers.holdsNumbers(fields[$0].typeOID, .toCluster)
        }
        guard !columns.isEmpty, !rows.isEmpty else { return rows.described(as: described) }
        do throws(ShardError) {
            return try rows.replacing(columns) { column, bytes in
                numbers.translate(&bytes, of: fields[column].typeOID, .toCluster)
            }.described(as: described)
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }

    /// The same of rows that are handed on as they arrive.
    nonisolated func translation(from shard: ShardID) -> ShardStream<SQLRowStream>.Translation {
        { batch throws(TransactionError) in
            // Most shards' rows need no look, and this is asked for each piece.
            guard shard != self.shards[0], batch.rows.hasType(where: Self.needsLook) else { return batch }
            var ending = batch.ending
            if let last = ending { ending = try await self.translated(last, from: shard) }
            return SQLRowBatch(rows: try await self.translated(batch.rows, from: shard), ending: ending)
        }
    }

    func translated(_ results: [SQLResult], from shard: ShardID) async throws(TransactionError) -> [SQLResult] {
        guard shard != shards[0] else { return results }
        var translated: [SQLResult] = []
        for result in results { translated.append(try await self.translated(result, from: shard)) }
        return translated
    }

    func translated(
        _ description: StatementDescription, from shard: ShardID
    ) async throws(TransactionError) -> StatementDescription {
        let types = description.parameterTypes + description.fields.map(\.typeOID)
        guard shard != shards[0], types.contains(where: Self.needsLook) else { return description }
        let numbers = try await numbers(of: shard, knowing: types)
        return StatementDescription(
            parameterTypes: description.parameterTypes.map { numbers.translated($0, .toCluster) },
            fields: description.fields.map { $0.ofType(numbers.translated($0.typeOID, .toCluster)) })
    }

    /// Translates rows of COPY's binary format, one behind the other. Their lengths stay.
    public typealias RowTranslation = @Sendable (_ rows: inout [UInt8]) -> Void

    /// What rows that are copied out of a shard need; nil if that is nothing.
    ///
    /// - Parameter types: of the columns, with the first shard's numbers.
    public func rowTranslation(
        from shard: ShardID, of types: [UInt32]
    ) async throws(TransactionError) -> RowTranslation? {
        try await rowTranslation(shard, types, .toCluster)
    }

    /// What rows that are copied into a shard need; nil if that is nothing.
    public func rowTranslation(
        to shard: ShardID, of types: [UInt32]
    ) async throws(TransactionError) -> RowTranslation? {
        try await rowTranslation(shard, types, .toShard)
    }

    private func rowTranslation(
        _ shard: ShardID, _ types: [UInt32], _ direction: ObjectNumbers.Direction
    ) async throws(TransactionError) -> RowTranslation? {
        guard shard != shards[0], types.contains(where: Self.needsLook) else { return nil }
        let numbers = try await numbers(of: shard, knowing: types)
        guard !numbers.isSame, types.contains(where: { numbers.holdsNumbers($0, .toShard) }) else { return nil }
        return { numbers.translateRows(&$0, of: types, direction) }
    }

    /// A user's type, or one whose values may hold such (`record`, `record[]`).
    static func needsLook(_ type: UInt32) -> Bool {
        type >= ObjectNumbers.firstOfUsers || type == 2249 || type == 2287
    }

    /// Reads the numbers of both shards when they are not known yet, or not all of `types`.
    private func numbers(
        of shard: ShardID, knowing types: [UInt32]
    ) async throws(TransactionError) -> ObjectNumbers {
        if let known = numbers[shard], types.allSatisfy({ known.knows($0) }) { return known }
        let cluster = try await inspect(ObjectNumbers.query, on: shards[0])
        let own = try await inspect(ObjectNumbers.query, on: shard)
        do throws(ShardError) {
            let read = ObjectNumbers(
                cluster: try ObjectNumbers.rows(of: cluster), shard: try ObjectNumbers.rows(of: own))
            numbers[shard] = read
            return read
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }
}
