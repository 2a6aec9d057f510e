//! An `Endpoint` is the address of a POOL function: `http://host:port/path` or `http+unix:///a.sock[:/path]`.
//! This module resolves no host name. A bridge does that in advance, so no call waits for a name server.

use std::fmt;

use serde::{Serialize, Serializer};

use super::bound::{ENDPOINT_LEN_MAX, SOCKET_PATH_LEN_MAX};

/// The path to which calls go if the address has no path. Calls to pods go to the same path.
const PATH_DEFAULT: &str = "/invoke";

const HTTP: &str = "http://";
const UNIX: &str = "http+unix://";

/// A checked `endpointUrl`. `Display` writes it with its port and path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `host` is a name, an IPv4 address, or an IPv6 address without its brackets.
    Http {
        host: String,
        port: u16,
        path: String,
    },
    /// `socket` is an absolute path.
    Unix { socket: String, path: String },
}

impl Endpoint {
    /// Returns the request target, query included.
    pub fn path(&self) -> &str {
        match self {
            Self::Http { path, .. } | Self::Unix { path, .. } => path,
        }
    }

    /// Parses an address; the error becomes the message of a `FieldError`.
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.len() > ENDPOINT_LEN_MAX {
            return Err(format!(
                "must be at most {ENDPOINT_LEN_MAX} bytes, is {}",
                url.len()
            ));
        }
        if let Some(bad) = url.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            return Err(format!("must not contain {bad:?}: percent-encode it"));
        }
        if let Some(rest) = url.strip_prefix(UNIX) {
            parse_unix(rest)
        } else if let Some(rest) = url.strip_prefix(HTTP) {
            parse_http(rest)
        } else {
            Err(format!("must begin with {HTTP} or {UNIX}, is {url:?}"))
        }
    }
}

fn parse_unix(rest: &str) -> Result<Endpoint, String> {
    let (socket, path) = match rest.split_once(":/") {
        Some((socket, path)) => (socket, format!("/{path}")),
        None => (rest, PATH_DEFAULT.to_owned()),
    };
    if !socket.starts_with('/') || socket.ends_with('/') {
        return Err(format!(
            "must name a socket by its absolute path ({UNIX}/run/a.sock:/path)"
        ));
    }
    if socket.len() > SOCKET_PATH_LEN_MAX {
        let len = socket.len();
        return Err(format!(
            "a socket's path is at most {SOCKET_PATH_LEN_MAX} bytes, is {len}"
        ));
    }
    Ok(Endpoint::Unix {
        socket: socket.to_owned(),
        path,
    })
}

fn parse_http(rest: &str) -> Result<Endpoint, String> {
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    let path = match target.as_bytes().first() {
        None => PATH_DEFAULT.to_owned(),
        Some(b'?') => format!("/{target}"),
        Some(_) => target.to_owned(),
    };
    if authority.contains('@') {
        return Err("must not contain a user or password".to_owned());
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        None => 80,
        Some(digits) => parse_port(digits)?,
    };
    Ok(Endpoint::Http {
        host: host.to_owned(),
        port,
        path,
    })
}

/// Splits `host`, `host:port`, `[v6]` and `[v6]:port`.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, tail) = rest
            .split_once(']')
            .ok_or("the bracket of its address is not closed")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("{host:?} is not an IPv6 address"));
        }
        return match tail.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if tail.is_empty() => Ok((host, None)),
            None => Err(format!("{tail:?} after the address is not a port")),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(known) {
        return Err(format!(
            "{host:?} is not a host name (IPv6 addresses need brackets)"
        ));
    }
    Ok((host, port))
}

fn parse_port(digits: &str) -> Result<u16, String> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<u16>() {
        Ok(port) if plain && port > 0 => Ok(port),
        _ => Err(format!("its port must be 1 to 65535, is {digits:?}")),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { host, port, path } if host.contains(':') => {
                write!(out, "{HTTP}[{host}]:{port}{path}")
            }
            Self::Http { host, port, path } => write!(out, "{HTTP}{host}:{port}{path}"),
            Self::Unix { socket, path } => write!(out, "{UNIX}{socket}:{path}"),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
