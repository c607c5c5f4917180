import TransactionCore

/// Finds where rows end in the data of a COPY FROM, by the rules of PostgreSQL's `CopyReadLineText`.
///
/// It goes on where it stopped for want of more bytes, so that data may come in pieces of any size.
struct CopyRowScanner: Sendable {
    /// What was found.
    enum Finding: Equatable {
        /// A row; what ends the line begins at `contentEnd`.
        case row(contentEnd: Int, end: Int)
        /// The marker that ends the data; a row without an end of line may stand before it.
        case endOfData(contentEnd: Int)
        /// More bytes are needed to tell.
        case more
    }

    /// How lines end. The first one tells; the others must be alike.
    private enum Newline {
        case unknown, lf, cr, crlf
    }

    private let isCSV: Bool
    private let quote: UInt8
    /// Zero when it is the quote, which then need not be told apart from it.
    private let escape: UInt8
    private var newline = Newline.unknown
    private var isInQuotes = false
    private var isAfterEscape = false
    /// Where to go on.
    private var position = 0

    init(_ dialect: CopyDialect) {
        isCSV = dialect.format == .csv
        quote = dialect.quote
        escape = dialect.escape == dialect.quote ? 0 : dialect.escape
    }

    /// The bytes before `offset` are dropped: positions are counted from there.
    mutating func drop(_ offset: Int) { position -= offset }

    /// Looks for the end of the row that begins at `start`.
    ///
    /// - Parameter isLast: no more bytes will come; ``Finding/more`` then means that the row ends with the bytes.
    mutating func next(
        _ bytes: UnsafeBufferPointer<UInt8>, from start: Int, isLast: Bool
    ) throws(StatementError) -> Finding {
        isCSV ? try nextInCSV(bytes, start, isLast) : try nextInText(bytes, start, isLast)
    }

    private mutating func nextInText(
        _ bytes: UnsafeBufferPointer<UInt8>, _ start: Int, _ isLast: Bool
    ) throws(StatementError) -> Finding {
        var index = position
        let count = bytes.count
        while index < count {
            switch bytes[index] {
            case 0x5C:
                guard index + 1 < count else { return more(at: index) }
                if bytes[index + 1] == UInt8(ascii: ".") {
                    if let end = try marker(bytes, index, isLast) { return end }
                    return more(at: index)
                }
                // Whatever follows is no end of the line.
                index += 2
            case 0x0A: return try lineFeed(index)
            case 0x0D:
                if let end = try carriageReturn(bytes, index, isLast) { return end }
                return more(at: index)
            default: index += 1
            }
        }
        return more(at: index)
    }

    private mutating func nextInCSV(
        _ bytes: UnsafeBufferPointer<UInt8>, _ start: Int, _ isLast: Bool
    ) throws(StatementError) -> Finding {
        var index = position
        let count = bytes.count
        while index < count {
            let byte = bytes[index]
            if byte == 0x0A, !isInQuotes { return try lineFeed(index) }
            if byte == 0x0D, !isInQuotes {
                if let end = try carriageReturn(bytes, index, isLast) { return end }
                return more(at: index)
            }
            if byte == 0x5C, index == start {
                // The marker stands on a line of its own, or it is data.
                guard index + 1 < count else { return more(at: index) }
                if bytes[index + 1] == UInt8(ascii: ".") {
                    guard index + 2 < count || isLast else { return more(at: index) }
                    if index + 2 == count || bytes[index + 2] == 0x0A || bytes[index + 2] == 0x0D {
                        return endOfData(index)
                    }
                }
            }
            if isInQuotes, byte == escape, escape != 0 { isAfterEscape.toggle() }
            if byte == quote, !isAfterEscape { isInQuotes.toggle() }
            if byte != escape { isAfterEscape = false }
            index += 1
        }
        return more(at: index)
    }

    private mutating func more(at index: Int) -> Finding {
        position = index
        return .more
    }

    private mutating func endOfData(_ index: Int) -> Finding {
        position = index
        return .endOfData(contentEnd: index)
    }

    private mutating func row(_ contentEnd: Int, _ length: Int, _ style: Newline) -> Finding {
        newline = style
        position = contentEnd + length
        (isInQuotes, isAfterEscape) = (false, false)
        return .row(contentEnd: contentEnd, end: position)
    }

    private mutating func lineFeed(_ index: Int) throws(StatementError) -> Finding {
        switch newline {
        case .unknown, .lf: return row(index, 1, .lf)
        case .cr, .crlf:
            throw Self.badData(
                isCSV ? "unquoted newline found in data" : "literal newline found in data",
                hint: isCSV
                    ? "use quoted CSV field to represent newline" : "use \"\\n\" to represent newline")
        }
    }

    /// Nil when the byte that follows is needed.
    private mutating func carriageReturn(
        _ bytes: UnsafeBufferPointer<UInt8>, _ index: Int, _ isLast: Bool
    ) throws(StatementError) -> Finding? {
        switch newline {
        case .cr: return row(index, 1, .cr)
        case .lf: break
        case .unknown, .crlf:
            guard index + 1 < bytes.count || isLast else { return nil }
            if index + 1 < bytes.count, bytes[index + 1] == 0x0A { return row(index, 2, .crlf) }
            if newline == .unknown { return row(index, 1, .cr) }
        }
        throw Self.badData(
            isCSV ? "unquoted carriage return found in data" : "literal carriage return found in data",
            hint: isCSV
                ? "use quoted CSV field to represent carriage return" : "use \"\\r\" to represent carriage return")
    }

    /// A backslash and a dot, in text; nil when the byte that follows is needed.
    private mutating func marker(
        _ bytes: UnsafeBufferPointer<UInt8>, _ index: Int, _ isLast: Bool
    ) throws(StatementError) -> Finding? {
        guard index + 2 < bytes.count else { return isLast ? endOfData(index) : nil }
        guard bytes[index + 2] == 0x0A || bytes[index + 2] == 0x0D else {
            throw Self.badData("end-of-copy marker corrupt")
        }
        return endOfData(index)
    }

    static func badData(_ message: String, hint: String? = nil) -> StatementError {
        StatementError(.badCopyFileFormat, message, hint: hint)
    }
}
