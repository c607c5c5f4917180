import ClientAuthentication
import NIOCore
import NIOSSL

/// A server's certificate and key, ready for use.
struct TLSMaterial: Sendable {
    let context: NIOSSLContext
    /// For channel binding; nil when the certificate's signature has no hash function that RFC 5929 could take.
    let certificateHash: [UInt8]?

    /// How long a client may take to answer that TLS ends.
    static let shutdownTimeout: Duration = .seconds(1)

    /// Reads the files. Throws a ``GatewayError`` when they can't be read or don't fit each other.
    init(_ paths: GatewayConfiguration.TLS) throws(GatewayError) {
        let chain: [NIOSSLCertificate]
        do {
            chain = try NIOSSLCertificate.fromPEMFile(paths.certificateChain)
        } catch {
            throw TLSMaterial.unusable("certificate", paths.certificateChain, error)
        }
        guard let leaf = chain.first, let encoded = try? leaf.toDERBytes() else {
            throw GatewayError("there is no certificate in \(paths.certificateChain)")
        }
        certificateHash = CertificateHash.serverEndPoint(certificate: encoded)
        do {
            let key = try NIOSSLPrivateKey(file: paths.privateKey, format: .pem)
            var settings = TLSConfiguration.makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key))
            // PostgreSQL's `ssl_min_protocol_version`.
            settings.minimumTLSVersion = .tlsv12
            settings.shutdownTimeout = TimeAmount(TLSMaterial.shutdownTimeout)
            context = try NIOSSLContext(configuration: settings)
        } catch {
            throw TLSMaterial.unusable("private key", paths.privateKey, error)
        }
    }

    private static func unusable(_ what: String, _ path: String, _ error: any Error) -> GatewayError {
        GatewayError(
            "could not use the \(what) in \(path)", detail: "\(error)",
            hint: "it must be readable and PEM, and certificate and key must belong together")
    }
}
