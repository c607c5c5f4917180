import EventLoops
import ShardBackend
import Synchronization
import TransactionCore

/// What a shard sends piece by piece: rows of a statement, or the data of a COPY.
public protocol ShardPieces: Sendable {
    associatedtype Piece: ShardPiece
    /// What is known before the first piece.
    associatedtype Head: Sendable

    var head: Head { get }

    /// What has arrived, once there is something; nil after the piece with the ending.
    func nextBatch() async throws(ShardError) -> Piece?
}

/// Something that has arrived.
public protocol ShardPiece: Sendable {
    /// How the statement ended; nil while more may come.
    var ending: SQLResult? { get }
}

extension SQLRowStream: ShardPieces {
    public var head: Void { () }
}

extension CopyOutStream: ShardPieces {
    public var head: CopyFormat { format }
}

extension SQLRowBatch: ShardPiece {}
extension CopyOutBatch: ShardPiece {}

/// What a statement sends from one shard, as it arrives: nothing is asked of the shard faster than it is taken here.
///
/// To be read by one task at a time. It has a shard's session to itself until it is read to its end or let go of, which
/// stops the statement.
public actor ShardStream<Pieces: ShardPieces> {
    public nonisolated let shard: ShardID
    public nonisolated let head: Pieces.Head
    private let loop: EventLoop
    private var pieces: Pieces?
    /// The first piece was waited for before anyone asked.
    private var first: Pieces.Piece?
    private let tenure: StreamTenure
    /// Makes of a piece what the caller is to see.
    private let translation: Translation

    public typealias Translation = @Sendable (Pieces.Piece) async throws(TransactionError) -> Pieces.Piece

    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// Waits for the first piece: the statement has its snapshot then, and most errors have been told.
    ///
    /// - Parameter tenure: what holds the session; it is told how the stream ended.
    init(
        _ pieces: Pieces, from shard: ShardID, on loop: EventLoop, tenure: StreamTenure,
        _ translation: @escaping Translation = { (piece) throws(TransactionError) in piece }
    ) async throws(TransactionError) {
        (self.shard, self.loop, self.tenure, self.translation) = (shard, loop, tenure, translation)
        head = pieces.head
        let first: Pieces.Piece?
        do throws(ShardError) {
            first = try await pieces.nextBatch()
            self.pieces = pieces
        } catch {
            throw tenure.failed(TransactionError(error, shard: shard))
        }
        if let first { self.first = try await translation(first) }
    }

    /// The first piece, which ``next()`` returns first, too.
    public var firstPiece: Pieces.Piece? { first }

    /// The next piece, nil after the one with the ending.
    public func next() async throws(TransactionError) -> Pieces.Piece? {
        var piece: Pieces.Piece?
        if let waiting = first {
            (piece, first) = (waiting, nil)
        } else if let pieces {
            do throws(ShardError) {
                piece = try await pieces.nextBatch()
            } catch {
                self.pieces = nil
                throw tenure.failed(TransactionError(error, shard: shard))
            }
            if let raw = piece { piece = try await translation(raw) }
        } else {
            return nil
        }
        if piece?.ending != nil {
            pieces = nil
            tenure.end(.complete)
        }
        return piece
    }
}

/// A stream's hold on a session. Ends once: when the stream does, at the latest when it is let go of.
final class StreamTenure: Sendable {
    enum End: Sendable {
        case complete
        case failed(TransactionError)
        /// Nobody wants the rest. The statement is being stopped.
        case abandoned
    }

    /// Returns what the error means to the transaction.
    typealias Action = @Sendable (End) -> TransactionError?

    private let action: Mutex<Action?>

    init(_ action: @escaping Action) {
        self.action = Mutex(action)
    }

    func end(_ end: End) {
        _ = takeAction()?(end)
    }

    /// The stream failed; returns what to throw.
    func failed(_ error: TransactionError) -> TransactionError {
        takeAction()?(.failed(error)) ?? error
    }

    private func takeAction() -> Action? {
        action.withLock { action in
            defer { action = nil }
            return action
        }
    }

    deinit {
        end(.abandoned)
    }
}
