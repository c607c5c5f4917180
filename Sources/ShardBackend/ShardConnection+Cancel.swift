import CLibPQ

extension ShardConnection {
    /// How long to wait before the server is told again, because it had not begun when it was told first.
    private static let cancelRetryInterval = Duration.milliseconds(100)

    /// Tells the server to stop what it runs for this connection.
    ///
    /// libpq does that over a connection of its own and blocks until the server has closed it, so it gets a thread; a
    /// server that hangs holds at most one such thread for each connection it had accepted before. Nothing is sent
    /// until it is done, since the request would stop that instead.
    func sendCancelRequest() {
        guard !isCancelUnderWay, let handle, let request = PQgetCancel(handle.pointer) else { return }
        let address = UInt(bitPattern: request)
        isCancelUnderWay = BlockingCall.run { [self] in
            let request = OpaquePointer(bitPattern: address)
            var message = [CChar](repeating: 0, count: 256)
            _ = PQcancel(request, &message, Int32(message.count))
            PQfreeCancel(request)
            loop.execute { [self] in
                onLoop { $0.cancelRequestEnded() }
            }
        }
        // Without a thread the server is not told, and the connection is closed when its grace is over.
        if !isCancelUnderWay { PQfreeCancel(request) }
    }

    private func cancelRequestEnded() {
        isCancelUnderWay = false
        guard isOpen else { return }
        if let front = inFlight.first, front.interruption != nil {
            loop.schedule(at: .now + Self.cancelRetryInterval) { [self] in
                onLoop { connection in
                    if connection.inFlight.first === front { connection.sendCancelRequest() }
                }
            }
        } else {
            cancelExpiry = nil
        }
        sendWaiting()
    }
}
