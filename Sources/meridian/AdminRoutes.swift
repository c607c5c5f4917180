import AdminInterface
import Consensus
import Foundation
import Metadata
import PeerTransport
import ReplicatedMetadata
import SystemClock
import TransactionCore

/// What the admin interface answers.
struct AdminRoutes: Sendable {
    let node: NodeID
    let status: NodeStatus
    let clock: SystemBoundedClock
    /// What a request must know for the metadata.
    let token: String?
    /// Nil for a node that is alone.
    let metadata: RemoteMetadata?

    private static let patience = Duration.seconds(10)
    private var deadline: ContinuousClock.Instant { .now + Self.patience }

    func answer(_ request: AdminRequest) async -> AdminResponse {
        let words = request.path.split(separator: "/").map(String.init)
        switch (request.method, words.first, words.count) {
        case ("GET", nil, _):
            return .text("/health\n/ready\n/metrics\n/members\n/metadata/KEY\n/locks/NAME\n")
        case ("GET", "health", 1): return .text("ok\n")
        case ("GET", "ready", 1):
            let isReady = await status.isReady
            return .json("{\"node\":\(node),\"ready\":\(isReady)}", status: isReady ? 200 : 503)
        case ("GET", "metrics", 1):
            return AdminResponse(
                200, "text/plain; version=0.0.4; charset=utf-8",
                .whole(AdminSettings.registry.text(adding: await status.samples(clock))))
        case (_, "metadata", _), (_, "members", _), (_, "locks", _):
            if let refusal = refusal(of: request) { return refusal }
            do {
                return try await answer(request, words, metadata!)
            } catch {
                return Self.failure(error)
            }
        default:
            return Self.failure(404, "there is no \(request.method) \(request.path)", hint: "GET / lists what there is")
        }
    }

