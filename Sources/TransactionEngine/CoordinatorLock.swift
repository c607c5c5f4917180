import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// The lock on one shard that makes its holder a coordinator: a session-level advisory lock, which PostgreSQL gives
/// back by itself when the holder dies.
///
/// Who coordinates alone holds it exclusively. Nodes that coordinate together share it, and each holds the lock of its
/// own number besides, so that no two processes are one node.
///
/// The lock keeps others *out*; what keeps a former coordinator, which lost its connection or was merely paused, from
/// finishing anything is the epoch (R6), raised by a successor that holds the lock on every shard.
struct CoordinatorLock: Sendable {
    let primary: ShardPrimary
    let settings: ConnectionSettings
    /// The holder, where several nodes coordinate.
    let own: Incarnation?

    var shard: ShardID { primary.shard }

    /// "MERI" in ASCII, and in its number space 1 for the coordinators and 1024 and above for the nodes.
    private static let space = 1_296_388_681
    private var ownNumber: Int? { own.map { 1024 + Int($0.node.rawValue) } }

    /// Connects and waits for the lock until `deadline`; returns the session that holds it.
    ///
    /// A process of the same node with an earlier epoch loses it, however it is: this one is its successor.
    func acquire(deadline: ContinuousClock.Instant) async throws(EngineStartError) -> ShardConnection {
        do throws(ShardError) {
            let connection = try await primary.connect(to: settings, isForClients: false, deadline: deadline)
            do throws(ShardError) {
                while try await !isGranted(connection, deadline: deadline) {
                    if let own {
                        let end = ShardSchema.endSessions(of: own.node, upTo: own.epoch.predecessor)
                        _ = try await connection.run([end], deadline: deadline + .seconds(5))
                    }
                    guard ContinuousClock.now < deadline else {
                        throw ShardError(.invalidUse, try await describeHolders(connection))
                    }
                    try? await primary.loop.sleep(until: .now + .milliseconds(50))
                }
                return connection
            } catch {
                // It may hold the lock by now.
                await connection.close()
                throw error
            }
        } catch  where error.kind == .invalidUse {
            throw EngineStartError(
                .objectNotInPrerequisiteState, "another coordinator holds shard \(shard)", detail: error.message,
                hint: "stop it first, or end its session if it hangs; "
                    + (own == nil
                        ? "this one would coordinate alone" : "it coordinates alone, or is this node in a later life"))
        } catch {
            throw EngineStartError(error, shard: shard)
        }
    }

    private func isGranted(
        _ connection: ShardConnection, deadline: ContinuousClock.Instant
    ) async throws(ShardError) -> Bool {
        let attempt =
            ownNumber.map { number in
                """
                CASE WHEN pg_try_advisory_lock_shared(\(Self.space), 1) \
                THEN pg_try_advisory_lock(\(Self.space), \(number)) ELSE false END
                """
            } ?? "pg_try_advisory_lock(\(Self.space), 1)"
        let statement = SQLStatement("SELECT \(attempt)")
        return try await connection.run([statement], deadline: deadline + .seconds(1))[0][0].bool(0)
    }

    private func describeHolders(_ connection: ShardConnection) async throws(ShardError) -> String {
        var holders: [String] = []
        for row in try await connection.run([holder], deadline: .now + .seconds(5))[0] {
            holders.append("\(try row.text(0)), connected from \(try row.text(1)) since \(try row.text(2))")
        }
        return holders.isEmpty ? "it has let go just now" : holders.joined(separator: "; ")
    }

    private var holder: SQLStatement {
        SQLStatement(
            """
            SELECT coalesce(nullif(a.application_name, ''), 'an unnamed session') || ' (process ' || a.pid || ')',
                coalesce(host(a.client_addr), 'this machine'), a.backend_start::timestamptz(0)::text
            FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE \(isInTheWay) ORDER BY 1
            """)
    }

    /// Of the row `l` of pg_locks.
    private var isInTheWay: String {
        let which = ownNumber.map { "(l.objid = 1 AND l.mode = 'ExclusiveLock' OR l.objid = \($0))" } ?? "l.objid = 1"
        return """
            l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = \(Self.space) AND \(which)
                AND l.pid <> pg_backend_pid()
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """
    }
}

extension Epoch {
    /// The one before.
    var predecessor: Epoch { Epoch(rawValue: rawValue - 1) }
}
