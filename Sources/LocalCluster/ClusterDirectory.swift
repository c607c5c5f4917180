import Foundation
import Synchronization

/// The directory of a cluster, locked against other processes until ``release()``.
final class ClusterDirectory: Sendable {
    /// What is written down in a directory of ours.
    struct Record: Codable, Equatable {
        struct Shard: Codable, Equatable {
            var name: String
            var port: UInt16?
        }

        var shards: [Shard]
    }

    let path: String
    let isTemporary: Bool
    private let lock: Mutex<Int32?>

    /// Makes a temporary directory.
    init() throws {
        let base = ProcessInfo.processInfo.environment["TMPDIR"].flatMap { $0.isEmpty ? nil : $0 } ?? "/tmp"
        var template = Array("\(base)/meridian-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw LocalClusterError(
                "could not make a directory in \(base)", detail: String(cString: strerror(errno)),
                hint: "set TMPDIR to a directory that you can write to"
            )
        }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        isTemporary = true
        lock = Mutex(try Self.lock(path))
        Self.letServersIn(path)
    }

    /// Opens a kept directory or makes it. Throws ``LocalClusterError`` when it is not ours, or is in use.
    init(keptAt given: String) throws {
        path = URL(fileURLWithPath: given).standardizedFileURL.path
        isTemporary = false
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            throw LocalClusterError("could not make directory \(path)", detail: "\(error.localizedDescription)")
        }
        let isNew = try FileManager.default.contentsOfDirectory(atPath: path).isEmpty
        guard isNew || FileManager.default.fileExists(atPath: Self.recordPath(path)) else {
            throw LocalClusterError(
                "directory \(path) holds something else than a cluster of Meridian",
                hint: "give an empty directory, one that is not there yet, or one that was made by this command"
            )
        }
        lock = Mutex(try Self.lock(path))
        if isNew {
            Self.letServersIn(path)
            try write(Record(shards: []))
        }
    }

    deinit {
        release()
    }

    /// The shards that were written down last.
    func read() throws -> Record {
        do {
            let data = try Data(contentsOf: URL(fileURLWithPath: Self.recordPath(path)))
            return try JSONDecoder().decode(Record.self, from: data)
        } catch {
            throw LocalClusterError("could not read \(Self.recordPath(path))", detail: "\(error)")
        }
    }

    /// Writes the shards down, whole or not at all.
    func write(_ record: Record) throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try encoder.encode(record).write(to: URL(fileURLWithPath: Self.recordPath(path)), options: .atomic)
    }

    /// Gives the directory back; deletes a temporary one and all that is in it.
    func release() {
        guard let descriptor = lock.withLock({ $0.take() }) else { return }
        if isTemporary {
            // A process that was killed may make one more file while it dies: at most half a second of tries.
            for _ in 0..<50 {
                try? FileManager.default.removeItem(atPath: path)
                if !FileManager.default.fileExists(atPath: path) { break }
                usleep(10_000)
            }
        }
        close(descriptor)
    }

    private static func recordPath(_ path: String) -> String { "\(path)/cluster.json" }

    /// Takes the lock that the kernel gives back when this process ends, however it ends.
    private static func lock(_ path: String) throws -> Int32 {
        let descriptor = open("\(path)/cluster.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw LocalClusterError("could not open \(path)/cluster.lock", detail: String(cString: strerror(errno)))
        }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw LocalClusterError(
                "directory \(path) is in use by another process",
                hint: "stop that one first, or give another directory"
            )
        }
        return descriptor
    }

    /// Lets the servers' user through to its own directory, without letting anyone list this one.
    private static func letServersIn(_ path: String) {
        if geteuid() == 0 { chmod(path, 0o711) }
    }
}
