import Crypto

/// What channel binding of type `tls-server-end-point` binds to (RFC 5929 §4).
public enum CertificateHash {
    /// The hash of a certificate in DER, by the hash function of its signature, SHA-256 in place of MD5 and SHA-1.
    ///
    /// Nil when the signature has no hash function of its own (Ed25519) or one that isn't known here: channel binding
    /// is then not to be offered. The certificate is not verified, only its outline is read.
    public static func serverEndPoint(certificate: [UInt8]) -> [UInt8]? {
        // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue } (RFC 5280 §4.1).
        var outermost = DERElements(certificate)
        guard var fields = outermost.next()?.children, fields.next() != nil,
            let algorithm = fields.next(), let function = hashFunction(ofSignature: algorithm)
        else { return nil }
        switch function {
        case .sha256: return Array(SHA256.hash(data: certificate))
        case .sha384: return Array(SHA384.hash(data: certificate))
        case .sha512: return Array(SHA512.hash(data: certificate))
        }
    }

    private enum HashFunction {
        case sha256, sha384, sha512
    }

    private static func hashFunction(ofSignature algorithm: DERElements.Element) -> HashFunction? {
        // AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL }.
        guard var fields = algorithm.children, let name = fields.next() else { return nil }
        switch name.content {
        case pkcs1 + [4], pkcs1 + [5], ecdsa + [1]: return .sha256
        case pkcs1 + [11], ecdsa + [3, 2]: return .sha256
        case pkcs1 + [12], ecdsa + [3, 3]: return .sha384
        case pkcs1 + [13], ecdsa + [3, 4]: return .sha512
        case pkcs1 + [10]: return pssHashFunction(fields.next())
        default: return nil
        }
    }

    /// RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0] DEFAULT sha1, … } (RFC 4055 §3.1).
    private static func pssHashFunction(_ parameters: DERElements.Element?) -> HashFunction? {
        guard var fields = parameters?.children, let hash = fields.next(), hash.tag == 0xA0 else { return .sha256 }
        guard var inner = hash.children, var algorithm = inner.next()?.children, let name = algorithm.next() else {
            return nil
        }
        switch name.content {
        case sha2 + [1]: return .sha256
        case sha2 + [2]: return .sha384
        case sha2 + [3]: return .sha512
        default: return nil
        }
    }

    /// 1.2.840.113549.1.1: PKCS #1.
    private static let pkcs1: [UInt8] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01]
    /// 1.2.840.10045.4: signatures of ANSI X9.62.
    private static let ecdsa: [UInt8] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04]
    /// 2.16.840.1.101.3.4.2: NIST's hash functions.
    private static let sha2: [UInt8] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02]
}

/// The elements of DER one behind the other, with tags of one byte (X.690 §8.1).
private struct DERElements {
    struct Element {
        let tag: UInt8
        let content: [UInt8]

        /// What it is made of; nil when it is not constructed.
        var children: DERElements? { tag & 0x20 == 0 ? nil : DERElements(content) }
    }

    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) {
        rest = bytes[...]
    }

    /// The next element; nil at the end, and where the bytes are none.
    mutating func next() -> Element? {
        guard let tag = rest.popFirst(), tag & 0x1F != 0x1F, let length = length(), length <= rest.count else {
            return nil
        }
        defer { rest = rest.dropFirst(length) }
        return Element(tag: tag, content: Array(rest.prefix(length)))
    }

    private mutating func length() -> Int? {
        guard let first = rest.popFirst() else { return nil }
        guard first & 0x80 != 0 else { return Int(first) }
        let count = Int(first & 0x7F)
        guard (1...4).contains(count), rest.count >= count else { return nil }
        defer { rest = rest.dropFirst(count) }
        return rest.prefix(count).reduce(0) { $0 << 8 | Int($1) }
    }
}
