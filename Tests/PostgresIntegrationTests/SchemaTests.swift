import ShardBackend
import ShardSchema
import Testing
import TransactionCore

/// The statements that the engine sends (R3, R4, R6).
@Suite struct SchemaTests {
    @Test("whichever of a commit and its tombstone comes second gives way")
    func tombstone() async throws {
        try await SchemaShard.with { shard in
            let (coordinator, recovery) = (try await shard.connect(), try await shard.connect())
            try await coordinator.commit(at: 5000, "SELECT 1")
            #expect(try await recovery.run(ShardSchema.tombstone(for: .at(5000))).affectedRows == 0)
            #expect(try await recovery.run(ShardSchema.decision(of: .at(5000)))[0].bool(0))

            #expect(try await recovery.run(ShardSchema.decision(of: .at(6000))).isEmpty)
            #expect(try await recovery.run(ShardSchema.tombstone(for: .at(6000))).affectedRows == 1)
            #expect(try await !recovery.run(ShardSchema.decision(of: .at(6000)))[0].bool(0))
            await expectRefusal(.uniqueViolation) { try await coordinator.commit(at: 6000, "SELECT 1") }

            #expect(try await recovery.run(ShardSchema.newestTimestamp)[0].int64(0) == 6000)
            let committed = try await recovery.run(ShardSchema.committedTransactions)
            #expect(try committed.map { row in "\(try row.int64(0)) \(try row.text(1))" } == ["5000 shard1"])
            await coordinator.close()
            await recovery.close()
        }
    }

    @Test("a tombstone waits for the commit that is under way, and does not overtake it")
    func tombstoneWaits() async throws {
        try await SchemaShard.with { shard in
            let (coordinator, recovery) = (try await shard.connect(), try await shard.connect())
            try await coordinator.sql("BEGIN")
            _ = try await coordinator.run(ShardSchema.logCommit(.at(5000), participants: [ShardID("b")!]))
            async let buried = recovery.run(ShardSchema.tombstone(for: .at(5000)))
            try await waits(shard)
            try await coordinator.sql("PREPARE TRANSACTION 'meridian:shard1:0:1:5000'")
            try await waits(shard)
            let prepared = try await coordinator.run(ShardSchema.preparedTransactions)
            #expect(try prepared[0].text(0) == "meridian:shard1:0:1:5000" && prepared[0].text(3) == "meridian")
            try await coordinator.sql("COMMIT PREPARED 'meridian:shard1:0:1:5000'")
            #expect(try await buried.affectedRows == 0)
            await coordinator.close()
            await recovery.close()
        }
    }

    @Test("a tombstone for what the log has forgotten is refused, never inserted")
    func forgotten() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql("SELECT meridian.raise_readable_from(9000)")
                await expectRefusal(.objectNotInPrerequisiteState) {
                    _ = try await connection.run(ShardSchema.tombstone(for: .at(8999)))
                }
                #expect(try await connection.run(ShardSchema.tombstone(for: .at(9000))).affectedRows == 1)
            }
        }
    }

    @Test("a fenced epoch's sessions are ended, its lock's too, and open no more; others' and later ones go on")
    func epochs() async throws {
        try await SchemaShard.with { shard in
            let (first, second) = (NodeID(rawValue: 1)!, NodeID(rawValue: 2)!)
            let one = Epoch(rawValue: 1)
            let old = try await shard.connect(name: "meridian node 1 epoch 1")
            let lock = try await shard.connect(name: "meridian coordinator, node 1 epoch 1")
            _ = try await old.run(ShardSchema.raiseEpoch(of: first, to: one))
            _ = try await old.run(ShardSchema.openSession(node: first, epoch: one))
            let others = [
                "somebody", "meridian node 2 epoch 1", "meridian node 1 epoch 2", "meridian node 12 epoch 1",
                "meridian coordinator, node 2 epoch 1", "meridian recovery, node 1",
                "meridian node 99999999999999999999 epoch 99999999999999999999",
            ]
            var connections: [ShardConnection] = []
            for name in others { connections.append(try await shard.connect(name: name)) }
            let peer = connections[1]

            _ = try await peer.run(ShardSchema.fence(first, upTo: one))
            _ = try await peer.run(ShardSchema.endSessions(of: first, upTo: one))
            for ended in [old, lock] {
                await #expect(throws: ShardError.self) { try await ended.sql("SELECT 1") }
            }
            for connection in connections { try await connection.sql("SELECT 1") }

            let again = try await shard.connect(name: "meridian node 1 epoch 1")
            await expectRefusal(.objectNotInPrerequisiteState) {
                _ = try await again.run(ShardSchema.openSession(node: first, epoch: one))
            }
            _ = try await peer.run(ShardSchema.openSession(node: second, epoch: one))
            _ = try await peer.run(ShardSchema.openSession(node: first, epoch: Epoch(rawValue: 2)))
            for connection in [old, lock, again] + connections { await connection.close() }
        }
    }

    @Test("a shard knows each node's newest epoch, begun or fenced, and older ones open no session")
    func newestEpochs() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                func node(_ number: UInt16) -> NodeID { NodeID(rawValue: number)! }
                let told = [
                    ShardSchema.raiseEpoch(of: node(1), to: Epoch(rawValue: 5)),
                    ShardSchema.raiseEpoch(of: node(1), to: Epoch(rawValue: 4)),
                    ShardSchema.fence(node(1), upTo: Epoch(rawValue: 3)),
                    ShardSchema.fence(node(2), upTo: Epoch(rawValue: 7)),
                    ShardSchema.fence(node(2), upTo: Epoch(rawValue: 6)),
                ]
                for statement in told { _ = try await connection.run(statement) }
                let known = try await connection.run(ShardSchema.newestEpochs)
                #expect(try Set(known.map { "\(try $0.int64(0)): \(try $0.int64(1))" }) == ["1: 5", "2: 7"])
                _ = try await connection.run(ShardSchema.openSession(node: node(1), epoch: Epoch(rawValue: 5)))
                _ = try await connection.run(ShardSchema.openSession(node: node(2), epoch: Epoch(rawValue: 8)))
                for (number, epoch) in [(UInt16(1), Int64(4)), (2, 7), (2, 1)] {
                    await expectRefusal(.objectNotInPrerequisiteState) {
                        _ = try await connection.run(
                            ShardSchema.openSession(node: node(number), epoch: Epoch(rawValue: epoch)))
                    }
                }
            }
        }
    }

    @Test("a session of the role meridian makes its tables in public, not in the schema meridian")
    func searchPath() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql("CREATE TABLE t ()")
                #expect(try await connection.values("SELECT 't'::regclass::oid = 'public.t'::regclass::oid") == ["t"])
            }
        }
    }

    /// Returns once a session waits for a transaction's end.
    private func waits(_ shard: SchemaShard) async throws {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
        for _ in 0..<1000 {
            if try await shard.shard.psql(query) == "1" { return }
            try await Task.sleep(for: .milliseconds(5))
        }
        Issue.record("no session waits for a transaction's end")
    }
}
