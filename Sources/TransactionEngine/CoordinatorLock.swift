import EventLoops
import Logging
import ShardBackend
import TransactionCore

/// The lock on one shard that makes its holder the coordinator: a session-level advisory lock, which PostgreSQL gives
/// back by itself when the holder dies.
///
/// The lock keeps a second coordinator *out*; what keeps a former one, which lost its connection or was merely paused,
/// from finishing anything is the epoch (R6), raised by a successor that holds the lock on every shard.
struct CoordinatorLock: Sendable {
    let primary: ShardPrimary
    let settings: ConnectionSettings

    var shard: ShardID { primary.shard }

    /// "MERI" in ASCII and 1: the two keys of the advisory lock.
    private static let keys = "1296388681, 1"

    /// Connects and waits for the lock until `deadline`; returns the session that holds it.
    ///
    /// - Parameter mayEvict: whether the holder's session is to be ended, because the caller has been elected in the
    ///   holder's place; asked each time.
    func acquire(
        deadline: ContinuousClock.Instant, mayEvict: @Sendable () async -> Bool = { false }
    ) async throws(EngineStartError) -> ShardConnection {
        do throws(ShardError) {
            let connection = try await primary.connect(to: settings, isForClients: false, deadline: deadline)
            do throws(ShardError) {
                while try await !isGranted(connection, deadline: deadline) {
                    if await mayEvict() {
                        _ = try await connection.run([Self.eviction], deadline: deadline + .seconds(1))
                    }
                    guard ContinuousClock.now < deadline else {
                        throw ShardError(.invalidUse, try await describeHolder(connection))
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
                hint: "stop it first, or end its session if it hangs; one coordinator at a time serves a cluster")
        } catch {
            throw EngineStartError(error, shard: shard)
        }
    }

    private func isGranted(
        _ connection: ShardConnection, deadline: ContinuousClock.Instant
    ) async throws(ShardError) -> Bool {
        let statement = SQLStatement("SELECT pg_try_advisory_lock(\(Self.keys))")
        return try await connection.run([statement], deadline: deadline + .seconds(1))[0][0].bool(0)
    }

    private func describeHolder(_ connection: ShardConnection) async throws(ShardError) -> String {
        let rows = try await connection.run([Self.holder], deadline: .now + .seconds(5))[0]
        guard let row = rows.first else { return "it has let go just now" }
        return "\(try row.text(0)), connected from \(try row.text(1)) since \(try row.text(2))"
    }

    private static let eviction = SQLStatement(
        """
        SELECT pg_terminate_backend(l.pid) FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
            AND (l.classid, l.objid) = (\(keys))
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """)

    private static let holder = SQLStatement(
        """
        SELECT coalesce(nullif(a.application_name, ''), 'an unnamed session') || ' (process ' || a.pid || ')',
            coalesce(host(a.client_addr), 'this machine'), a.backend_start::timestamptz(0)::text
        FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
            AND (l.classid, l.objid) = (\(keys)) AND l.database = a.datid AND a.datname = current_database()
        """)
}
