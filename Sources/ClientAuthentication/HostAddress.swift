/// An address of IPv4 or IPv6.
///
/// An IPv4 address that a socket for both families shows as one of IPv6 (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2) is the
/// IPv4 address: rules are written for that.
public struct HostAddress: Hashable, Sendable {
    /// 4 or 16, first byte first.
    let bytes: [UInt8]

    /// Reads an address as text; nil when it is none. An interface after `%` is left out.
    public init?(_ text: some StringProtocol) {
        if let bytes = HostAddress.version4(text) {
            self.bytes = bytes
        } else if let bytes = HostAddress.version6(text.prefix { $0 != "%" }) {
            let isVersion4 = bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10] == 0xFF && bytes[11] == 0xFF
            self.bytes = isVersion4 ? Array(bytes.suffix(4)) : bytes
        } else {
            return nil
        }
    }

    var bitCount: Int { bytes.count * 8 }

    private static func version4(_ text: some StringProtocol) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        let bytes = parts.compactMap { part in
            part.utf8.allSatisfy { (0x30...0x39).contains($0) } && (part.utf8.count == 1 || part.first != "0")
                ? UInt8(part) : nil
        }
        return bytes.count == 4 ? bytes : nil
    }

    private static func version6(_ text: some StringProtocol) -> [UInt8]? {
        // At most one `::` stands for the zeros that are missing.
        guard let gap = text.firstRange(of: "::") else {
            let bytes = groups(text, mayEndInVersion4: true)
            return bytes?.count == 16 ? bytes : nil
        }
        guard let head = groups(text[..<gap.lowerBound], mayEndInVersion4: false),
            let tail = groups(text[gap.upperBound...], mayEndInVersion4: true),
            head.count + tail.count <= 14
        else { return nil }
        return head + [UInt8](repeating: 0, count: 16 - head.count - tail.count) + tail
    }

    /// The bytes of groups between colons, of which the last may be an IPv4 address; none for an empty text.
    private static func groups(_ text: some StringProtocol, mayEndInVersion4: Bool) -> [UInt8]? {
        if text.isEmpty { return [] }
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        var bytes: [UInt8] = []
        for (index, part) in parts.enumerated() {
            if mayEndInVersion4, index == parts.count - 1, let last = version4(part) {
                bytes += last
            } else if (1...4).contains(part.utf8.count), part.allSatisfy(\.isHexDigit),
                let group = UInt16(part, radix: 16)
            {
                bytes += [UInt8(group >> 8), UInt8(truncatingIfNeeded: group)]
            } else {
                return nil
            }
        }
        return bytes
    }
}

extension HostAddress: CustomStringConvertible {
    /// The canonical form (RFC 5952 §4).
    public var description: String {
        if bytes.count == 4 { return bytes.map(String.init).joined(separator: ".") }
        let groups = stride(from: 0, to: 16, by: 2).map { UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]) }
        func text(_ groups: ArraySlice<UInt16>) -> String {
            groups.map { String($0, radix: 16) }.joined(separator: ":")
        }
        // The first of the longest runs of zeros, unless it is of one group only.
        var (best, run) = (0..<0, 0..<0)
        for (index, group) in groups.enumerated() {
            run = group == 0 ? run.lowerBound..<(index + 1) : (index + 1)..<(index + 1)
            if run.count > best.count { best = run }
        }
        guard best.count > 1 else { return text(groups[...]) }
        return text(groups[..<best.lowerBound]) + "::" + text(groups[best.upperBound...])
    }
}

/// The addresses that begin with the same bits.
struct HostNetwork: Hashable, Sendable {
    let address: HostAddress
    let prefixLength: Int

    /// Reads `address/bits`; nil when the text is none.
    init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", omittingEmptySubsequences: false)
        guard parts.count == 2, let address = HostAddress(parts[0]), parts[1].allSatisfy(\.isNumber),
            let prefixLength = Int(parts[1]), prefixLength <= address.bitCount
        else { return nil }
        self.address = address
        self.prefixLength = prefixLength
    }

    func contains(_ other: HostAddress) -> Bool {
        guard other.bytes.count == address.bytes.count else { return false }
        let (whole, bits) = (prefixLength / 8, prefixLength % 8)
        guard other.bytes.prefix(whole) == address.bytes.prefix(whole) else { return false }
        return bits == 0 || (other.bytes[whole] ^ address.bytes[whole]) >> (8 - bits) == 0
    }
}
