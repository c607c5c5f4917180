import Crypto
import Foundation

/// The client's side of SCRAM-SHA-256, written from RFC 5802 alone: it shares no code with the server's.
struct SimulatedClient {
    var password: String
    var nonce = "clientnonce"
    /// `n,,`, `y,,` or `p=tls-server-end-point,,`.
    var header = "n,,"
    /// What the client takes for the server's certificate.
    var certificateHash: [UInt8] = []
    var name = ""

    var first: String { header + firstBare }

    private var firstBare: String { "n=\(name),r=\(nonce)" }

    private var binding: String { (Data(header.utf8) + Data(certificateHash)).base64EncodedString() }

    /// The last message, and what the server must say after it.
    func final(after serverFirst: String) -> (message: String, serverFinal: String) {
        let attributes = serverFirst.split(separator: ",").map { String($0.dropFirst(2)) }
        let withoutProof = "c=\(binding),r=\(attributes[0])"
        let transcript = "\(firstBare),\(serverFirst),\(withoutProof)"
        let salted = saltedPassword(Data(base64Encoded: attributes[1]) ?? Data(), Int(attributes[2]) ?? 0)
        let clientKey = code(salted, "Client Key")
        let signature = code(Data(SHA256.hash(data: clientKey)), transcript)
        let proof = Data(zip(clientKey, signature).map { $0 ^ $1 })
        let serverSignature = code(code(salted, "Server Key"), transcript)
        return (
            "\(withoutProof),p=\(proof.base64EncodedString())", "v=\(serverSignature.base64EncodedString())"
        )
    }

    private func saltedPassword(_ salt: Data, _ iterations: Int) -> Data {
        var block = code(Data(password.utf8), salt + Data([0, 0, 0, 1]))
        var result = block
        for _ in 1..<iterations {
            block = code(Data(password.utf8), block)
            result = Data(zip(result, block).map { $0 ^ $1 })
        }
        return result
    }

    private func code(_ key: Data, _ text: String) -> Data { code(key, Data(text.utf8)) }

    private func code(_ key: Data, _ bytes: Data) -> Data {
        Data(HMAC<SHA256>.authenticationCode(for: bytes, using: SymmetricKey(data: key)))
    }
}

extension [UInt8] {
    var text: String { String(decoding: self, as: UTF8.self) }
}
