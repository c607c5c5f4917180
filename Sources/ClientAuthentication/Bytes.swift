import Foundation

extension Sequence<UInt8> {
    /// In base64, with padding (RFC 4648 §4).
    var base64: String { Data(self).base64EncodedString() }
}

extension Array<UInt8> {
    /// The bytes that a base64 text stands for; nil when it is none.
    init?(base64 text: some StringProtocol) {
        guard let data = Data(base64Encoded: String(text)) else { return nil }
        self.init(data)
    }
}

/// Whether two secrets are the same, in a time that tells nothing of where they differ.
func isEqualInConstantTime(_ one: some Collection<UInt8>, _ other: some Collection<UInt8>) -> Bool {
    guard one.count == other.count else { return false }
    return zip(one, other).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
}
