//! Buffers that requests and answers come in, used again so that a warm call allocates none.
//! It keeps a bounded number and never a large one.

use std::cell::RefCell;

/// The first buffer of an idle connection: small, since there may be ten thousand of them.
pub(crate) const SMALL: usize = 1024;
const MEDIUM: usize = 16 * 1024;
/// A large read, or a body as large with a head before it.
const LARGEST_KEPT: usize = 80 * 1024;
const KEPT: usize = 256;

/// A thread's spare buffers, empty ones.
#[derive(Default)]
pub(crate) struct Buffers {
    small: RefCell<Vec<Vec<u8>>>,
    medium: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer with room for at least `room` bytes.
    pub(crate) fn take(&self, room: usize) -> Vec<u8> {
        let spare = if room <= SMALL {
            &self.small
        } else {
            &self.medium
        };
        let mut buffer = spare.borrow_mut().pop().unwrap_or_default();
        let room = if room <= SMALL {
            SMALL
        } else {
            room.max(MEDIUM)
        };
        // Exactly: what grew in steps would soon be too large to be kept.
        buffer.reserve_exact(room);
        buffer
    }

    /// Takes a buffer back.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let room = buffer.capacity();
        if !(SMALL..=LARGEST_KEPT).contains(&room) {
            return;
        }
        let spare = if room < MEDIUM {
            &self.small
        } else {
            &self.medium
        };
        let mut spare = spare.borrow_mut();
        if spare.len() < KEPT {
            buffer.clear();
            spare.push(buffer);
        }
    }
}
