//! Makes the request of a probe, and decides what the pod's answer means. This module sends nothing: the
//! bridges send the probes, and keep one `Health` for each pod.

use std::cell::Cell;

/// The length of a status line up to the end of its code, in bytes.
pub const STATUS_LEN: usize = "HTTP/1.1 200".len();

/// Whether a pod has answered a probe with 2xx so far.
#[derive(Debug, Default)]
pub struct Health {
    was_well: Cell<bool>,
}

impl Health {
    /// Returns whether a pod that answers with `status` can take calls. A 404 or 405 means that the server
    /// has no health path, and such a server is ready as soon as it answers. But if the server has answered
    /// 2xx before, it has a health path, and a 404 or 405 means that it is not ready.
    pub fn is_well(&self, status: u16) -> bool {
        match status {
            200..=299 => true,
            404 | 405 => !self.was_well.get(),
            _ => false,
        }
    }

    /// Notes the status of an answer that is known to come from the pod itself.
    pub fn note(&self, status: u16) {
        if (200..300).contains(&status) {
            self.was_well.set(true);
        }
    }
}

/// Makes the request of a probe. `host` is the function's name, as in the requests of calls.
pub fn request(path: &str, host: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Returns the status code in the first bytes of an answer; none if the bytes are not HTTP/1.0 or HTTP/1.1.
pub fn status(start: &[u8; STATUS_LEN]) -> Option<u16> {
    let code = start.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', code @ ..] = code else {
        return None;
    };
    let code = std::str::from_utf8(code).ok()?;
    let digits = code.bytes().all(|byte| byte.is_ascii_digit());
    code.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_404_is_healthy_only_before_2xx() {
        let health = Health::default();
        for (status, is_well) in [
            (503, false),
            (404, true),
            (405, true),
            (401, false),
            (301, false),
            (100, false),
            (500, false),
            (204, true),
            (404, false),
            (405, false),
            (200, true),
        ] {
            assert_eq!(health.is_well(status), is_well, "{status}");
            health.note(status);
        }
    }

    #[test]
    fn a_status_is_read_from_the_first_bytes() {
        assert_eq!(status(b"HTTP/1.1 200"), Some(200));
        assert_eq!(status(b"HTTP/1.0 404"), Some(404));
        for bytes in [
            b"HTTP/1.1 2x0",
            b"HTTP/2.0 200",
            b"SSH-2.0-Open",
            b"HTTP/1.1 +20",
        ] {
            assert_eq!(status(bytes), None);
        }
        let request = request("/up?x", "f");
        assert!(request.starts_with(b"GET /up?x HTTP/1.1\r\nHost: f\r\n"));
    }
}
