import Consensus
import EventLoops
import Logging

extension MetadataStorage {
    /// Opens a node's storage, or makes it: reads its log, and begins a new one with what that said.
    ///
    /// Beginning anew costs a file as large as the state; what a crash left at the old one's end is gone then, and
    /// everything counts as durable that is returned, whatever became of the flushes of the process before. Blocks.
    ///
    /// - Parameters:
    ///   - membership: who takes part from the first slot on; of a storage that is there its own counts.
    ///   - loop: where callbacks are called.
    /// - Returns: the storage, and what is durable in it.
    /// - Throws: when another process uses the directory, when it is another node's or cluster's, when the log is
    ///   corrupt, or the disk does not take another one.
    public static func open(
        directory path: String, identity: StorageIdentity, membership: Membership, callbacksOn loop: EventLoop,
        logger: Logger
    ) throws(StorageError) -> (storage: MetadataStorage, state: DurableState) {
        try open(
            directory: path, identity: identity, membership: membership, callbacksOn: loop, logger: logger,
            rewriting: LogThread.Rewriting(), calls: FileCalls())
    }

    static func open(
        directory path: String, identity: StorageIdentity, membership: Membership, callbacksOn loop: EventLoop,
        logger: Logger, rewriting: LogThread.Rewriting, calls: FileCalls
    ) throws(StorageError) -> (storage: MetadataStorage, state: DurableState) {
        let thread: EventLoop
        do {
            thread = try EventLoop(name: "meridian-log")
        } catch {
            throw StorageError("could not start the thread that writes the log", detail: "\(error)")
        }
        do throws(StorageError) {
            let directory = try LogDirectory(path)
            do throws(StorageError) {
                let state = try read(from: directory, identity, logger) ?? DurableState(membership: membership)
                let file = try beginLog(in: directory, identity, state, calls)
                let log = LogThread(
                    loop: thread, directory: directory, identity: identity, file: file, durable: state,
                    rewriting: rewriting, calls: calls, logger: logger)
                return (MetadataStorage(log: log, callbacksOn: loop), state)
            } catch {
                directory.unlock()
                throw error
            }
        } catch {
            thread.shutdown()
            throw error
        }
    }

    /// Puts a new log with `state` in the place of those that are there.
    private static func beginLog(
        in directory: LogDirectory, _ identity: StorageIdentity, _ state: DurableState, _ calls: FileCalls
    ) throws(StorageError) -> LogFile {
        let generations = try directory.generations()
        let header = LogHeader(identity: identity, generation: (generations.last ?? 0) + 1)
        let file = try LogFile(
            at: directory.path(ofGeneration: header.generation), header, state: state, calls: calls)
        do throws(StorageError) {
            try directory.install(file)
        } catch {
            file.close()
            throw error
        }
        for generation in generations { directory.remove(generation: generation) }
        return file
    }

    /// What the newest log says; nil where there is none.
    private static func read(
        from directory: LogDirectory, _ identity: StorageIdentity, _ logger: Logger
    ) throws(StorageError) -> DurableState? {
        guard let generation = try directory.generations().last else { return nil }
        let path = directory.path(ofGeneration: generation)
        let contents = try LogContents(try LogDirectory.read(path), path: path)
        let found = contents.header.identity
        guard found == identity else {
            throw StorageError(
                "\(path) belongs to another node or cluster",
                detail: "it is node \(found.node)'s of cluster \(found.cluster), and this is node \(identity.node) of "
                    + "cluster \(identity.cluster)",
                hint: "each node needs a directory of its own")
        }
        guard contents.header.generation == generation else {
            throw StorageError("\(path) was renamed", detail: "its generation is \(contents.header.generation)")
        }
        if contents.tornBytes > 0 {
            logger.warning(
                "a crash interrupted the last write to the log; it was answered to nobody and is left out",
                metadata: ["path": "\(path)", "bytes": "\(contents.tornBytes)"])
        }
        return contents.state
    }
}
