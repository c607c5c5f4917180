import Foundation

/// The programs of one installed PostgreSQL server.
public struct PostgresInstallation: Hashable, Sendable {
    /// The oldest major version that Meridian is tested with.
    public static let majorVersionMin = 15

    /// The directory of `postgres` and `initdb`.
    public let binaryDirectory: String
    /// The major version, like 15.
    public let majorVersion: Int

    /// Finds the newest installed PostgreSQL, or one of `majorVersion`: in PATH, where `pg_config` says, and in
    /// Debian's /usr/lib/postgresql. Throws ``LocalClusterError`` naming the package to install when there is none.
    public static func find(majorVersion wanted: Int? = nil) throws -> PostgresInstallation {
        let installed = candidateDirectories().compactMap(installation(in:))
        let fitting = installed.filter {
            wanted == nil ? $0.majorVersion >= majorVersionMin : $0.majorVersion == wanted
        }
        if let newest = fitting.max(by: { $0.majorVersion < $1.majorVersion }) { return newest }

        let version = wanted.map { "\($0)" } ?? "\(majorVersionMin) or newer"
        let found = Set(installed.map(\.majorVersion)).sorted().map { "\($0)" }.joined(separator: ", ")
        let places = "looked in PATH, pg_config --bindir and /usr/lib/postgresql/*/bin"
        throw LocalClusterError(
            "could not find the programs of a PostgreSQL \(version) server",
            detail: found.isEmpty ? places : "\(places); found only \(found)",
            hint: wanted.map { "install it: apt-get install postgresql-\($0)" }
                ?? "install it: apt-get install postgresql, or put a directory with initdb and postgres into PATH"
        )
    }

    /// The absolute path of a program.
    func program(_ name: String) -> String { "\(binaryDirectory)/\(name)" }

    private static func candidateDirectories() -> [String] {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
        let debian = "/usr/lib/postgresql"
        let versions = (try? FileManager.default.contentsOfDirectory(atPath: debian)) ?? []
        return path.split(separator: ":").map(String.init) + [output(of: "pg_config --bindir")]
            + versions.map { "\(debian)/\($0)/bin" }
    }

    private static func installation(in directory: String) -> PostgresInstallation? {
        let programs = ["initdb", "postgres"].map { "\(directory)/\($0)" }
        guard directory.hasPrefix("/"), programs.allSatisfy(FileManager.default.isExecutableFile(atPath:)) else {
            return nil
        }
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", or "16beta2" for the second word of a beta.
        let words = output(of: "'\(directory)/postgres' --version").split(separator: " ")
        guard words.count > 2, let version = Int(words[2].prefix(while: \.isNumber)) else { return nil }
        // A link in PATH leads to the directory that has the other programs too.
        let real = URL(fileURLWithPath: programs[1]).resolvingSymlinksInPath().deletingLastPathComponent().path
        return PostgresInstallation(binaryDirectory: real, majorVersion: version)
    }

    /// The first line that a shell command prints, empty when it fails.
    private static func output(of command: String) -> String {
        guard let pipe = popen("\(command) 2>/dev/null", "r") else { return "" }
        defer { pclose(pipe) }
        var line = [CChar](repeating: 0, count: 4096)
        guard fgets(&line, Int32(line.count), pipe) != nil else { return "" }
        return String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            .trimmingCharacters(in: .whitespacesAndNewlines)
    }
}

/// The user that servers run as when we are root, which PostgreSQL refuses to run as.
struct ServerUser: Hashable, Sendable {
    let userID: uid_t
    let groupID: gid_t

    /// The owner of the server that is there already, else `postgres`, else a user that every system has; nil when we
    /// are not root and servers run as who we are.
    static func current(ownerOf directory: String) throws -> ServerUser? {
        guard geteuid() == 0 else { return nil }
        var status = stat()
        if stat(directory, &status) == 0, status.st_uid != 0 {
            return ServerUser(userID: status.st_uid, groupID: status.st_gid)
        }
        for name in ["postgres", "nobody"] {
            if let entry = getpwnam(name) {
                return ServerUser(userID: entry.pointee.pw_uid, groupID: entry.pointee.pw_gid)
            }
        }
        throw LocalClusterError(
            "PostgreSQL does not run as root, and there is no user for it",
            detail: "looked for postgres and nobody",
            hint: "run this as another user, or make one: useradd --system postgres"
        )
    }
}
