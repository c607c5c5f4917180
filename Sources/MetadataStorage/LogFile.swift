import Consensus
import Glibc

/// The system calls on which durability rests; tests have others.
struct FileCalls: Sendable {
    var write: @Sendable (Int32, UnsafeRawBufferPointer, Int) -> Int = { pwrite($0, $1.baseAddress, $1.count, $2) }
    var sync: @Sendable (Int32) -> Int32 = { fdatasync($0) }
}

/// A log that is being written: at most by one process, from one thread.
struct LogFile {
    /// The name that it has, or gets by ``LogDirectory/install(_:)``.
    let path: String
    let generation: UInt64
    /// How many bytes hold something.
    private(set) var byteCount: Int
    private let descriptor: Int32
    private var previous: UInt32
    /// Up to here the file has bytes, zeros at the end. To flush what replaces bytes that are there takes a third less
    /// time than to make the file longer by it (decision record 0013).
    private var spaceCount: Int
    private let calls: FileCalls

    private static let spaceStep = 1 << 20

    /// Makes the file under its temporary name, with `state` in it, durable.
    init(
        at path: String, _ header: LogHeader, state: DurableState, calls: FileCalls
    ) throws(StorageError) {
        self.path = path
        self.generation = header.generation
        self.calls = calls
        let temporary = LogDirectory.temporary(path)
        descriptor = open(temporary, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw StorageError.ofCall("could not create \(temporary)") }
        (byteCount, spaceCount, previous) = (0, 0, 0)
        do throws(StorageError) {
            try write(LogFrame.mark, at: 0)
            byteCount = LogFrame.mark.count
            try append(header.encoded)
            try append(RecordBatch.encode(state.firstBatch))
        } catch {
            discard()
            throw error
        }
    }

    func close() { Glibc.close(descriptor) }

    /// Ends a file that has only its temporary name.
    func discard() {
        close()
        unlink(LogDirectory.temporary(path))
    }

    /// Writes a payload and makes it durable. The file is of no use after an error: what the disk holds then is not
    /// known, and a later flush may succeed without the pages whose write has failed.
    mutating func append(_ payload: [UInt8]) throws(StorageError) {
        guard payload.count <= LogFrame.payloadBytesMax else {
            throw StorageError("records of \(payload.count) bytes are more than \(path) takes at once")
        }
        let (bytes, check) = LogFrame.make(payload, at: byteCount, previous: previous)
        try getSpace(upTo: byteCount + bytes.count)
        try write(bytes, at: byteCount)
        guard calls.sync(descriptor) == 0 else { throw StorageError.ofCall("could not flush \(path)") }
        byteCount += bytes.count
        previous = check
    }

    private mutating func getSpace(upTo end: Int) throws(StorageError) {
        guard end > spaceCount else { return }
        let target = (end / Self.spaceStep + 1) * Self.spaceStep
        let start = max(spaceCount, byteCount)
        try write([UInt8](repeating: 0, count: target - start), at: start)
        spaceCount = target
    }

    private func write(_ bytes: [UInt8], at offset: Int) throws(StorageError) {
        var written = 0
        while written < bytes.count {
            let count = bytes.withUnsafeBytes {
                calls.write(descriptor, UnsafeRawBufferPointer(rebasing: $0[written...]), offset + written)
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw StorageError.ofCall("could not write to \(path)") }
            written += count
        }
    }
}

extension StorageError {
    /// A system call has just failed.
    static func ofCall(_ message: String) -> StorageError {
        let code = errno
        let hint = code == ENOSPC || code == EDQUOT ? "make space on the disk, then start the node again" : nil
        return StorageError(message, detail: String(cString: strerror(code)), hint: hint)
    }
}
