//! Reads requests and writes answers in the part of HTTP/1.1 that a client of an API server needs. A body
//! must come with a content-length. This module knows the paths and verbs of Kubernetes, but no object.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::script::Asked;

pub(crate) struct ServedRequest {
    pub(crate) verb: &'static str,
    pub(crate) group: String,
    pub(crate) resource: String,
    /// The name of the object; empty if the request is for a collection.
    pub(crate) name: String,
    pub(crate) subresource: Option<String>,
    pub(crate) query: String,
    pub(crate) body: Value,
}

/// Reads the next request. Returns `None` if the client has closed the connection or sent an invalid head.
pub(crate) async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<ServedRequest> {
    let mut first = String::new();
    stream.read_line(&mut first).await.ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        let is_chunked = name.eq_ignore_ascii_case("transfer-encoding");
        assert!(!is_chunked, "the client knows how long its body is");
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let mut words = first.split_ascii_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    Some(ServedRequest::of(method, target, &body))
}

impl ServedRequest {
    fn of(method: &str, target: &str, body: &[u8]) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let group = match parts.next() {
            Some("api") => String::new(),
            Some("apis") => parts.next().unwrap_or_default().to_owned(),
            _ => panic!("no path of the API: {target}"),
        };
        let rest: Vec<&str> = parts.collect();
        let [_, "namespaces", "test", resource, rest @ ..] = &rest[..] else {
            panic!("not in the namespace: {target}");
        };
        let name = rest.first().copied().unwrap_or_default();
        let subresource = rest.get(1).map(|part| (*part).to_owned());
        let mut request = Self {
            verb: "",
            group,
            resource: (*resource).to_owned(),
            name: name.to_owned(),
            subresource,
            query: decoded(query),
            body: serde_json::from_slice(body).unwrap_or_default(),
        };
        let is_watch = request
            .parameter("watch")
            .is_some_and(|word| word == "true");
        request.verb = match method {
            "GET" if is_watch => "watch",
            "GET" if name.is_empty() => "list",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if !name.is_empty() => "delete",
            _ => panic!("no such request: {method} {target}"),
        };
        request
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let all = self.query.split('&');
        let mut pairs = all.filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(of, _)| *of == name);
        found.map(|(_, value)| value.to_owned())
    }

    pub(crate) fn asked(&self, at: Instant) -> Asked {
        let resource = match &self.subresource {
            Some(sub) => format!("{}/{sub}", self.resource),
            None => self.resource.clone(),
        };
        Asked {
            at,
            verb: self.verb,
            group: self.group.clone(),
            resource,
            name: self.name.clone(),
            query: self.query.clone(),
            body: self.body.clone(),
        }
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(b'0'));
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Writes an answer; returns whether all of it could be written.
pub(crate) async fn write_answer(
    stream: &mut BufReader<TcpStream>,
    code: u16,
    body: &Value,
    retry_after_s: Option<u32>,
) -> bool {
    // A body that is a string is sent without quotes, because the API server's own rate limiter answers in
    // plain text.
    let text = body.as_str().map(str::to_owned);
    let body = text.unwrap_or_else(|| body.to_string());
    let retry = retry_after_s.map(|after| format!("Retry-After: {after}\r\n"));
    let head = format!(
        "HTTP/1.1 {code} Scripted\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
        retry.unwrap_or_default(),
        body.len()
    );
    let whole = [head, body].concat();
    stream.write_all(whole.as_bytes()).await.is_ok()
}

/// Writes the head and half the body of an answer. Returns false, so that the caller closes the connection.
pub(crate) async fn cut_answer(stream: &mut BufReader<TcpStream>, body: &Value) -> bool {
    let body = body.to_string();
    let (half, whole) = (&body[..body.len() / 2], body.len());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let text = format!("{head}Content-Length: {whole}\r\n\r\n{half}");
    let _ = stream.write_all(text.as_bytes()).await;
    false
}
