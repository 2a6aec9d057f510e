//! Recognises the errors that mean that no file descriptor was free. Such an error is about this process or
//! the machine, and not about the peer. The errors are checked where clients are accepted, and where calls
//! and probes connect to pods.

use std::io;

/// The error of a process that has reached its limit of descriptors. The numbers of this error and of
/// `ENFILE` are the same on every Linux.
const EMFILE: i32 = 24;
/// The error when the whole machine has reached its limit of descriptors.
const ENFILE: i32 = 23;

/// Returns whether an operation failed because no descriptor was free.
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
