import NIOSSL

/// Files that a node shows the others, and knows them by: each side of a connection asks for a certificate that one of
/// `trustRoots` has signed. Names in certificates do not count; an authority of the cluster's own keeps strangers out.
public struct PeerTLS: Hashable, Sendable {
    /// The certificate and what leads from it to an authority, PEM.
    public var certificateChain: String
    /// PEM.
    public var privateKey: String
    /// The certificates of authorities, PEM.
    public var trustRoots: String

    public init(certificateChain: String, privateKey: String, trustRoots: String) {
        self.certificateChain = certificateChain
        self.privateKey = privateKey
        self.trustRoots = trustRoots
    }
}

/// The files, ready for use.
struct PeerTLSMaterial: Sendable {
    private let client: NIOSSLContext
    private let server: NIOSSLContext

    /// Reads the files. Blocks.
    init(_ paths: PeerTLS) throws(PeerTransportError) {
        do {
            let chain = try NIOSSLCertificate.fromPEMFile(paths.certificateChain).map {
                NIOSSLCertificateSource.certificate($0)
            }
            let key = NIOSSLPrivateKeySource.privateKey(try NIOSSLPrivateKey(file: paths.privateKey, format: .pem))
            let roots = NIOSSLTrustRoots.certificates(try NIOSSLCertificate.fromPEMFile(paths.trustRoots))
            var settings = TLSConfiguration.makeServerConfiguration(certificateChain: chain, privateKey: key)
            settings.minimumTLSVersion = .tlsv13
            settings.certificateVerification = .noHostnameVerification
            settings.trustRoots = roots
            server = try NIOSSLContext(configuration: settings)
            settings = TLSConfiguration.makeClientConfiguration()
            settings.certificateChain = chain
            settings.privateKey = key
            settings.minimumTLSVersion = .tlsv13
            settings.certificateVerification = .noHostnameVerification
            settings.trustRoots = roots
            client = try NIOSSLContext(configuration: settings)
        } catch {
            throw PeerTransportError(
                message: "could not use the certificates for connections between nodes", detail: "\(error)",
                hint: "\(paths.certificateChain), \(paths.privateKey) and \(paths.trustRoots) must be readable and "
                    + "PEM, and certificate and key must belong together")
        }
    }

    /// For the side that connects.
    func makeClientHandler() throws -> NIOSSLClientHandler {
        try NIOSSLClientHandler(context: client, serverHostname: nil)
    }

    /// For the side that listens.
    func makeServerHandler() -> NIOSSLServerHandler { NIOSSLServerHandler(context: server) }
}
