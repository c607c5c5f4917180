import ShardBackend
import ShardSchema
import TransactionCore

extension TransactionEngine {
    /// Opens a connection to `shard` that is the caller's alone, to listen by; it is closed with the engine at the
    /// latest.
    public func openListener(
        on shard: ShardID, _ handlers: ShardConnection.Handlers
    ) async throws(TransactionError) -> ShardConnection {
        let settings: ConnectionSettings
        do throws(EngineStartError) {
            settings = try configuration.settings(of: shard, epoch: epoch)
        } catch {
            throw TransactionError(.connectionFailure, error.message, shard: shard)
        }
        do throws(ShardError) {
            let deadline = ContinuousClock.now + settings.connectTimeout
            let connection = try await primaries[shard]!.connect(
                to: settings, isForClients: true, deadline: deadline, handlers: handlers)
            let open = ShardSchema.openSession(node: configuration.node, epoch: epoch)
            do throws(ShardError) { _ = try await connection.run([open], deadline: deadline) } catch {
                await connection.close()
                throw error
            }
            listeners.append(connection)
            return connection
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }
}
