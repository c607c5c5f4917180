import CLibPQ

/// Owns a libpq connection. It is used only on the loop of the actor that has it, and freed with it.
final class LibPQHandle: @unchecked Sendable {
    /// What ``takeResult()`` found.
    enum Taken {
        /// The caller has to clear it.
        case result(OpaquePointer)
        /// What was asked for is answered: the Sync of a pipeline, or the end of what else was sent.
        case end
        /// The rest has not arrived yet, or is not wanted yet.
        case nothing
        /// libpq and the server no longer agree on what comes next.
        case disorder
    }

    let pointer: OpaquePointer

    init(_ pointer: OpaquePointer) {
        self.pointer = pointer
    }

    deinit {
        PQfinish(pointer)
    }

    var socket: Int32 { PQsocket(pointer) }

    var isInPipelineMode: Bool { PQpipelineStatus(pointer) != PQ_PIPELINE_OFF }

    /// What libpq says went wrong.
    var errorMessage: String { Self.oneLine(PQerrorMessage(pointer)) }

    /// A message of libpq's in the style of PostgreSQL's.
    static func oneLine(_ message: UnsafePointer<CChar>) -> String {
        String(cString: message).split(whereSeparator: \.isNewline).map { $0.drop(while: \.isWhitespace) }
            .joined(separator: "; ")
    }

    /// Enters or leaves pipeline mode; libpq refuses unless everything is answered. Returns whether it worked.
    func setPipelineMode(_ isOn: Bool) -> Bool {
        guard isOn != isInPipelineMode else { return true }
        return (isOn ? PQenterPipelineMode(pointer) : PQexitPipelineMode(pointer)) == 1
    }

    /// Takes the next result if it is there. `PQgetResult` waits for the server unless `PQisBusy` has just said no, so
    /// nothing else calls it.
    ///
    /// - Parameters:
    ///   - inSingleRows: the next statement to be answered is one whose rows are to come one by one.
    ///   - rows: takes such rows, until it is full.
    func takeResult(inSingleRows: Bool = false, orAddTo rows: PackedRows? = nil) -> Taken {
        var isAfterNull = false
        while rows?.isFull != true, PQisBusy(pointer) == 0 {
            if let result = PQgetResult(pointer) {
                let status = PQresultStatus(result)
                if let rows, status == PGRES_SINGLE_TUPLE {
                    rows.append(rowOf: result)
                    PQclear(result)
                    continue
                }
                guard status == PGRES_PIPELINE_SYNC else { return .result(result) }
                PQclear(result)
                return .end
            }
            guard isInPipelineMode else { return .end }
            // In a pipeline one null ends the results of each statement.
            guard !isAfterNull else { return .disorder }
            isAfterNull = true
            // Now is the time: the answers before have been taken, and `PQisBusy` has not looked at the next one yet.
            // After an error there will be no rows.
            if inSingleRows, PQpipelineStatus(pointer) == PQ_PIPELINE_ON, PQsetSingleRowMode(pointer) != 1 {
                return .disorder
            }
        }
        return .nothing
    }
}
