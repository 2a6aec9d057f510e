//! Maps a method and a path to a route of the API. It does not check that the function or the execution
//! exists.

use nanofaas_core::id::ExecutionId;
use nanofaas_http1::header_value::percent_decode;
use nanofaas_http1::request::Method;

use crate::http::error::HttpError;

/// A route of the API, with the decoded names of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiRoute<'a> {
    Invoke(Name<'a>),
    Enqueue(Name<'a>),
    Functions(Verb),
    Function(Name<'a>, Verb),
    Replicas(Name<'a>),
    ColdStarts(Name<'a>),
    Execution(ExecutionId, Verb),
    Output(ExecutionId),
    Complete {
        token: &'a [u8],
        id: ExecutionId,
    },
    Input {
        token: &'a [u8],
        id: ExecutionId,
    },
    PodReady {
        token: &'a [u8],
        pod: Name<'a>,
    },
    OpenApi,
    /// A request to a function at `/fn/`, with the length of the function's name as the path spells it.
    Forward(Name<'a>, usize),
}

/// The method of a request, for paths that take several methods. A HEAD counts as a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

/// A name in a path. It is copied only if it has percent escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    Plain(&'a str),
    Decoded(String),
}

impl Name<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Plain(name) => name,
            Self::Decoded(name) => name,
        }
    }
}

fn name(segment: &[u8]) -> Result<Name<'_>, HttpError> {
    if !segment.contains(&b'%') {
        let text = std::str::from_utf8(segment).map_err(|_| HttpError::NoSuchPath)?;
        return Ok(Name::Plain(text));
    }
    let mut room = vec![0; segment.len()];
    Ok(Name::Decoded(
        percent_decode(segment, &mut room)?.to_owned(),
    ))
}

fn verb(method: Method, allow: &'static str) -> Result<Verb, HttpError> {
    let (word, verb) = match method {
        Method::Get | Method::Head => ("GET", Verb::Get),
        Method::Post => ("POST", Verb::Post),
        Method::Put => ("PUT", Verb::Put),
        Method::Delete => ("DELETE", Verb::Delete),
        Method::Options | Method::Patch | Method::Connect | Method::Trace | Method::Other(_) => {
            ("", Verb::Get)
        }
    };
    // The comparison with the whole list suffices for calls, because the path of a call takes only one
    // method.
    let allowed = word == allow || !word.is_empty() && allow.split(", ").any(|one| one == word);
    if allowed {
        Ok(verb)
    } else {
        Err(HttpError::MethodNotAllowed { allow })
    }
}

pub(crate) fn route(method: Method, path: &[u8]) -> Result<ApiRoute<'_>, HttpError> {
    let Some(rest) = path.strip_prefix(b"/v1/") else {
        if let Some(rest) = path.strip_prefix(b"/fn/") {
            return forward(method, rest);
        }
        if path == b"/openapi.yaml" {
            return verb(method, "GET, HEAD").map(|_| ApiRoute::OpenApi);
        }
        return Err(HttpError::NoSuchPath);
    };
    if let Some(rest) = rest.strip_prefix(b"functions") {
        return functions(method, rest);
    }
    if let Some(rest) = rest.strip_prefix(b"executions/") {
        return executions(method, rest);
    }
    if let Some(rest) = rest.strip_prefix(b"internal/") {
        return internal(method, rest);
    }
    Err(HttpError::NoSuchPath)
}

/// Accepts every method except CONNECT and TRACE: CONNECT would open a tunnel, and TRACE would show the
/// request to its sender.
fn forward(method: Method, rest: &[u8]) -> Result<ApiRoute<'_>, HttpError> {
    if matches!(method, Method::Connect | Method::Trace) {
        let allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
        return Err(HttpError::MethodNotAllowed { allow });
    }
    let end = rest
        .iter()
        .position(|byte| *byte == b'/')
        .unwrap_or(rest.len());
    Ok(ApiRoute::Forward(name(&rest[..end])?, end))
}

fn functions(method: Method, rest: &[u8]) -> Result<ApiRoute<'_>, HttpError> {
    if rest.is_empty() {
        return verb(method, "GET, HEAD, POST").map(ApiRoute::Functions);
    }
    let rest = rest.strip_prefix(b"/").ok_or(HttpError::NoSuchPath)?;
    if let Some(at) = rest.iter().position(|byte| *byte == b'/') {
        let function = name(&rest[..at])?;
        return match &rest[at + 1..] {
            b"replicas" => verb(method, "PUT").map(|_| ApiRoute::Replicas(function)),
            b"cold-starts" => verb(method, "GET, HEAD").map(|_| ApiRoute::ColdStarts(function)),
            _ => Err(HttpError::NoSuchPath),
        };
    }
    // The action begins at the last colon, so that a colon in a name cannot hide the action.
    if let Some(at) = rest.iter().rposition(|byte| *byte == b':') {
        let function = name(&rest[..at])?;
        return match &rest[at + 1..] {
            b"invoke" => verb(method, "POST").map(|_| ApiRoute::Invoke(function)),
            b"enqueue" => verb(method, "POST").map(|_| ApiRoute::Enqueue(function)),
            _ => Err(HttpError::NoSuchPath),
        };
    }
    if rest.is_empty() {
        return Err(HttpError::NoSuchPath);
    }
    let verb = verb(method, "GET, HEAD, PUT, DELETE")?;
    Ok(ApiRoute::Function(name(rest)?, verb))
}

