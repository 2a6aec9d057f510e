use super::JsonErrorKind::*;
use super::*;

fn kind_of(text: &str) -> Option<(JsonErrorKind, u32)> {
    check(text.as_bytes(), DEPTH_MAX)
        .err()
        .map(|fault| (fault.kind, fault.at))
}

#[test]
fn takes_every_kind_of_value() {
    for text in [
        "null",
        "true",
        "false",
        "0",
        "-0",
        "12",
        "-1.5",
        "1e9",
        "1E+9",
        "0.1e-7",
        "\"\"",
        "\"a\"",
        "[]",
        "{}",
        "[ ]",
        "{ }",
        " [1 , 2]\r\n\t",
        "{\"a\":1,\"a\":[{}]}",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"é😀\u{7f}\"",
        "1e999",
    ] {
        assert_eq!(kind_of(text), None, "{text}");
    }
}

#[test]
fn names_each_fault_and_its_place() {
    for (text, kind, at) in [
        ("", End, 0),
        (" ", End, 1),
        ("nul", End, 3),
        ("nulx", Unexpected, 3),
        ("nullx", Trailing, 4),
        ("null null", Trailing, 5),
        ("01", Trailing, 1),
        ("-", End, 1),
        ("-x", Number, 1),
        ("1.", End, 2),
        ("1.e1", Number, 2),
        ("1e", End, 2),
        ("1e+x", Number, 3),
        (".5", Unexpected, 0),
        ("+1", Unexpected, 0),
        ("NaN", Unexpected, 0),
        ("\u{feff}1", Unexpected, 0),
        ("\"", End, 1),
        ("\"\\", End, 2),
        ("\"a\nb\"", Control, 2),
        ("\"\\x\"", Escape, 1),
        ("\"\\u12g4\"", Escape, 1),
        ("\"\\u12", Escape, 1),
        ("\"\\ud800\"", Surrogate, 1),
        ("\"\\ud800\\n\"", Surrogate, 1),
        ("\"\\ud800\\ud800\"", Surrogate, 1),
        ("\"\\udc00\"", Surrogate, 1),
        ("\"\\udfff\"", Surrogate, 1),
        ("\"\\udbff\\ue000\"", Surrogate, 1),
        ("[", End, 1),
        ("[1", End, 2),
        ("[1 2]", Unexpected, 3),
        ("[1,]", Unexpected, 3),
        ("[,1]", Unexpected, 1),
        ("[1}", Unexpected, 2),
        ("{\"a\":1]", Unexpected, 6),
        ("{\"a\"}", Unexpected, 4),
        ("{\"a\":}", Unexpected, 5),
        ("{\"a\":1,}", Unexpected, 7),
        ("{a:1}", Unexpected, 1),
        ("{1:1}", Unexpected, 1),
        ("]", Unexpected, 0),
    ] {
        assert_eq!(kind_of(text), Some((kind, at)), "{text}");
    }
    assert_eq!(check(b"\"ab\xff\"", DEPTH_MAX), Err(fault(Utf8, 3)));
    assert_eq!(check(b"[\0]", DEPTH_MAX), Err(fault(Unexpected, 1)));
    let text = check(b"[1,]", DEPTH_MAX).unwrap_err().to_string();
    assert_eq!(
        text,
        "the JSON has a character where it must not be at byte 3"
    );
}

#[test]
fn nesting_of_both_kinds_is_counted() {
    let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
    assert_eq!(kind_of(&nested(128)), None);
    assert_eq!(kind_of(&nested(129)), Some((Depth, 128)));
    assert_eq!(kind_of(&nested(10_000)), Some((Depth, 128)));
    assert_eq!(kind_of(&"{\"a\":".repeat(10_000)), Some((Depth, 5 * 128)));
    // The check has to remember for each level whether it is an object or an array, because they close
    // differently.
    let mixed = |open: &str| format!("{}1{}", open.repeat(64), "]}".repeat(64));
    assert_eq!(kind_of(&mixed("{\"a\":[")), None);
    assert_eq!(
        kind_of(&format!("[{}]", mixed("{\"a\":["))),
        Some((Depth, 64 * 6))
    );
    assert_eq!(check(b"[[]]", 1), Err(fault(Depth, 1)));
    assert_eq!(check(b"[]", 1), Ok(()));
    assert_eq!(check(b"[[]]", u32::MAX), Ok(()));
    assert_eq!(kind_of(&format!("[{}[]]", "[],".repeat(1000))), None);
}

