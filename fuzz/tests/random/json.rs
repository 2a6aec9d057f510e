//! Makes valid JSON, envelopes and texts, and damages some of them.

use nanofaas_fuzz::Rng;

use crate::cases::wound;

const WOUNDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "\\ud83d",
    "\\ude00",
    "\\u0069",
    "0",
    "-",
    ".",
    "e",
    "E+",
    "null",
    "true",
    "fals",
    " ",
    "\t",
    "\n",
    "\0",
    "\x1f",
    "\x7f",
    "\u{e9}",
    "\u{1f600}",
    "1e400",
    "\"input\":",
    ",\"input\":1",
    ",\"metadata\":{}",
];

pub(crate) fn texts(rng: &mut Rng, out: &mut Vec<u8>) {
    const SEEDS: &[&str] = &[
        "",
        "word-stats",
        "a%2Fb%c3%a9",
        "application/json; charset=\"utf-8\"",
        "caf\u{e9} \u{1f600}",
        "line\nline\ttab \"quoted\" \\ \u{1}",
    ];
    out.extend_from_slice(rng.pick(SEEDS).as_bytes());
    wound(rng, out, WOUNDS);
}

pub(crate) fn json(rng: &mut Rng, out: &mut Vec<u8>) {
    space(rng, out);
    value(rng, out, 0);
    space(rng, out);
    wound(rng, out, WOUNDS);
}

/// Makes an envelope of a request, with any number, order and spelling of keys.
pub(crate) fn envelopes(rng: &mut Rng, out: &mut Vec<u8>) {
    const KEYS: &[&str] = &[
        "input",
        "input",
        "input",
        "metadata",
        "metadata",
        "\\u0069nput",
        "in\\u0070ut",
        "meta\\u0064ata",
        "inputs",
        "Input",
        "x",
        "input\\n",
        "",
        "\\u0269nput",
        "metadata\\\"",
    ];
    out.push(b'{');
    let keys = rng.range(1..5);
    for key in 0..keys {
        space(rng, out);
        let name = rng.pick(KEYS);
        out.extend_from_slice(format!("\"{name}\"").as_bytes());
        space(rng, out);
        out.push(b':');
        space(rng, out);
        match rng.below(4) {
            0 if name.starts_with('m') => out.extend_from_slice(b"null"),
            1 | 2 if name.starts_with('m') => out.extend_from_slice(b"{\"a\":\"b\", \"c\":\"\"}"),
            _ => value(rng, out, 1),
        }
        space(rng, out);
        if key + 1 < keys {
            out.push(b',');
        }
    }
    out.push(b'}');
    space(rng, out);
    if rng.one_in(2) {
        wound(rng, out, WOUNDS);
    }
}

fn space(rng: &mut Rng, out: &mut Vec<u8>) {
    if rng.one_in(6) {
        out.extend_from_slice(rng.pick(&[" ", "\n", "\t", "\r\n  ", "  "]).as_bytes());
    }
}

fn value(rng: &mut Rng, out: &mut Vec<u8>, depth: usize) {
    const SCALARS: &[&str] = &[
        "null",
        "true",
        "false",
        "0",
        "-1",
        "12",
        "-0.5",
        "1e5",
        "3.25E-7",
        "1234567890123",
    ];
    // Depth 0 has no bare number or literal, because such a document tests little. From depth 5 on there is
    // no object or array, so that the nesting ends.
    let kinds = [3..10, 0..10, 0..10, 0..10, 0..8, 0..6];
    match rng.range(kinds[depth.min(5)].clone()) {
        0..3 => out.extend_from_slice(rng.pick(SCALARS).as_bytes()),
        3..6 => string(rng, out),
        kind => {
            let is_object = kind < 8;
            // One object or array in 1,024 has a number of levels near the parser's limit of 128.
            let levels = if rng.one_in(1024) {
                rng.range(120..135)
            } else {
                1
            };
            let (open, close) = if is_object {
                ("{\"a\":", "}")
            } else {
                ("[", "]")
            };
            out.extend_from_slice(open.repeat(levels - 1).as_bytes());
            out.push(if is_object { b'{' } else { b'[' });
            space(rng, out);
            for member in 0..rng.below(4) {
                if member > 0 {
                    out.push(b',');
                    space(rng, out);
                }
                if is_object {
                    string(rng, out);
                    space(rng, out);
                    out.push(b':');
                }
                value(rng, out, depth + 1);
                space(rng, out);
            }
            out.extend_from_slice(close.repeat(levels).as_bytes());
        }
    }
}

fn string(rng: &mut Rng, out: &mut Vec<u8>) {
    const PIECES: &[&str] = &[
        "a",
        "input",
        "some longer text that fills words",
        "\\n",
        "\\\\",
        "\\\"",
        "\\/",
        "\\u0041",
        "\\uD83D\\uDE00",
        "\u{e9}",
        "\u{1f600}",
        "\u{7f}",
        " ",
        "{",
        "0123456789",
    ];
    out.push(b'"');
    for _ in 0..rng.below(5) {
        out.extend_from_slice(rng.pick(PIECES).as_bytes());
    }
    out.push(b'"');
}
