import Foundation

/// The form of a password that is hashed, by SASLprep (RFC 4013) as PostgreSQL applies it.
///
/// PostgreSQL is lenient where the RFC is not: a password that SASLprep would refuse is hashed as it is.
enum SASLPrep {
    /// The bytes to hash for `password`.
    static func bytes(of password: String) -> [UInt8] {
        Array((prepared(password) ?? password).utf8)
    }

    /// The password as SASLprep has it; nil when it refuses.
    ///
    /// A password of ASCII alone stays as it is, control characters included, as PostgreSQL has it.
    static func prepared(_ password: String) -> String? {
        if password.utf8.allSatisfy({ $0 < 0x80 }) { return password }
        var mapped = String.UnicodeScalarView()
        for scalar in password.unicodeScalars {
            if ScalarTable.mappedToSpace.contains(scalar) {
                mapped.append(" ")
            } else if !ScalarTable.mappedToNothing.contains(scalar) {
                mapped.append(scalar)
            }
        }
        if mapped.isEmpty { return nil }
        let normal = String(mapped).precomposedStringWithCompatibilityMapping
        let scalars = normal.unicodeScalars
        guard !scalars.contains(where: { ScalarTable.prohibited.contains($0) || isUnassigned($0) }),
            isBidirectionallySound(scalars)
        else { return nil }
        return normal
    }

    /// Table A.1 of RFC 3454: not assigned in Unicode 3.2.
    static func isUnassigned(_ scalar: Unicode.Scalar) -> Bool {
        guard let age = scalar.properties.age else { return true }
        return (age.major, age.minor) > (3, 2)
    }

    /// RFC 3454 §6: text that runs right to left has nothing that runs left to right, and begins and ends with what
    /// runs right to left.
    private static func isBidirectionallySound(_ scalars: String.UnicodeScalarView) -> Bool {
        guard let first = scalars.first, let last = scalars.last,
            scalars.contains(where: ScalarTable.rightToLeft.contains)
        else { return true }
        return ScalarTable.rightToLeft.contains(first) && ScalarTable.rightToLeft.contains(last)
            && !scalars.contains(where: ScalarTable.leftToRight.contains)
    }
}
