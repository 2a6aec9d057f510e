//! Recognises errors that mean that no descriptor was free. Such an error is about this process or the
//! machine, and not about the peer. Every connection to a pod uses it.

use std::io;

/// The errors at the limit of this process, and at the limit of the machine. Their numbers are the same on
/// every Linux.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Whether an operation failed because no descriptor was free.
pub fn are_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_peers_are_others() {
        assert!(are_missing(&io::Error::from_raw_os_error(EMFILE)));
        assert!(are_missing(&io::Error::from_raw_os_error(ENFILE)));
        assert!(!are_missing(&io::ErrorKind::ConnectionRefused.into()));
        assert!(!are_missing(&io::Error::from_raw_os_error(111)));
    }
}
