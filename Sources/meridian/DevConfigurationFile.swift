import Foundation
import TransactionCore

/// The configuration file that a `meridian dev` leaves for this user's other commands while it runs.
///
/// It is locked for as long as its process lives, so that the file of one that was killed is told from one in use.
final class DevConfigurationFile: Sendable {
    let path: String
    private let descriptor: Int32

    /// Writes the file, readable by this user only.
    init(_ configuration: ClusterConfiguration, uncertainty: Duration) throws {
        var unfinished = ""
        var descriptor: Int32 = -1
        // Another one that ends may take the empty directory away before there is a file in it.
        for _ in 0..<3 where descriptor < 0 {
            try Self.makeDirectory()
            // Written and locked under another name first, so that nobody finds it half-written or unlocked.
            unfinished = "\(Self.directory)/\(getpid()).unfinished"
            unlink(unfinished)
            descriptor = open(unfinished, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        }
        path = "\(Self.directory)/dev-\(getpid()).yaml"
        self.descriptor = descriptor
        let text = Array(Self.text(configuration, uncertainty: uncertainty).utf8)
        guard descriptor >= 0, flock(descriptor, LOCK_EX | LOCK_NB) == 0,
            write(descriptor, text, text.count) == text.count, rename(unfinished, path) == 0
        else {
            throw ConfigurationError("could not write \(path)", detail: String(cString: strerror(errno)))
        }
    }

    /// Deletes the file, and the directory when it was the last.
    func remove() {
        unlink(path)
        rmdir(Self.directory)
    }

    deinit {
        close(descriptor)
    }

    /// The files of the processes that run now; those of dead ones are deleted.
    static func running() throws -> [String] {
        guard try isDirectoryOurs() else { return [] }
        let names = try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
        return names.filter { $0.hasPrefix("dev-") && $0.hasSuffix(".yaml") }.map { "\(directory)/\($0)" }
            .filter { path in
                let descriptor = open(path, O_RDONLY | O_CLOEXEC)
                guard descriptor >= 0 else { return false }
                defer { close(descriptor) }
                guard flock(descriptor, LOCK_SH | LOCK_NB) == 0 else { return true }
                unlink(path)
                return false
            }
    }

    /// This user's own directory: in XDG_RUNTIME_DIR, else in /tmp, where somebody else may have made it before.
    private static let directory: String = {
        let runtime = ProcessInfo.processInfo.environment["XDG_RUNTIME_DIR"].flatMap { $0.isEmpty ? nil : $0 }
        return runtime.map { "\($0)/meridian" } ?? "/tmp/meridian-\(geteuid())"
    }()

    private static func makeDirectory() throws {
        mkdir(directory, 0o700)
        guard try isDirectoryOurs() else {
            throw ConfigurationError("could not make \(directory)", detail: String(cString: strerror(errno)))
        }
    }

    /// Whether the directory is there. Throws when it is not this user's alone.
    private static func isDirectoryOurs() throws -> Bool {
        var status = stat()
        guard lstat(directory, &status) == 0 else { return false }
        guard status.st_mode & S_IFMT == S_IFDIR, status.st_uid == geteuid(), status.st_mode & 0o077 == 0 else {
            throw ConfigurationError(
                "\(directory) is not a directory that only this user can enter",
                detail: "what other users can write there would decide which shards are used",
                hint: "remove it, or set XDG_RUNTIME_DIR"
            )
        }
        return true
    }

    /// A configuration file with what differs from the defaults.
    static func text(_ configuration: ClusterConfiguration, uncertainty: Duration) -> String {
        let shards = configuration.engine.shards.map { shard in
            "  - name: \(shard.id)\n    conninfo: \(shard.conninfo)\n"
        }
        return """
            node: \(configuration.engine.node)
            \(configuration.replication.map(Self.text) ?? "")gateway:
              listen: \(configuration.gateway.host):\(configuration.gateway.port)
            clock:
              source: host
              uncertainty: \(DurationArgument(uncertainty))
            shards:
            \(shards.joined())
            """
    }

    private static func text(_ replication: ReplicationSettings) -> String {
        let nodes = replication.founders.keys.sorted().map { node in
            "    - node: \(node)\n      address: \"\(replication.founders[node]!)\"\n"
        }
        return """
            cluster:
              name: \(replication.name)
              listen: "\(replication.listen)"
              directory: \(replication.directory)
              nodes:
            \(nodes.joined())
            """
    }
}