fn execution(text: &[u8]) -> Result<ExecutionId, HttpError> {
    ExecutionId::parse(text).ok_or(HttpError::NoSuchExecution)
}

/// Parses the id in a path with a token. An invalid id gets the answer to a wrong token, so that the answer
/// does not reveal which executions exist.
fn owned(text: &[u8]) -> Result<ExecutionId, HttpError> {
    let why = "the token is not that of this execution";
    ExecutionId::parse(text).ok_or(HttpError::Forbidden(why))
}

fn executions(method: Method, rest: &[u8]) -> Result<ApiRoute<'_>, HttpError> {
    if let Some(text) = rest.strip_suffix(b"/output") {
        verb(method, "GET, HEAD")?;
        return execution(text).map(ApiRoute::Output);
    }
    if rest.contains(&b'/') {
        return Err(HttpError::NoSuchPath);
    }
    let verb = verb(method, "GET, HEAD, DELETE")?;
    execution(rest).map(|id| ApiRoute::Execution(id, verb))
}

fn internal(method: Method, rest: &[u8]) -> Result<ApiRoute<'_>, HttpError> {
    let at = rest
        .iter()
        .position(|byte| *byte == b'/')
        .ok_or(HttpError::NoSuchPath)?;
    let (token, rest) = (&rest[..at], &rest[at + 1..]);
    if let Some(rest) = rest.strip_prefix(b"executions/") {
        if let Some(text) = rest.strip_suffix(b":complete") {
            verb(method, "POST")?;
            return owned(text).map(|id| ApiRoute::Complete { token, id });
        }
        let text = rest.strip_suffix(b"/input").ok_or(HttpError::NoSuchPath)?;
        verb(method, "GET, HEAD")?;
        return owned(text).map(|id| ApiRoute::Input { token, id });
    }
    let pod = rest
        .strip_prefix(b"pods/")
        .and_then(|rest| rest.strip_suffix(b":ready"));
    let pod = pod.ok_or(HttpError::NoSuchPath)?;
    verb(method, "POST")?;
    Ok(ApiRoute::PodReady {
        token,
        pod: name(pod)?,
    })
}

#[cfg(test)]
mod tests {
    use nanofaas_core::shard::ShardId;

    use super::*;

    #[test]
    fn every_path_of_the_contract_is_found() {
        let id = ExecutionId::new(9, ShardId::new(0), 0);
        let text = String::from_utf8(id.text().to_vec()).unwrap();
        let plain = Name::Plain;
        let cases = [
            (
                Method::Post,
                "/v1/functions".to_owned(),
                ApiRoute::Functions(Verb::Post),
            ),
            (
                Method::Get,
                "/v1/functions/a.b".into(),
                ApiRoute::Function(plain("a.b"), Verb::Get),
            ),
            (
                Method::Put,
                "/v1/functions/a/replicas".into(),
                ApiRoute::Replicas(plain("a")),
            ),
            (
                Method::Get,
                "/v1/functions/a/cold-starts".into(),
                ApiRoute::ColdStarts(plain("a")),
            ),
            (
                Method::Post,
                "/v1/functions/a:invoke".into(),
                ApiRoute::Invoke(plain("a")),
            ),
            (
                Method::Post,
                "/v1/functions/a%2Db:enqueue".into(),
                ApiRoute::Enqueue(Name::Decoded("a-b".into())),
            ),
            (
                Method::Delete,
                format!("/v1/executions/{text}"),
                ApiRoute::Execution(id, Verb::Delete),
            ),
            (
                Method::Head,
                format!("/v1/executions/{text}/output"),
                ApiRoute::Output(id),
            ),
            (
                Method::Post,
                format!("/v1/internal/1.ab/executions/{text}:complete"),
                ApiRoute::Complete { token: b"1.ab", id },
            ),
            (
                Method::Get,
                format!("/v1/internal/1.ab/executions/{text}/input"),
                ApiRoute::Input { token: b"1.ab", id },
            ),
            (
                Method::Post,
                "/v1/internal/t/pods/p:ready".into(),
                ApiRoute::PodReady {
                    token: b"t",
                    pod: plain("p"),
                },
            ),
            (Method::Get, "/openapi.yaml".into(), ApiRoute::OpenApi),
        ];
        for (method, path, expected) in cases {
            let found = route(method, path.as_bytes());
            assert!(
                matches!(&found, Ok(route) if *route == expected),
                "{path}: {found:?}"
            );
        }
    }

    #[test]
    fn other_paths_fail_and_methods_are_named() {
        for path in [
            "/",
            "/v1",
            "/v1/functions/",
            "/v1/functions/a:run",
            "/v1/functions/a/b",
            "/v1/x",
        ] {
            assert!(
                matches!(
                    route(Method::Get, path.as_bytes()),
                    Err(HttpError::NoSuchPath)
                ),
                "{path}"
            );
        }
        let wrong = route(Method::Get, b"/v1/functions/a:invoke");
        assert!(matches!(
            wrong,
            Err(HttpError::MethodNotAllowed { allow: "POST" })
        ));
        let unknown = route(Method::Get, b"/v1/executions/nope");
        assert!(matches!(unknown, Err(HttpError::NoSuchExecution)));
    }
}
