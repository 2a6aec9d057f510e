//! Tells an error for want of a descriptor from others: it says something of this process, or of the machine,
//! and nothing of the peer. It opens nothing. Whatever connects to pods asks it.

use std::io;

/// Of this process, and of the machine; the same numbers on every Linux.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

/// Whether an operation failed for want of a descriptor.
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