    /// Who may not look at the metadata: it has the users' verifiers, and decides who is a member.
    private func refusal(of request: AdminRequest) -> AdminResponse? {
        guard metadata != nil else {
            return Self.failure(404, "this node is alone: nothing is replicated", hint: "see \"cluster\"")
        }
        guard let token else {
            return Self.failure(
                403, "the metadata is not shown here", detail: "the configuration names no file in admin.token",
                hint: "name one, or use meridian metadata")
        }
        guard request.isLocal else {
            return Self.failure(
                403, "the metadata is shown to this machine alone", hint: "ask from there, or use meridian metadata")
        }
        let given = Array((request.token ?? "").utf8)
        let expected = Array(token.utf8)
        // Takes as long for a wrong one as for the right one.
        let difference = zip(given, expected).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) }
        guard given.count == expected.count, difference == 0 else {
            return Self.failure(
                401, "the token is missing or wrong", hint: "send the header Authorization: Bearer TOKEN")
        }
        return nil
    }

    private func answer(
        _ request: AdminRequest, _ words: [String], _ metadata: RemoteMetadata
    ) async throws -> AdminResponse {
        switch (request.method, words[0], words.count) {
        case ("GET", "metadata", _): return try await read(request, metadata)
        case ("PUT", "metadata", _), ("DELETE", "metadata", _): return try await change(request, metadata)
        case ("GET", "members", 1):
            let lines = try await MemberLine.all(metadata, deadline)
            return .json(try makeJSON(lines))
        case ("PUT", "members", 2), ("DELETE", "members", 2), ("POST", "members", 3):
            return try await changeMember(request, words, metadata)
        case ("POST", "locks", 2): return try lock(words[1], request, metadata)
        default:
            return Self.failure(
                405, "\(request.method) \(request.path) can't be done", hint: "GET / lists what there is")
        }
    }

    // MARK: Keys

    private func selection(_ request: AdminRequest) throws -> MetadataSelection {
        let text = request.path.dropFirst("/metadata".count)
        guard let selection = MetadataSelection(argument: text.isEmpty ? "/" : String(text)) else {
            throw MetadataError(
                .refused, "\(text) is no key and no prefix", hint: "one is like /notes/colour, or /notes/")
        }
        return selection
    }

    private func revision(_ text: String) throws -> Revision {
        guard let number = Int64(text) else { throw MetadataError(.refused, "\(text) is no revision") }
        return Revision(rawValue: number)
    }

    private func read(_ request: AdminRequest, _ metadata: RemoteMetadata) async throws -> AdminResponse {
        let selection = try selection(request)
        if request.query["watch"] != nil { return try await watch(selection, request, metadata) }
        switch selection {
        case .key(let key):
            let answer = try await metadata.read(.get(key), deadline: deadline)
            guard let entry = answer.entries.first else {
                return Self.failure(404, "there is no key \(key)", detail: "as of revision \(answer.revision)")
            }
            return .json(try EntryLine(entry).json)
        case .prefix(let prefix):
            return .lines { write in
                var pages = metadata.pages(of: prefix)
                while let entries = try await pages.next(deadline: .now + Self.patience) {
                    let lines = try entries.map { try EntryLine($0).json + "\n" }
                    if !lines.isEmpty { try await write(lines.joined()) }
                }
            }
        }
    }

    /// Every change as a line, until the client hangs up.
    private func watch(
        _ selection: MetadataSelection, _ request: AdminRequest, _ metadata: RemoteMetadata
    ) async throws -> AdminResponse {
        let after: Revision
        if let text = request.query["after"] {
            after = try revision(text)
        } else {
            after = try await metadata.read(selection.query, deadline: deadline).revision
        }
        return .lines { write in
            var watch = metadata.watch(selection, after: after)
            while true {
                do {
                    let changes = try await watch.next()
                    try await write(try changes.map { try EntryLine($0).json + "\n" }.joined())
                } catch let error as CompactedError {
                    // The head has been sent: what follows the last change can't be told any more.
                    let error = MetadataError(
                        .refused, "changes after revision \(watch.position) are not kept any more",
                        detail: "those after revision \(error.completeAfter) are")
                    return try await write(try Self.json(of: error) + "\n")
                }
            }
        }
    }

    private func change(_ request: AdminRequest, _ metadata: RemoteMetadata) async throws -> AdminResponse {
        guard case .key(let key) = try selection(request) else {
            throw MetadataError(.refused, "\(request.path) names no key", hint: "a key does not end with a /")
        }
        let transaction = MetadataTransaction(
            setting: key, to: request.method == "DELETE" ? nil : request.body,
            ifAbsent: request.query["if-absent"] != nil,
            ifRevision: try request.query["if-revision"].map(revision))
        let answer = try await NodeSession.with(metadata, clock: clock, deadline: deadline) { session in
            try await session.transaction(transaction, deadline: deadline)
        }
        guard answer.held else {
            return Self.failure(
                409, "\(key) was left as it is", detail: "it is not what the request says it to be",
                hint: "look at it by GET, and try again")
        }
        return .json("{\"revision\":\(answer.revision)}")
    }

    // MARK: Members

    private func changeMember(
        _ request: AdminRequest, _ words: [String], _ metadata: RemoteMetadata
    ) async throws -> AdminResponse {
        guard let node = NodeID(argument: words[1]) else {
            throw MetadataError(.refused, "\(words[1]) is no node's number", hint: "it is 1 to \(NodeID.maximum)")
        }
        switch (request.method, words.last) {
        case ("PUT", _):
            let text = String(decoding: request.body, as: UTF8.self)
            guard let address = PeerAddress(text.trimmingCharacters(in: .whitespacesAndNewlines)) else {
                throw MetadataError(
                    .refused, "\"\(text)\" is no address",
                    hint: "send where the other nodes find it, like 10.0.0.4:7432, as the body")
            }
            let record = NodeRecord(node, .joining, clientAddress: "-", peerAddress: address.description)
            try await metadata.add(record, clock: clock, deadline: deadline)
        case ("DELETE", _): try await metadata.remove(node, clock: clock, deadline: deadline)
        case (_, "promote"): try await metadata.change(.promote(node), deadline: deadline)
        case (_, "lead"): try await metadata.lead(node, deadline: deadline)
        default: throw MetadataError(.refused, "\(words[2]) can't be done to a member", hint: "promote and lead can")
        }
        return .json("{\"node\":\(node)}")
    }

    // MARK: Locks

    /// The lock is the client's for as long as it stays connected: its first line has the token.
    private func lock(
        _ name: String, _ request: AdminRequest, _ metadata: RemoteMetadata
    ) throws -> AdminResponse {
        guard let prefix = Contender.lock(name) else { throw MetadataError(.refused, "\"\(name)\" is no lock's name") }
        let holder = request.body.isEmpty ? Array("admin interface of node \(node)".utf8) : request.body
        return .lines { [clock] write in
            let session = try await NodeSession.open(
                on: metadata, duration: Self.patience, clock: clock, deadline: .now + Self.patience)
            do {
                let held = try await session.acquire(prefix, value: holder)
                try await write("{\"token\":\(held.token)}\n")
                while await session.isAlive { try await Task.sleep(for: .milliseconds(100)) }
                try await write(
                    try Self.json(of: MetadataError(.refused, "the lock could not be kept")) + "\n")
            } catch {
                // The client may have hung up, which has cancelled this task; its lock is to go at once.
                await Task { try? await session.close(deadline: .now + .seconds(2)) }.value
                throw error
            }
        }
    }

    // MARK: Failures

    private struct Failure: Encodable {
        var error: String
        var detail: String?
        var hint: String?
    }

    private static func failure(
        _ status: Int, _ message: String, detail: String? = nil, hint: String? = nil
    ) -> AdminResponse {
        .json((try? makeJSON(Failure(error: message, detail: detail, hint: hint))) ?? "{}", status: status)
    }

    private static func failure(_ error: any Error) -> AdminResponse {
        guard let error = error as? MetadataError else { return failure(500, "\(error)") }
        let status =
            switch error.kind {
            case .noLeader, .stopped: 503
            case .refused: 400
            case .tooLarge: 413
            case .failed: 500
            }
        return failure(status, error.message, detail: error.detail, hint: error.hint)
    }

    private static func json(of error: MetadataError) throws -> String {
        try makeJSON(Failure(error: error.message, detail: error.detail, hint: error.hint))
    }
}
