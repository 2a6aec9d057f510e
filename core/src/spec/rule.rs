//! Checks texts such as names and paths, and fields that depend on each other or on the platform. Ranges are
//! in `bound`; `reader` checks the types of single fields.

use super::bound::{HEALTH_PATH_LEN_MAX, KUBERNETES_NAME_LEN_MAX, NAME_LEN_MAX, ORIGIN_LEN_MAX};
use super::draft::FunctionDraft;
use super::{ExecutionMode, FieldError, Platform, SpecFields};

/// The environment variables that a function cannot set, because the platform sets them in pods.
pub const ENV_RESERVED: [&str; 15] = [
    "PORT",
    "NANOFAAS_SOCKET",
    "FUNCTION_NAME",
    "EXECUTION_MODE",
    "WATCHDOG_CMD",
    "NANOFAAS_READY_URL",
    "NANOFAAS_HEALTH_PATH",
    "CALLBACK_URL",
    "EXECUTION_ID",
    "DISPATCH_ATTEMPT",
    "TRACE_ID",
    "TIMEOUT_MS",
    "INVOCATION_TIMEOUT_MS",
    "INVOCATION_PAYLOAD",
    "INVOCATION_PAYLOAD_URL",
];

/// Checks that a text is a function name on this platform. The error describes valid names.
pub fn check_name(name: &str, platform: Platform) -> Result<(), String> {
    if platform == Platform::Kubernetes {
        return check_kubernetes_name(name);
    }
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if first && name.len() <= NAME_LEN_MAX && name.bytes().all(rest) {
        return Ok(());
    }
    Err(format!(
        "must be a letter, then up to {} letters, digits, dots, underscores or hyphens, \
         is {name:?}",
        NAME_LEN_MAX - 1,
    ))
}

fn check_kubernetes_name(name: &str) -> Result<(), String> {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase());
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let last = !name.ends_with('-');
    if first && last && name.len() <= KUBERNETES_NAME_LEN_MAX && name.bytes().all(rest) {
        return Ok(());
    }
    Err(format!(
        "must on Kubernetes be at most {KUBERNETES_NAME_LEN_MAX} lower-case letters, digits and \
         hyphens, with a letter first and no hyphen last, is {name:?}",
    ))
}

pub(super) fn check_image(image: &str) -> Result<String, String> {
    if image.chars().all(|c| c.is_ascii_graphic()) {
        Ok(image.to_owned())
    } else {
        Err(format!(
            "must not contain spaces or non-ASCII characters, is {image:?}"
        ))
    }
}

/// Checks that a health path is short enough and can stand in a request line unchanged.
pub(super) fn check_health_path(path: &str) -> Result<String, String> {
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.starts_with('/') && plain && path.len() <= HEALTH_PATH_LEN_MAX {
        return Ok(path.to_owned());
    }
    Err(format!(
        "must be a path that begins with /, of at most {HEALTH_PATH_LEN_MAX} ASCII characters without \
         spaces and #, is {path:?}"
    ))
}

/// Accepts `*`, or an origin as browsers write it (RFC 6454 §6.2). The control plane compares the origin with
/// the `Origin` header byte by byte.
pub(super) fn check_origin(origin: &str) -> Result<(), String> {
    let host = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    let is_origin = host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain));
    if origin == "*" || (is_origin && origin.len() <= ORIGIN_LEN_MAX) {
        return Ok(());
    }
    Err(format!(
        "must be an origin (http://host or https://host:port, lower case, without a path) or *, is {origin:?}"
    ))
}

/// Checks a name by Kubernetes' rule for the names of Secrets.
pub(super) fn check_secret_name(name: &str) -> Result<(), String> {
    let outer = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let inner = |byte: u8| outer(Some(byte)) || matches!(byte, b'.' | b'-');
    let ends = outer(name.bytes().next()) && outer(name.bytes().next_back());
    if ends && name.len() <= 253 && name.bytes().all(inner) {
        return Ok(());
    }
    Err(format!(
        "must be a Secret's name (lower-case letters, digits, . and -), is {name:?}"
    ))
}

pub(super) fn check_env_name(name: &str) -> Result<(), String> {
    if ENV_RESERVED.contains(&name) {
        return Err("is set by the platform and cannot be overridden".to_owned());
    }
    let first = |byte: u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'-' | b'.');
    let inner = |byte: u8| first(byte) || byte.is_ascii_digit();
    if name.bytes().next().is_some_and(first) && name.bytes().all(inner) {
        return Ok(());
    }
    Err("must be a name of letters, digits, _, - or . that does not begin with a digit".to_owned())
}

/// Reports the missing fields that the mode and the platform need. A field that is given but invalid is not
/// reported as missing, because its own fault is reported already.
pub(super) fn check_across(
    spec: &SpecFields,
    draft: &FunctionDraft,
    platform: Platform,
    faults: &mut Vec<FieldError>,
) {
    // With an unknown mode it is not known which other fields are needed.
    if faults.iter().any(|fault| fault.field == "executionMode") {
        return;
    }
    let mode = spec.execution_mode;
    if mode == ExecutionMode::Pool && draft.get("endpointUrl").is_none() {
        let message = "is required for POOL: http://host:port/path or http+unix:///a.sock:/path";
        faults.push(FieldError::new("endpointUrl", message));
    }
    if !mode.has_pods() {
        return;
    }
    match platform {
        Platform::Kubernetes if draft.get("image").is_none() => {
            faults.push(FieldError::new(
                "image",
                format!("is required for {mode} on Kubernetes"),
            ));
        }
        Platform::Local if spec.local.command.is_empty() && spec.command.is_empty() => {
            let given = draft
                .get("command")
                .is_some_and(|value| !is_empty_list(value))
                || draft
                    .get("local.command")
                    .is_some_and(|value| !is_empty_list(value));
            if !given {
                let message = format!(
                    "is required for {mode} without a cluster: name the program to run in \
                     local.command or command"
                );
                faults.push(FieldError::new("command", message));
            }
        }
        Platform::None => {
            let message = format!(
                "{mode} needs something that runs pods, and this platform was started with \
                 --backend none: use POOL or LOCAL"
            );
            faults.push(FieldError::new("executionMode", message));
        }
        Platform::Kubernetes | Platform::Local => {}
    }
}

fn is_empty_list(value: &super::Json) -> bool {
    matches!(value, super::Json::List(items) if items.is_empty())
}
