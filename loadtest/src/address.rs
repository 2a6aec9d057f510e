//! Parses a URL into a socket address, a `Host` and a path. No name is looked up; `localhost` is the only
//! accepted host name. An address of another machine is refused unless the user allows it, so that the tool
//! does not put load on a stranger's server by accident. `plan`, `ask` and `footprint` call this module.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ServerAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParsedUrl {
    pub(crate) address: ServerAddress,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// The longest path of a Unix socket that Linux accepts, in bytes.
const SOCKET_PATH_MAX: usize = 107;

impl ParsedUrl {
    /// Parses URLs like `http://127.0.0.1:8080/path` and `http+unix:///run/pod.sock:/path`.
    pub(crate) fn parse(url: &str, allow_remote: bool) -> Result<Self, String> {
        if let Some(rest) = url.strip_prefix("http+unix://") {
            return Self::unix(url, rest);
        }
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!(
                "{url}: begin with http:// or http+unix:// (this tool speaks no TLS)"
            ));
        };
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let address = tcp(host).ok_or_else(|| {
            format!(
                "{url}: write the host as an address, like 127.0.0.1:8080 or [::1]:8080; \
                 only localhost is known by name"
            )
        })?;
        if !address.ip().is_loopback() && !allow_remote {
            return Err(format!(
                "{url} is not on this machine; --allow-remote confirms that its owner wants this"
            ));
        }
        Ok(Self {
            address: ServerAddress::Tcp(address),
            host: host.to_owned(),
            path: clean(url, path)?,
        })
    }

    fn unix(url: &str, rest: &str) -> Result<Self, String> {
        let (socket, path) = match rest.find(":/") {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, "/"),
        };
        if !socket.starts_with('/') {
            return Err(format!(
                "{url}: write the socket's path from the root, like http+unix:///run/a.sock:/invoke"
            ));
        }
        if socket.len() > SOCKET_PATH_MAX {
            return Err(format!(
                "{socket} is {} bytes long, and Linux takes {SOCKET_PATH_MAX}; use a shorter folder",
                socket.len()
            ));
        }
        Ok(Self {
            address: ServerAddress::Unix(PathBuf::from(socket)),
            host: "localhost".to_owned(),
            path: clean(url, path)?,
        })
    }
}

fn tcp(host: &str) -> Option<SocketAddr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, 80));
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    let port = port.parse().ok()?;
    (name == "localhost").then(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
}

/// Checks that a path has only visible ASCII characters, because the path goes into the request line
/// unchanged.
fn clean(url: &str, path: &str) -> Result<String, String> {
    if path.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(path.to_owned())
    } else {
        Err(format!("{url:?}: write blanks and non-ASCII as %XX"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parsed = ParsedUrl::parse("http://127.0.0.1:81/a?b", false).expect("a place");
        assert_eq!(
            parsed.address,
            ServerAddress::Tcp("127.0.0.1:81".parse().expect("an address"))
        );
        assert_eq!(
            (parsed.host.as_str(), parsed.path.as_str()),
            ("127.0.0.1:81", "/a?b")
        );
        let parsed = ParsedUrl::parse("http://localhost", false).expect("a place");
        assert_eq!(
            parsed.address,
            ServerAddress::Tcp("127.0.0.1:80".parse().expect("an address"))
        );
        let parsed = ParsedUrl::parse("http+unix:///run/a.sock:/invoke", false).expect("a place");
        assert_eq!(parsed.address, ServerAddress::Unix("/run/a.sock".into()));
        assert_eq!(parsed.path, "/invoke");
    }

    #[test]
    fn strangers_are_refused() {
        let refusal = ParsedUrl::parse("http://192.0.2.1/", false).expect_err("refused");
        assert!(refusal.contains("--allow-remote"), "{refusal}");
        assert!(ParsedUrl::parse("http://192.0.2.1/", true).is_ok());
        for url in [
            "http://example.com/",
            "https://127.0.0.1/",
            "http+unix://a",
            "http://::1/ x",
        ] {
            assert!(ParsedUrl::parse(url, true).is_err(), "{url}");
        }
    }
}
