import Foundation
import Testing

/// A text file of the repository.
struct RepositoryFile: Sendable {
    /// From the repository's root, with `/`.
    var path: String
    var text: String
    var isExecutable = false

    var name: String { String(path.split(separator: "/").last ?? "") }

    /// What follows the name's last dot; empty for a name without one.
    var fileExtension: String {
        let parts = name.split(separator: ".", omittingEmptySubsequences: false)
        return parts.count > 1 ? String(parts[parts.count - 1]) : ""
    }

    var isSwift: Bool { fileExtension == "swift" }

    /// The target under `Sources` that the file belongs to, if it is Swift code of one.
    var target: String? {
        let parts = path.split(separator: "/")
        return isSwift && parts.count > 2 && parts[0] == "Sources" ? String(parts[1]) : nil
    }

    var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
}

/// The tree that these tests were built from.
enum Repository {
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// Every text file that git tracks, or would.
    static let files: [RepositoryFile] = paths().compactMap { path in
        let url = root.appending(path: path)
        guard let data = try? Data(contentsOf: url), let text = String(data: data, encoding: .utf8) else { return nil }
        let attributes = try? FileManager.default.attributesOfItem(atPath: url.path)
        let permissions = attributes?[.posixPermissions] as? Int ?? 0
        return RepositoryFile(path: path, text: text, isExecutable: permissions & 0o111 != 0)
    }

    private static func paths() -> [String] {
        let git = Process()
        let output = Pipe()
        git.executableURL = URL(filePath: "/usr/bin/env")
        // The tree may belong to another user than the one who runs the tests, as in a container.
        git.arguments = [
            "git", "-c", "safe.directory=*", "-C", root.path, "ls-files", "-z", "--cached", "--others",
            "--exclude-standard",
        ]
        git.standardOutput = output
        git.standardError = FileHandle.nullDevice
        do { try git.run() } catch { return walkedPaths() }
        let data = output.fileHandleForReading.readDataToEndOfFile()
        git.waitUntilExit()
        guard git.terminationStatus == 0 else { return walkedPaths() }
        return data.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
    }

    /// For a tree without git: every file but the hidden directories' that are not ours.
    private static func walkedPaths() -> [String] {
        let paths = FileManager.default.enumerator(atPath: root.path)?.compactMap { $0 as? String } ?? []
        return paths.filter { path in
            !path.hasPrefix(".build") && !path.hasPrefix(".git/") && path != "Package.resolved"
        }
    }
}

/// A rule on one file: what breaks it, in words; nothing when the file keeps it.
typealias FileRule = (RepositoryFile) -> [String]

/// Holds every file of the repository to `rule`, after showing that the rule catches each of `broken`.
func check(_ rule: FileRule, catches broken: [RepositoryFile], accepts sound: [RepositoryFile] = []) {
    for file in broken {
        #expect(!rule(file).isEmpty, "the rule misses \(file.path): \(file.text.prefix(80))")
    }
    for file in sound {
        #expect(rule(file) == [], "\(file.path): \(file.text.prefix(80))")
    }
    for file in Repository.files {
        for violation in rule(file) {
            Issue.record("\(file.path): \(violation)")
        }
    }
}

func makeFile(_ path: String, _ text: String) -> RepositoryFile { RepositoryFile(path: path, text: text) }
