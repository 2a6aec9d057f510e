//! Random bits of one io thread, for ids and for the waits between attempts.

/// Unpredictable random bits from the kernel, which are fetched 4 KiB at a time.
pub(crate) struct Random {
    bytes: Box<[u8; 4096]>,
    used: usize,
}

impl Random {
    pub(crate) fn next(&mut self) -> u128 {
        if self.used + 16 > self.bytes.len() {
            getrandom::fill(&mut *self.bytes).expect("the kernel gives random bytes");
            self.used = 0;
        }
        let bytes = self.bytes[self.used..self.used + 16]
            .try_into()
            .expect("16 bytes");
        // The used bytes are cleared, so that bits of an id do not stay in memory.
        self.bytes[self.used..self.used + 16].fill(0);
        self.used += 16;
        u128::from_ne_bytes(bytes)
    }
}

impl Default for Random {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; 4096]),
            used: 4096,
        }
    }
}
