import Testing

@Suite struct SwiftTextTests {
    @Test(
        "comments are blanked, and what string literals say",
        arguments: [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c\n */ d */ e", "a          \n         e"),
            (#"f("x // y")"#, #"f("      ")"#),
            (#"f("\"//") // z"#, #"f("    ")     "#),
            ("\"\"\"\n\"x\" //\n\"\"\" y", "\"\"\"\n      \n\"\"\" y"),
            ("#\"a\"b\"# c", "#\"   \"# c"),
            ("/[\"]/ a\nb // c", "/[\"    \nb     "),
        ])
    func bareCode(text: String, bare: String) {
        #expect(SwiftText(text).bareCode == bare)
    }

    @Test("string literals stay when only comments go")
    func code() {
        #expect(SwiftText("f(\"x // y\") // z").code == "f(\"x // y\")     ")
    }

    @Test("an unfinished comment or literal ends with the text", arguments: ["/* a", "\"a", "\"\"\"", "#\"", "\"\\"])
    func unfinished(text: String) {
        #expect(SwiftText(text).code.utf8.count == text.utf8.count)
    }
}
