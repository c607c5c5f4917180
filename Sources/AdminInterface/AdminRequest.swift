/// What somebody asks of the admin interface.
public struct AdminRequest: Sendable {
    public var method: String
    /// The path without its query, percent-decoded.
    public var path: String
    /// The query's names and values; a name alone has an empty value.
    public var query: [String: String]
    public var body: [UInt8]
    /// What the header `Authorization: Bearer …` has.
    public var token: String?
    /// It comes from the machine itself.
    public var isLocal: Bool

    public init(
        method: String, path: String, query: [String: String] = [:], body: [UInt8] = [], token: String? = nil,
        isLocal: Bool = true
    ) {
        (self.method, self.path, self.query, self.body) = (method, path, query, body)
        (self.token, self.isLocal) = (token, isLocal)
    }
}

/// What it is answered.
public struct AdminResponse: Sendable {
    /// Sends a part of the body, and returns when the client has taken it in; throws when the client is gone.
    public typealias Writer = @Sendable (String) async throws -> Void

    public enum Body: Sendable {
        case whole(String)
        /// Parts, as they come, until the closure returns. Its task is cancelled when the client hangs up.
        case parts(@Sendable (Writer) async throws -> Void)
    }

    public var status: Int
    public var contentType: String
    public var body: Body

    public init(_ status: Int, _ contentType: String, _ body: Body) {
        (self.status, self.contentType, self.body) = (status, contentType, body)
    }

    public static func text(_ text: String, status: Int = 200) -> AdminResponse {
        AdminResponse(status, "text/plain; charset=utf-8", .whole(text))
    }

    /// JSON on one line.
    public static func json(_ json: String, status: Int = 200) -> AdminResponse {
        AdminResponse(status, "application/json", .whole(json + "\n"))
    }

    /// Lines of JSON, as they come.
    public static func lines(_ body: @escaping @Sendable (Writer) async throws -> Void) -> AdminResponse {
        AdminResponse(200, "application/x-ndjson", .parts(body))
    }
}
