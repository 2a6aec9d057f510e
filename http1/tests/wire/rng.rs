//! A seeded generator, the wounds that inputs get, and the loop that runs a property over them.

use std::ops::Range;

/// xorshift64*: a few instructions a number, which is what a million inputs need.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Mixed, since neighbouring seeds would give neighbouring numbers, and never 0.
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 where `end` is 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    pub(crate) fn range(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// Half of the inputs stay sound; the others are cut, doubled, overwritten or added to.
pub(crate) fn wound(rng: &mut Rng, out: &mut Vec<u8>, wounds: &[&str]) {
    if rng.one_in(2) {
        return;
    }
    for _ in 0..rng.range(1..4) {
        let at = rng.below(out.len());
        let end = (at + rng.range(1..9)).min(out.len());
        match rng.below(8) {
            0 if !out.is_empty() => out[at] = rng.byte(),
            1 if !out.is_empty() => out[at] ^= 1 << rng.below(8),
            2 => _ = out.drain(at..end),
            3 if rng.one_in(4) => out.truncate(at),
            4 => {
                let again = out[at..end].to_vec();
                out.splice(at..at, again);
            }
            _ => _ = out.splice(at..at, rng.pick(wounds).bytes()),
        }
    }
}

/// Prints how to get at an input again when the property fails on it.
struct Case {
    property: &'static str,
    seed: u64,
    bytes: Vec<u8>,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.bytes.escape_ascii();
            eprintln!("{} fails: SEED={} on b\"{text}\"", self.property, self.seed);
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .replace('_', "")
            .parse()
            .unwrap_or_else(|_| panic!("{name} must be a number")),
    )
}

/// Runs `property` over as many inputs of `make` as are asked for. It tells of each whether it was
/// taken: a property whose inputs are all refused, or none, has nothing to say.
pub(crate) fn for_each_input(
    property_name: &'static str,
    make: impl Fn(&mut Rng, &mut Vec<u8>),
    mut property: impl FnMut(&mut Rng, &[u8]) -> bool,
) {
    let default = if cfg!(debug_assertions) {
        50_000
    } else {
        1_000_000
    };
    let (first, count) = match setting("NANOFAAS_SEED") {
        Some(seed) => (seed, 1),
        None => (1, setting("NANOFAAS_FUZZ_INPUTS").unwrap_or(default)),
    };
    let mut case = Case {
        property: property_name,
        seed: first,
        bytes: Vec::new(),
    };
    let mut taken = 0;
    let begun = std::time::Instant::now();
    for seed in first..first + count {
        case.seed = seed;
        case.bytes.clear();
        let mut rng = Rng::new(seed);
        make(&mut rng, &mut case.bytes);
        taken += u64::from(property(&mut rng, &case.bytes));
    }
    println!(
        "{property_name}: {count} inputs, {taken} taken, in {:.1?}",
        begun.elapsed()
    );
    let few = count / 20;
    assert!(
        count < 1000 || (few..=count - few).contains(&taken),
        "{taken} of {count} were taken"
    );
}