fn pieces(text: &str) -> Result<(&str, Option<&str>), JsonErrorKind> {
    let found = envelope(text.as_bytes()).map_err(|fault| fault.kind)?;
    let of = |range: Range<u32>| &text[range.start as usize..range.end as usize];
    Ok((of(found.input), found.metadata.map(of)))
}

#[test]
fn finds_input_and_metadata_among_other_keys() {
    assert_eq!(pieces("{\"input\":null}"), Ok(("null", None)));
    let text = " { \"x\":[1], \"metadata\" : {\"a\":\"b\", \"c\" : \"\"} ,\"input\" : [ 1 ] } ";
    assert_eq!(
        pieces(text),
        Ok(("[ 1 ]", Some("{\"a\":\"b\", \"c\" : \"\"}")))
    );
    assert_eq!(
        pieces("{\"metadata\":{},\"input\":1}"),
        Ok(("1", Some("{}")))
    );
    assert_eq!(pieces("{\"metadata\":null,\"input\":1}"), Ok(("1", None)));
    assert_eq!(pieces("{\"\\u0069np\\u0075t\":1}"), Ok(("1", None)));
    // Only a key of the top level counts, and only if the whole key is equal to the name.
    assert_eq!(
        pieces("{\"a\":{\"input\":1},\"input\":{\"input\":2}}"),
        Ok(("{\"input\":2}", None))
    );
    assert_eq!(
        pieces("{\"inputs\":1,\"Input\":2,\"inpu\":3,\"input\":4}"),
        Ok(("4", None))
    );
    assert_eq!(
        pieces("{\"input\\n\":1,\"\\u0169nput\":1,\"input\":4}"),
        Ok(("4", None))
    );
    assert_eq!(
        pieces("{\"meta\\u0064ata long\":1,\"input\":4}"),
        Ok(("4", None))
    );
}

#[test]
fn refuses_envelopes_that_two_readers_could_differ_on() {
    for (text, kind) in [
        ("[1]", NotAnObject),
        ("null", NotAnObject),
        ("", End),
        ("{}", InputMissing),
        ("{\"metadata\":{}}", InputMissing),
        ("{\"input\":1,\"input\":1}", InputRepeated),
        ("{\"input\":1,\"\\u0069nput\":1}", InputRepeated),
        ("{\"\\u0069nput\":1,\"input\":1}", InputRepeated),
        (
            "{\"input\":1,\"metadata\":{},\"metadata\":{}}",
            MetadataRepeated,
        ),
        (
            "{\"input\":1,\"metadata\":null,\"meta\\u0064ata\":{}}",
            MetadataRepeated,
        ),
        ("{\"input\":1,\"metadata\":[]}", MetadataType),
        ("{\"input\":1,\"metadata\":\"a\"}", MetadataType),
        ("{\"input\":1,\"metadata\":{\"a\":1}}", MetadataType),
        ("{\"input\":1,\"metadata\":{\"a\":null}}", MetadataType),
        ("{\"input\":1,\"metadata\":nul}", Unexpected),
        ("{\"input\":1,\"metadata\":{\"a\":\"b\",}}", Unexpected),
        ("{\"input\":1}}", Trailing),
        ("{\"input\":1,}", Unexpected),
        ("{\"input\":1", End),
        ("{\"input\":}", Unexpected),
    ] {
        assert_eq!(pieces(text), Err(kind), "{text}");
    }
    let deep = |levels| format!("{{\"input\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(pieces(&deep(127)).is_ok());
    assert_eq!(pieces(&deep(128)), Err(Depth));
}

#[test]
fn writes_text_that_reads_back() {
    for text in [
        "",
        "plain",
        "\"\\/",
        "a\nb\rc\td",
        "\u{0}\u{1f}\u{7f}",
        "é😀",
        "ends in \"",
    ] {
        for padding in 0..40 {
            let text = format!("{}{text}", "x".repeat(padding));
            let mut out = b"before ".to_vec();
            write_string(&mut out, &text);
            let json = out.strip_prefix(b"before ").unwrap();
            assert_eq!(check(json, 1), Ok(()), "{text:?}");
            assert_eq!(serde_json::from_slice::<String>(json).unwrap(), text);
        }
    }
    let mut out = Vec::new();
    assert_eq!(write_text(&mut out, b"ab\xc3"), Err(fault(Utf8, 2)));
    assert!(out.is_empty());
    assert_eq!(write_text(&mut out, b"a\x01"), Ok(()));
    assert_eq!(out, b"\"a\\u0001\"");
}
