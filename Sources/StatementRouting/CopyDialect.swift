/// How the data of a COPY is written, as far as its rows and their shard keys must be found in it.
public struct CopyDialect: Hashable, Sendable {
    /// The format of the data.
    public enum Format: Hashable, Sendable {
        case text, csv, binary
    }

    public var format = Format.text
    public var delimiter = UInt8(ascii: "\t")
    /// What stands for NULL.
    public var null = Array("\\N".utf8)
    /// CSV only.
    public var quote = UInt8(ascii: "\"")
    /// CSV only; by default the quote.
    public var escape = UInt8(ascii: "\"")
    /// The first line names the columns.
    public var hasHeader = false
    /// Columns of a CSV whose values are never NULL.
    public var neverNull: Set<String> = []
    /// Columns of a CSV whose values are NULL when they match ``null`` in quotes, too.
    public var nullInQuotes: Set<String> = []

    /// The text format with its defaults.
    public init() {}

    /// Reads the options of a COPY; nil when they make no sense, which a server says better.
    public init?(_ options: [String: String]) {
        switch options["format"] ?? "text" {
        case "text": break
        case "csv":
            format = .csv
            (delimiter, null) = (UInt8(ascii: ","), [])
        case "binary": format = .binary
        default: return nil
        }
        if let encoding = options["encoding"] {
            guard ["utf8", "utf-8", "unicode"].contains(encoding.lowercased()) else { return nil }
        }
        if let text = options["null"] { null = Array(text.utf8) }
        guard let delimiter = Self.byte(options["delimiter"], else: delimiter),
            let quote = Self.byte(options["quote"], else: quote),
            let escape = Self.byte(options["escape"], else: quote)
        else { return nil }
        (self.delimiter, self.quote, self.escape) = (delimiter, quote, escape)
        hasHeader = options["header"].map { !["false", "off", "0"].contains($0.lowercased()) } ?? false
        neverNull = Self.names(options["force_not_null"])
        nullInQuotes = Self.names(options["force_null"])
    }

    private static func byte(_ text: String?, else other: UInt8) -> UInt8? {
        guard let text else { return other }
        return text.utf8.count == 1 ? text.utf8.first : nil
    }

    private static func names(_ list: String?) -> Set<String> {
        Set(list?.split(separator: ",").map(String.init) ?? [])
    }
}
