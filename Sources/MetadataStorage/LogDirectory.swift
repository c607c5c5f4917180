import Foundation

/// A node's directory: its log, and a file whose lock keeps other processes out. One log at a time counts, that of the
/// largest generation.
struct LogDirectory {
    private let path: String
    private let lock: Int32

    /// Makes the directory where it is not there, and locks it.
    init(_ path: String) throws(StorageError) {
        self.path = path
        if mkdir(path, 0o700) == 0 {
            try Self.sync(URL(fileURLWithPath: path).deletingLastPathComponent().path)
        } else if errno != EEXIST {
            throw StorageError.ofCall("could not make the directory \(path)")
        }
        lock = open("\(path)/lock", O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        guard lock >= 0 else { throw StorageError.ofCall("could not open \(path)/lock") }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            let isTaken = errno == EWOULDBLOCK
            let error = StorageError.ofCall("could not lock \(path)/lock")
            close(lock)
            throw isTaken
                ? StorageError(
                    "another process uses \(path)", detail: "it has locked the file \(path)/lock",
                    hint: "is the node running already?") : error
        }
    }

    /// Lets other processes in.
    func unlock() { close(lock) }

    /// Where the log of a generation is.
    func path(ofGeneration generation: UInt64) -> String { "\(path)/log.\(generation)" }

    /// A log that does not count yet.
    static func temporary(_ path: String) -> String { "\(path).new" }

    /// The generations of the logs that are there, smallest first.
    func generations() throws(StorageError) -> [UInt64] {
        let names: [String]
        do {
            names = try FileManager.default.contentsOfDirectory(atPath: path)
        } catch {
            throw StorageError("could not list the directory \(path)", detail: "\(error)")
        }
        return names.filter { $0.hasPrefix("log.") }.compactMap { UInt64($0.dropFirst(4)) }.sorted()
    }

    /// Everything that a file holds.
    static func read(_ path: String) throws(StorageError) -> [UInt8] {
        do {
            return [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
        } catch {
            throw StorageError("could not read \(path)", detail: "\(error)")
        }
    }

    /// Lets a log count from now on, instead of every older one. After an error it is not known which one does.
    func install(_ file: LogFile) throws(StorageError) {
        guard rename(LogDirectory.temporary(file.path), file.path) == 0 else {
            throw StorageError.ofCall("could not rename \(LogDirectory.temporary(file.path))")
        }
        try Self.sync(path)
    }

    /// Deletes the log of a generation that counts no more; where it stays, the next one to open the directory does.
    func remove(generation: UInt64) { unlink(path(ofGeneration: generation)) }

    private static func sync(_ directory: String) throws(StorageError) {
        let descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw StorageError.ofCall("could not open \(directory)") }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw StorageError.ofCall("could not flush \(directory)") }
    }
}
