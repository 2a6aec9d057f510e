//! Reusable buffers for requests and answers, so that a warm call allocates no buffer. The size of a buffer
//! follows from the number of bytes for which it is taken, so the buffer can be charged before it is taken. A
//! thread keeps a bounded number of spare buffers, and frees them after it has been idle for a while.

use std::cell::RefCell;

/// The size of the first buffer of an idle connection, in bytes. It is small, because there may be ten
/// thousand such connections.
pub(crate) const SMALL: usize = 1024;
/// The size of the buffer of a large receive, in bytes.
pub(crate) const LARGE: usize = 80 * 1024;

/// The sizes, and how many spare buffers of each size are kept.
const CLASSES: [(usize, usize); 5] = [
    (SMALL, 256),
    (4 * 1024, 256),
    (16 * 1024, 64),
    (32 * 1024, 64),
    // This size has room for a body or a receive of 64 KiB with a head before it.
    (LARGE, 32),
];

/// The spare buffers of a thread, all of them empty.
#[derive(Default)]
pub(crate) struct Buffers {
    spare: [RefCell<Vec<Vec<u8>>>; CLASSES.len()],
}

impl Buffers {
    /// Returns the capacity of the buffers that `take` returns for `bytes`.
    pub(crate) fn size_for(bytes: usize) -> usize {
        let fitting = CLASSES.iter().find(|(size, _)| bytes <= *size);
        fitting.map_or(bytes, |(size, _)| *size)
    }

    /// Returns an empty buffer with room for `room` bytes. Its capacity is `size_for(room)`.
    pub(crate) fn take(&self, room: usize) -> Vec<u8> {
        let class = CLASSES.iter().position(|(size, _)| room <= *size);
        let kept = class.and_then(|class| self.spare[class].borrow_mut().pop());
        kept.unwrap_or_else(|| Vec::with_capacity(Self::size_for(room)))
    }

    /// Takes a buffer back. The buffer is kept if it has one of the sizes, and if there is room for one more
    /// of that size.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let room = buffer.capacity();
        let Some(class) = CLASSES.iter().position(|(size, _)| room == *size) else {
            return;
        };
        let mut spare = self.spare[class].borrow_mut();
        if spare.len() < CLASSES[class].1 {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// Moves the content of a buffer into a buffer of the smallest fitting size, if that saves more than half
    /// of the memory.
    pub(crate) fn fitted(&self, buffer: Vec<u8>) -> Vec<u8> {
        let size = Self::size_for(buffer.len());
        if buffer.capacity() <= 2 * size {
            return buffer;
        }
        let mut smaller = self.take(buffer.len());
        smaller.extend_from_slice(&buffer);
        self.give(buffer);
        smaller
    }

    pub(crate) fn clear(&self) {
        for spare in &self.spare {
            spare.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_large_as_was_said() {
        let buffers = Buffers::default();
        for room in [
            0,
            1,
            SMALL,
            SMALL + 1,
            5000,
            20_000,
            40_000,
            LARGE,
            LARGE + 1,
        ] {
            for _ in 0..2 {
                let buffer = buffers.take(room);
                assert_eq!(buffer.capacity(), Buffers::size_for(room));
                assert!(buffer.is_empty() && buffer.capacity() >= room);
                buffers.give(buffer);
            }
        }
    }

    #[test]
    fn kept_buffers_are_bounded_and_can_be_freed() {
        let buffers = Buffers::default();
        for room in [SMALL, 4096, 16 * 1024, 32 * 1024, LARGE, 1 << 20] {
            let many: Vec<_> = (0..1000).map(|_| buffers.take(room)).collect();
            many.into_iter().for_each(|buffer| buffers.give(buffer));
        }
        let kept = || {
            let of = |spare: &RefCell<Vec<Vec<u8>>>| {
                spare.borrow().iter().map(Vec::capacity).sum::<usize>()
            };
            buffers.spare.iter().map(of).sum::<usize>()
        };
        assert!(kept() < 8 << 20, "{}", kept());
        buffers.clear();
        assert_eq!(kept(), 0);
    }

    #[test]
    fn small_content_moves_to_a_small_buffer() {
        let buffers = Buffers::default();
        let mut large = buffers.take(LARGE);
        large.extend_from_slice(b"little");
        let fitted = buffers.fitted(large);
        assert_eq!((&fitted[..], fitted.capacity()), (&b"little"[..], SMALL));
    }
}
