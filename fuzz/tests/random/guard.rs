//! Makes messages between the control plane and the guard, and damages some of them.

use nanofaas_fuzz::Rng;

use crate::cases::wound;

const WOUNDS: &[&str] = &[
    "\n",
    "\n\n",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "\\n",
    "0",
    "-",
    ".",
    "e",
    "null",
    "true",
    " ",
    "\0",
    "\u{e9}",
    "\"id\":1,",
    "Start",
    "Signal",
];
const NUMBERS: &[&str] = &["0", "1", "9", "15", "-1", "64", "2147483647", "4294967296"];
const ODD_NUMBERS: &[&str] = &["1.0", "1e1", "\"1\"", "null", "18446744073709551616"];

/// Makes one to three messages, each for one of the two directions.
pub(crate) fn messages(rng: &mut Rng, out: &mut Vec<u8>) {
    for _ in 0..rng.range(1..4) {
        let id = number(rng);
        let message = match rng.below(5) {
            0 | 1 => start(rng, id),
            2 => {
                let (signal, group) = (number(rng), boolean(rng));
                format!(r#"{{"Signal":{{"id":{id},"signal":{signal},"group":{group}}}}}"#)
            }
            3 => format!(r#"{{"Started":{{"id":{id},"pid":{}}}}}"#, number(rng)),
            _ if rng.one_in(2) => {
                let (message, permanent) = (text(rng), boolean(rng));
                format!(
                    r#"{{"NotStarted":{{"id":{id},"message":{message},"permanent":{permanent}}}}}"#
                )
            }
            _ => {
                let how = rng.pick(&["Status", "Signal"]);
                format!(
                    r#"{{"Ended":{{"id":{id},"ending":{{"{how}":{}}}}}}}"#,
                    number(rng)
                )
            }
        };
        out.extend_from_slice(message.as_bytes());
        out.push(b'\n');
    }
    wound(rng, out, WOUNDS);
}

fn start(rng: &mut Rng, id: &str) -> String {
    let argv: Vec<String> = (0..rng.below(4)).map(|_| text(rng)).collect();
    let variable = |rng: &mut Rng| format!("[{},{}]", text(rng), text(rng));
    let env: Vec<String> = (0..rng.below(3)).map(|_| variable(rng)).collect();
    let directory = if rng.one_in(2) {
        "null".to_owned()
    } else {
        text(rng)
    };
    format!(
        r#"{{"Start":{{"id":{id},"argv":[{}],"env":[{}],"directory":{directory},"stdout":{},"stderr":{}}}}}"#,
        argv.join(","),
        env.join(","),
        text(rng),
        text(rng),
    )
}

fn number(rng: &mut Rng) -> &'static str {
    if rng.one_in(24) {
        rng.pick(ODD_NUMBERS)
    } else {
        rng.pick(NUMBERS)
    }
}

fn boolean(rng: &mut Rng) -> &'static str {
    rng.pick(&["true", "false"])
}

fn text(rng: &mut Rng) -> String {
    const PIECES: &[&str] = &[
        "",
        "A",
        "/bin/sh",
        "-c",
        "\\n",
        "\\\\",
        "\\\"",
        "\\u0041",
        "\\uD83D\\uDE00",
        "\u{e9}",
        "\u{1f600}",
        "{",
        " ",
        "some longer text",
    ];
    let pieces: Vec<&str> = (0..rng.below(4)).map(|_| rng.pick(PIECES)).collect();
    format!("\"{}\"", pieces.concat())
}
