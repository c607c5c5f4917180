import Consensus
import EventLoops
import Logging
import Synchronization

/// A node's durable records: a log on disk that one thread of its own writes.
///
/// Records that are handed in while others are being flushed share the next flush, however many there are.
public final class MetadataStorage: Sendable {
    /// What became of records that were handed in.
    public typealias Outcome = Result<Void, StorageError>

    private struct Request {
        let records: [DurableRecord]
        let whenDurable: @Sendable (Outcome) -> Void
    }

    private struct Waiting {
        var requests: [Request] = []
        var isBeingWritten = false
        var isClosed = false
    }

    private let waiting = Mutex(Waiting())
    private let log: LogThread
    private let loop: EventLoop

    init(log: LogThread, callbacksOn loop: EventLoop) {
        self.log = log
        self.loop = loop
    }

    /// Hands in records; they come after all earlier ones. From any thread.
    ///
    /// - Parameter whenDurable: is called on the event loop, in the order of the calls, once these records and all
    ///   earlier ones are durable. After a failure every call fails, for ever: it is not known what the disk holds, and
    ///   the node must be started again.
    public func append(
        _ records: [DurableRecord], whenDurable: @escaping @Sendable (Outcome) -> Void = { _ in }
    ) {
        let isClosed = waiting.withLock { waiting in
            guard !waiting.isClosed else { return true }
            waiting.requests.append(Request(records: records, whenDurable: whenDurable))
            if !waiting.isBeingWritten { log.execute { self.writeWaiting() } }
            waiting.isBeingWritten = true
            return false
        }
        if isClosed { loop.execute { whenDurable(.failure(StorageError("the storage is closed"))) } }
    }

    /// Ends when everything that was handed in is written and another process may use the directory.
    public func close() async {
        waiting.withLock { $0.isClosed = true }
        log.execute { self.writeWaiting() }
        await log.close()
    }

    private func writeWaiting() {
        let requests = waiting.withLock { waiting in
            defer { waiting.requests = [] }
            waiting.isBeingWritten = !waiting.requests.isEmpty
            return waiting.requests
        }
        guard !requests.isEmpty else { return }
        let outcome = log.write(requests.flatMap(\.records))
        loop.execute { for request in requests { request.whenDurable(outcome) } }
        // Behind the end of a rewriting, which may wait for its turn.
        log.execute { self.writeWaiting() }
    }
}

/// The thread that writes a log, and what only it touches.
///
/// It is an event loop of its own, the only one whose work may block: nothing else runs there.
final class LogThread: @unchecked Sendable {
    /// When a log is written anew.
    struct Rewriting: Sendable {
        /// Not below so many bytes.
        var bytesMin = 4 << 20
        /// When it has grown to so many times what it began with.
        var factor = 4
    }

    private enum State {
        case open(LogFile)
        case failed(StorageError)
        case closed
    }

    private let loop: EventLoop
    private let directory: LogDirectory
    private let identity: StorageIdentity
    private let rewriting: Rewriting
    private let calls: FileCalls
    private let logger: Logger

    private var state: State
    /// All that the log says.
    private var durable: DurableState
    /// How large the log may become.
    private var rewriteAt: Int
    /// What was appended since another thread began to write the log anew; nil when none does.
    private var meanwhile: [DurableRecord]?
    private var closing: UnsafeContinuation<Void, Never>?

    init(
        loop: EventLoop, directory: LogDirectory, identity: StorageIdentity, file: LogFile, durable: DurableState,
        rewriting: Rewriting, calls: FileCalls, logger: Logger
    ) {
        self.loop = loop
        self.directory = directory
        self.identity = identity
        self.rewriting = rewriting
        self.calls = calls
        self.logger = logger
        self.state = .open(file)
        self.durable = durable
        rewriteAt = rewriting.sizeMax(from: file.byteCount)
    }

    func execute(_ body: @escaping @Sendable () -> Void) { loop.execute(body) }

    /// Appends records and makes them durable. On the thread.
    func write(_ records: [DurableRecord]) -> MetadataStorage.Outcome {
        switch state {
        case .closed: return .failure(StorageError("the storage is closed"))
        case .failed(let error): return .failure(error)
        case .open(var file):
            guard !records.isEmpty else { return .success(()) }
            do throws(StorageError) {
                try file.append(RecordBatch.encode(records))
            } catch {
                return .failure(fail(error, file))
            }
            state = .open(file)
            for record in records { durable.append(record) }
            meanwhile?.append(contentsOf: records)
            if file.byteCount > rewriteAt { rewrite(file) }
            return .success(())
        }
    }

    private func fail(_ error: StorageError, _ file: LogFile) -> StorageError {
        logger.critical("storage failed: the node must be started again", metadata: ["error": "\(error)"])
        file.close()
        state = .failed(error)
        return error
    }

    // MARK: Writing the log anew

    /// Has another thread write the state into a new file; records go to the old one meanwhile.
    private func rewrite(_ file: LogFile) {
        guard meanwhile == nil, closing == nil, let writer = try? EventLoop(name: "meridian-rewrite") else { return }
        meanwhile = []
        let header = LogHeader(identity: identity, generation: file.generation + 1)
        let path = directory.path(ofGeneration: header.generation)
        let (durable, calls) = (durable, calls)
        writer.execute { [self] in
            let result = Result { () throws(StorageError) in
                try LogFile(at: path, header, state: durable, calls: calls)
            }
            loop.execute { self.rewritten(result) }
            writer.shutdown()
        }
    }

    private func rewritten(_ result: Result<LogFile, StorageError>) {
        let records = meanwhile ?? []
        meanwhile = nil
        defer { finishClosing() }
        guard case .open(let old) = state else { return result.discard() }
        let size = (try? result.get())?.byteCount ?? old.byteCount
        rewriteAt = rewriting.sizeMax(from: size)
        var new: LogFile
        do throws(StorageError) {
            new = try result.get()
            if !records.isEmpty { try new.append(RecordBatch.encode(records)) }
        } catch {
            // Nothing is lost, only space: the old log goes on.
            logger.warning("the log could not be written anew", metadata: ["error": "\(error)"])
            return result.discard()
        }
        do throws(StorageError) {
            try directory.install(new)
        } catch {
            new.close()
            return _ = fail(error, old)
        }
        state = .open(new)
        old.close()
        directory.remove(generation: old.generation)
        logger.debug("log written anew", metadata: ["before": "\(old.byteCount)", "after": "\(new.byteCount)"])
    }

    // MARK: The end

    func close() async {
        await withUnsafeContinuation { continuation in
            loop.execute { [self] in
                closing = continuation
                if meanwhile == nil { finishClosing() }
            }
        }
    }

    private func finishClosing() {
        guard let closing else { return }
        if case .open(let file) = state { file.close() }
        state = .closed
        directory.unlock()
        self.closing = nil
        loop.shutdown()
        closing.resume()
    }
}

extension LogThread.Rewriting {
    func sizeMax(from byteCount: Int) -> Int { max(bytesMin, factor * byteCount) }
}

extension Result where Success == LogFile {
    /// Deletes the file, if there is one: it has no name yet that counts.
    fileprivate func discard() {
        (try? get())?.discard()
    }
}
