//! Makes random bytes for tokens, names and waits. The module keeps no state.

/// Returns bytes from the kernel, which an attacker cannot guess.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    bytes
}
