import Logging
public actor ConnectionPool {
    let settings: ConnectionSettings; let bound: Int; nonisolated let loop: EventLoop
    let onConnect: (@Sendable (ShardConnection) async throws(ShardError) -> Void)?
    var idle: [ShardConnection] = []; var open = 0
    var waiters: [UnsafeContinuation<Void, Never>] = []
    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }
    public init(settings: ConnectionSettings, bound: Int, on loop: EventLoop, label: String, logger: Logger,
        onConnect: (@Sendable (ShardConnection) async throws(ShardError) -> Void)? = nil) {
        self.settings = settings; self.bound = bound; self.loop = loop; self.onConnect = onConnect
    }
    public func lease(deadline: ContinuousClock.Instant) async throws(ShardError) -> ShardConnection {
        while true {
            while let c = idle.popLast() { if await c.isOpen { return c } else { open -= 1 } }
            if open < bound {
                open += 1
                do throws(ShardError) {
                    let c = try await ShardConnection.connect(to: settings, on: loop, deadline: deadline)
                    try await onConnect?(c)
                    return c
                } catch { open -= 1; throw error }
            }
            await withUnsafeContinuation { waiters.append($0) }
        }
    }
    public func giveBack(_ c: ShardConnection) async {
        let status = await c.transactionStatus
        if status == .idle { idle.append(c) } else { await c.close(); open -= 1 }
        if !waiters.isEmpty { waiters.removeFirst().resume() }
    }
    public func close() async { for c in idle { await c.close() }; idle = [] }
}
