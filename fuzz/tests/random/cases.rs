//! The loop that checks a property for many inputs, and the function that damages valid inputs.

use nanofaas_fuzz::{Rng, property};

/// Damages about half of the inputs: cuts, doubles, overwrites or inserts bytes. The other half is left
/// unchanged.
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

/// The current input. If the property fails for it, dropping this value prints how to repeat the input.
struct Case {
    target: &'static str,
    seed: u64,
    bytes: Vec<u8>,
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.bytes.escape_ascii();
            eprintln!(
                "{} fails: NANOFAAS_SEED={} on b\"{text}\"",
                self.target, self.seed
            );
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

/// Checks the property of `target` for the configured number of inputs from `make`. Also checks
/// that the reader accepted some of the inputs and refused some, because otherwise the run would
/// prove little.
pub(crate) fn for_each_input(target: &'static str, make: impl Fn(&mut Rng, &mut Vec<u8>)) {
    let property = property(target);
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
        target,
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
        "{target}: {count} inputs, {taken} taken, in {:.1?}",
        begun.elapsed()
    );
    // A reader that accepts under 5 % or over 95 % of the inputs is hardly tested. In a run of
    // under 1,000 inputs the shares vary too much to be checked.
    let few = count / 20;
    assert!(
        count < 1000 || (few..=count - few).contains(&taken),
        "{taken} of {count} were taken"
    );
}
