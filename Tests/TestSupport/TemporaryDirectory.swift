import Foundation

/// An empty directory that is deleted when the last reference to it goes; servers of another user may go through it.
public final class TemporaryDirectory: Sendable {
    /// Its absolute path.
    public let path: String

    /// Makes one.
    public init() throws {
        path = FileManager.default.temporaryDirectory.path + "/meridian-test-\(UUID().uuidString)"
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o755]
        )
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }
}
