//! The bytes that a client sent and that were not taken yet. They are in a buffer with an offset, so that
//! taking a request does not move the requests behind it. Each byte is moved a bounded number of times,
//! however many requests are before it. `client_conn` has one such buffer for each connection.

use std::ops::Deref;

use crate::runtime::buffers::Buffers;

#[derive(Default)]
pub(crate) struct PendingBytes {
    buffer: Vec<u8>,
    /// The bytes before this offset were taken.
    from: usize,
}

impl Deref for PendingBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.from..]
    }
}

impl PendingBytes {
    pub(crate) fn append(&mut self, came: Vec<u8>, buffers: &Buffers) {
        if self.buffer.capacity() == 0
            || (self.buffer.is_empty() && came.len() > self.buffer.capacity())
        {
            let came = buffers.fitted(came);
            buffers.give(std::mem::replace(&mut self.buffer, came));
            return;
        }
        // The bytes that were taken since the last move are at least as many as those that are moved now.
        // Each byte is therefore moved a bounded number of times.
        if self.from >= self.len() {
            self.compact();
        }
        self.reserve(came.len(), buffers);
        self.buffer.extend_from_slice(&came);
        buffers.give(came);
    }

    /// Makes room for `more` bytes. If this buffer is too small for them, a larger one replaces it.
    pub(crate) fn reserve(&mut self, more: usize, buffers: &Buffers) {
        let whole = self.buffer.len() + more;
        if whole <= self.buffer.capacity() {
            return;
        }
        self.compact();
        let whole = self.buffer.len() + more;
        if whole > self.buffer.capacity() {
            let mut larger = buffers.take(whole);
            larger.extend_from_slice(&self.buffer);
            buffers.give(std::mem::replace(&mut self.buffer, larger));
        }
    }

    /// Returns the size of the buffer, which may be more than the pending bytes.
    pub(crate) const fn held_bytes(&self) -> u64 {
        self.buffer.capacity() as u64
    }

    fn compact(&mut self) {
        self.buffer.drain(..std::mem::take(&mut self.from));
    }

    /// Takes the first `count` bytes, in a buffer that begins with them.
    pub(crate) fn split(&mut self, count: usize, buffers: &Buffers) -> Vec<u8> {
        // Most requests come alone, so the whole buffer is the request.
        if self.from == 0 && count == self.buffer.len() {
            return buffers.fitted(std::mem::take(&mut self.buffer));
        }
        let ahead = self.len() - count;
        if self.from == 0 && ahead <= count {
            // The bytes behind the request are no more than the request itself, so it is cheaper to copy
            // those bytes.
            let rest = copied(&self[count..], buffers);
            self.buffer.truncate(count);
            return buffers.fitted(std::mem::replace(&mut self.buffer, rest));
        }
        let taken = copied(&self[..count], buffers);
        self.skip(count, buffers);
        taken
    }

    /// Drops the first `count` bytes.
    pub(crate) fn skip(&mut self, count: usize, buffers: &Buffers) {
        assert!(count <= self.len(), "no more is forgotten than came");
        self.from += count;
        if self.is_empty() {
            buffers.give(std::mem::take(&mut self.buffer));
            self.from = 0;
        }
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

fn copied(bytes: &[u8], buffers: &Buffers) -> Vec<u8> {
    let mut copy = buffers.take(bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(bytes: &[u8], buffers: &Buffers) -> PendingBytes {
        let mut pending = PendingBytes::default();
        pending.append(bytes.to_vec(), buffers);
        pending
    }

    #[test]
    fn a_request_that_came_alone_is_not_moved() {
        let buffers = Buffers::default();
        let came = b"request".to_vec();
        let at = came.as_ptr();
        let mut pending = PendingBytes::default();
        pending.append(came, &buffers);
        let taken = pending.split(7, &buffers);
        assert_eq!((taken.as_ptr(), &taken[..]), (at, &b"request"[..]));
        assert!(pending.is_empty());
    }

    #[test]
    fn what_was_sent_ahead_stays_where_it_lies() {
        let buffers = Buffers::default();
        let mut pending = pending(&b"0123456789".repeat(6400), &buffers);
        let end = pending.as_ptr_range().end;
        for _ in 0..6399 {
            assert_eq!(pending.split(10, &buffers), b"0123456789");
            assert_eq!(pending.as_ptr_range().end, end);
        }
        assert_eq!(pending.split(10, &buffers), b"0123456789");
        assert!(pending.is_empty());
    }

    /// After any sequence of arrivals, takes and skips, the bytes come out unchanged and in the order in
    /// which they came in.
    #[test]
    fn bytes_come_out_as_they_went_in() {
        let buffers = Buffers::default();
        let mut pending = PendingBytes::default();
        let mut bytes = (0..=255_u8).cycle();
        let mut expected = (0..=255_u8).cycle();
        for step in 0..20_000_usize {
            let came: Vec<u8> = bytes.by_ref().take(step * 7 % 301).collect();
            if !came.is_empty() {
                pending.append(came, &buffers);
            }
            if step % 31 == 0 {
                pending.reserve(64, &buffers);
            }
            let count = (step * 13 % 307).min(pending.len());
            if step % 3 == 0 {
                pending.skip(count, &buffers);
                expected.by_ref().take(count).for_each(drop);
            } else if count > 0 {
                let taken = pending.split(count, &buffers);
                assert!(taken.iter().copied().eq(expected.by_ref().take(count)));
            }
            assert!(pending.buffer.len() <= 2 * pending.len() + 1024, "it grows");
        }
    }
}
