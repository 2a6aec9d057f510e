//! Makes function files in YAML and JSON, in the bare form and in that of Kubernetes, and damages some of
//! them.

use nanofaas_fuzz::Rng;

use crate::cases::wound;

const WOUNDS: &[&str] = &[
    "\n",
    "\n---\n",
    "\n  ",
    "  ",
    "\t",
    ":",
    ": ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "#",
    " #",
    "&a ",
    "*a",
    "!x ",
    "|\n",
    ">-\n",
    "?",
    "%",
    "0",
    "-",
    ".",
    "1e400",
    "0x1F",
    "~",
    "null",
    "yes",
    "\u{e9}",
    "\u{feff}",
    "\0",
    "name: g\n",
    "spec:\n",
    "<<: ",
];

type Field = (&'static str, &'static str);

/// Each entry has the fields of a valid function. The values are YAML, and most of them are JSON, too.
const MODES: &[&[Field]] = &[
    &[
        ("executionMode", "WARM"),
        ("image", r#""localhost/f:1""#),
        ("local", r#"{"command": ["x"], "env": {"A": "b"}}"#),
    ],
    &[
        ("executionMode", "DEPLOYMENT"),
        ("image", r#""f""#),
        ("runtimeMode", "STDIO"),
        ("runtimeCommand", r#"["./x.sh"]"#),
        ("local", r#"{"command":["x"],"directory":"../y"}"#),
    ],
    &[
        ("image", r#""localhost/f:1""#),
        ("command", r#"["python3", "-m", "x"]"#),
    ],
    &[("executionMode", r#""LOCAL""#)],
    &[
        ("executionMode", "POOL"),
        ("endpointUrl", r#""http://127.0.0.1:8080/x""#),
    ],
];
const FIELDS: &[Field] = &[
    ("imagePullPolicy", "Always"),
    ("imagePullSecrets", r#"["a", "b"]"#),
    ("env", r#"{"A":"b","C":""}"#),
    ("resources", r#"{"cpu":"500m","memory":"64Mi"}"#),
    (
        "podTemplate",
        r#"{"spec": {"nodeSelector": {"a": "caf\u00e9"}}}"#,
    ),
    ("timeoutMs", "500"),
    ("concurrency", "64"),
    ("queueSize", "10"),
    ("maxRetries", "0"),
    ("retryOn", r#"["POD","TIMEOUT"]"#),
    ("retryOn", "[]"),
    ("scalingConfig", r#"{"minReplicas":1,"maxReplicas":2}"#),
    ("scalingConfig", r#"{"idleTimeoutMs": 60000}"#),
    ("healthPath", r#""/ready""#),
    ("effectiveExecutionMode", "WARM"),
];
const ODD_FIELDS: &[Field] = &[
    ("executionMode", "warm"),
    ("concurrency", "0"),
    ("timeoutMs", "1e3"),
    ("queueSize", r#""10""#),
    ("queueSize", "18446744073709551616"),
    ("env", r#"{"NANOFAAS_X":"b"}"#),
    ("resources", r#"{"memory":"64Mo"}"#),
    ("scalingConfig", r#"{"minReplicas":3,"maxReplicas":2}"#),
    ("retryOn", r#"["POD","x"]"#),
    ("endpointUrl", r#""ftp://h""#),
    ("local", "[]"),
    ("x", "null"),
    ("name", "g"),
];
const NAMES: &[&str] = &["f", "word-stats", "a0"];
const ODD_NAMES: &[&str] = &["F_", "", "-a", "1"];

/// Makes one or two documents.
pub(crate) fn function_files(rng: &mut Rng, out: &mut Vec<u8>) {
    for document in 0..rng.range(1..3) {
        if document > 0 {
            out.extend_from_slice(b"---\n");
        }
        let name = if rng.one_in(16) {
            rng.pick(ODD_NAMES)
        } else {
            rng.pick(NAMES)
        };
        let fields = fields(rng);
        let text = match rng.below(4) {
            0 => format!("{{\"name\": \"{name}\", {}}}\n", json(&fields)),
            1 => format!("name: {name}\n{}", block(&fields, "")),
            2 => format!(
                "{{\"apiVersion\":\"nanofaas.io/v1\",\"kind\":\"Function\",\
                 \"metadata\":{{\"name\":\"{name}\"}},\"spec\":{{{}}}}}\n",
                json(&fields)
            ),
            _ => format!(
                "apiVersion: nanofaas.io/v1\nkind: Function\nmetadata:\n  name: {name}  # a comment\n\
                 spec:\n{}",
                block(&fields, "  ")
            ),
        };
        out.extend_from_slice(text.as_bytes());
    }
    wound(rng, out, WOUNDS);
}

/// Picks the fields of a mode, and up to four others. One document in 32 may have a field twice.
fn fields(rng: &mut Rng) -> Vec<Field> {
    let mut fields = MODES[rng.below(MODES.len())].to_vec();
    let may_repeat = rng.one_in(32);
    for _ in 0..rng.below(5) {
        let choices = if rng.one_in(24) { ODD_FIELDS } else { FIELDS };
        let field = choices[rng.below(choices.len())];
        if may_repeat || fields.iter().all(|(name, _)| *name != field.0) {
            fields.push(field);
        }
    }
    fields
}

/// Writes the fields as members of an object in YAML's flow style. If all values are quoted, the result is
/// JSON, too.
fn json(fields: &[Field]) -> String {
    let members = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\": {value}"));
    members.collect::<Vec<_>>().join(", ")
}

/// Writes the fields as lines of YAML.
fn block(fields: &[Field], indent: &str) -> String {
    let lines = fields
        .iter()
        .map(|(name, value)| format!("{indent}{name}: {value}\n"));
    lines.collect()
}
