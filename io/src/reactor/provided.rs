//! Buffers that the kernel chooses from when bytes have come, so that a connection on which nothing
//! comes holds none. Each that is taken is replaced at once by another of the thread's. `uring` owns it.
#![allow(unsafe_code)] // The kernel reads this memory and writes where it points.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::buffers::{Buffers, SMALL};

/// The only group there is.
pub(super) const GROUP: u16 = 0;
/// A power of two. More receives than that in one pass are told that there is none, and bring their own.
const COUNT: u16 = 256;

pub(super) struct Provided {
    /// Shared with the kernel for as long as the process lives.
    ring: NonNull<BufRingEntry>,
    /// By their numbers; the kernel may write to each of them.
    buffers: Vec<Vec<u8>>,
    tail: u16,
}

impl Provided {
    pub(super) fn new(submitter: &Submitter<'_>, buffers: &Buffers) -> io::Result<Self> {
        let size = usize::from(COUNT) * size_of::<BufRingEntry>();
        let layout =
            Layout::from_size_align(size, rustix::param::page_size()).map_err(io::Error::other)?;
        // SAFETY: the layout has a size, and an entry of zeros is one.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(ring) = NonNull::new(memory.cast()) else {
            handle_alloc_error(layout)
        };
        let address = memory as u64;
        // SAFETY: it has so many entries, on a page of its own, and is never freed.
        unsafe { submitter.register_buf_ring_with_flags(address, COUNT, GROUP, 0)? };
        let mut provided = Self {
            ring,
            buffers: (0..COUNT).map(|_| buffers.take(SMALL)).collect(),
            tail: 0,
        };
        for number in 0..COUNT {
            provided.provide(number);
        }
        Ok(provided)
    }

    /// The buffer that the kernel chose and wrote so many bytes to.
    pub(super) fn take(&mut self, number: u16, count: usize, buffers: &Buffers) -> Vec<u8> {
        let spare = buffers.take(SMALL);
        let mut taken = std::mem::replace(&mut self.buffers[usize::from(number)], spare);
        assert!(
            count <= taken.capacity(),
            "the kernel wrote beyond a buffer"
        );
        // SAFETY: so many bytes were written to it, from its beginning.
        unsafe { taken.set_len(count) };
        self.provide(number);
        taken
    }

    fn provide(&mut self, number: u16) {
        let buffer = &mut self.buffers[usize::from(number)];
        let address = buffer.as_mut_ptr() as u64;
        let length = u32::try_from(buffer.capacity()).unwrap_or(u32::MAX);
        let place = usize::from(self.tail & (COUNT - 1));
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the place is within the ring, whose memory is valid and ours to write up to the
        // tail; there are as many places as buffers, so it is none that the kernel still reads.
        // The tail is the field that the kernel reads, and is written last.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(place);
            entry.set_addr(address);
            entry.set_len(length);
            entry.set_bid(number);
            let tail = BufRingEntry::tail(self.ring.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}
