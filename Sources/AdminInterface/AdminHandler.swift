import Foundation
import NIOCore
import NIOHTTP1

/// Answers a connection's requests, one after the other.
final class AdminHandler: ChannelInboundHandler {
    typealias InboundIn = NIOHTTPServerRequestFull
    typealias OutboundOut = HTTPServerResponsePart

    private let routes: AdminServer.Routes
    private var answering: Task<Void, Never>?
    private var idling: Scheduled<Void>?

    /// How long a connection may be there without asking for anything: others need its place.
    private static let patience = TimeAmount.seconds(60)

    init(_ routes: @escaping AdminServer.Routes) {
        self.routes = routes
    }

    /// The next request comes when this one is answered: NIO's pipeline sees to that.
    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let full = unwrapInboundIn(data)
        let request = Self.request(full, isLocal: Self.isLocal(context.channel.remoteAddress))
        let output = AdminOutput(context.channel, isHead: full.head.method == .HEAD, isKept: full.head.isKeepAlive)
        idling?.cancel()
        let (channel, bound) = (context.channel, NIOLoopBound(self, eventLoop: context.eventLoop))
        answering = Task { [routes] in
            await output.send(await routes(request))
            channel.eventLoop.execute { bound.value.idles(channel) }
        }
    }

    func channelActive(context: ChannelHandlerContext) {
        idles(context.channel)
        context.fireChannelActive()
    }

    private func idles(_ channel: any Channel) {
        idling?.cancel()
        guard channel.isActive else { return }
        idling = channel.eventLoop.scheduleTask(in: Self.patience) { channel.close(promise: nil) }
    }

    func channelInactive(context: ChannelHandlerContext) {
        answering?.cancel()
        idling?.cancel()
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        context.close(promise: nil)
    }

    private static func isLocal(_ address: SocketAddress?) -> Bool {
        guard let host = address?.ipAddress else { return false }
        return host.hasPrefix("127.") || host == "::1" || host.hasPrefix("::ffff:127.")
    }

    private static func request(_ full: NIOHTTPServerRequestFull, isLocal: Bool) -> AdminRequest {
        let parts = full.head.uri.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        var query: [String: String] = [:]
        for item in parts.dropFirst().joined().split(separator: "&") {
            let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(decoded)
            query[pair[0]] = pair.count > 1 ? pair[1] : ""
        }
        let authorization = full.head.headers.first(name: "authorization")
        let bearer = "bearer "
        let token = authorization.flatMap { text in
            text.lowercased().hasPrefix(bearer) ? String(text.dropFirst(bearer.count)) : nil
        }
        return AdminRequest(
            method: full.head.method == .HEAD ? "GET" : full.head.method.rawValue, path: decoded(parts.first ?? ""),
            query: query, body: full.body.map { Array($0.readableBytesView) } ?? [], token: token, isLocal: isLocal)
    }

    private static func decoded(_ text: Substring) -> String {
        text.removingPercentEncoding ?? String(text)
    }
}

/// Where an answer goes.
private struct AdminOutput: Sendable {
    private let channel: any Channel
    /// Only what stands before the body is wanted.
    private let isHead: Bool
    private let isKept: Bool

    init(_ channel: any Channel, isHead: Bool, isKept: Bool) {
        (self.channel, self.isHead, self.isKept) = (channel, isHead, isKept)
    }

    /// Without an answer, for which it is too late then, the connection ends.
    func send(_ response: AdminResponse) async {
        do {
            try await write(.head(head(of: response)))
            switch response.body {
            case _ where isHead: break
            case .whole(let text): try await write(.body(.byteBuffer(ByteBuffer(string: text))))
            case .parts(let body):
                try await body { try await write(.body(.byteBuffer(ByteBuffer(string: $0)))) }
            }
            try await write(.end(nil))
            if !isKept { channel.close(promise: nil) }
        } catch {
            channel.close(promise: nil)
        }
    }

    private func head(of response: AdminResponse) -> HTTPResponseHead {
        var headers = HTTPHeaders([("Content-Type", response.contentType), ("Cache-Control", "no-store")])
        if case .whole(let text) = response.body { headers.add(name: "Content-Length", value: "\(text.utf8.count)") }
        if response.status == 401 { headers.add(name: "WWW-Authenticate", value: "Bearer") }
        headers.add(name: "Connection", value: isKept ? "keep-alive" : "close")
        return HTTPResponseHead(
            version: .http1_1, status: HTTPResponseStatus(statusCode: response.status), headers: headers)
    }

    /// Waits for the client, if it takes nothing in.
    private func write(_ part: HTTPServerResponsePart) async throws {
        try await channel.writeAndFlush(part)
    }
}
