//! Tokens by which a Job's callback proves to which attempt it belongs. A token is `attempt.mac`, where `mac`
//! is an HMAC of execution id and attempt in hexadecimal, under a key of this process. The MACs are compared
//! in constant time, and no token is logged.

use hmac::{Hmac, KeyInit, Mac};
use nanofaas_core::id::ExecutionId;
use sha2::Sha256;

/// The key with which this process issues and verifies tokens.
#[derive(Clone)]
pub(crate) struct Tokens(Hmac<Sha256>);

impl Tokens {
    /// Makes a random key, which lasts as long as the process.
    pub(crate) fn new() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the kernel gives random bytes");
        Self(Hmac::new_from_slice(&key).expect("a key of any length will do"))
    }

    fn mac(&self, id: ExecutionId, attempt: u32) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&id.text());
        mac.update(&attempt.to_le_bytes());
        mac
    }

    pub(crate) fn issue(&self, id: ExecutionId, attempt: u32) -> String {
        use std::fmt::Write;
        let mut token = format!("{attempt}.");
        for byte in self.mac(id, attempt).finalize().into_bytes() {
            let _ = write!(token, "{byte:02x}");
        }
        token
    }

    /// Returns the attempt that a token is for, if this process issued the token for this execution.
    pub(crate) fn verify(&self, id: ExecutionId, token: &[u8]) -> Option<u32> {
        let token = std::str::from_utf8(token).ok()?;
        let (attempt, mac) = token.split_once('.')?;
        let attempt = attempt.parse().ok()?;
        if mac.len() != 64 || !mac.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(mac.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        self.mac(id, attempt)
            .verify_slice(&bytes)
            .ok()
            .map(|()| attempt)
    }
}

#[cfg(test)]
mod tests {
    use nanofaas_core::shard::ShardId;

    use super::*;

    #[test]
    fn a_token_is_good_for_one_attempt() {
        let tokens = Tokens::new();
        let id = ExecutionId::new(5, ShardId::new(0), 0);
        let token = tokens.issue(id, 2);
        assert_eq!(tokens.verify(id, token.as_bytes()), Some(2));
        assert_eq!(
            tokens.verify(ExecutionId::new(6, ShardId::new(0), 0), token.as_bytes()),
            None
        );
        assert_eq!(
            tokens.verify(id, token.replacen('2', "1", 1).as_bytes()),
            None
        );
        assert_eq!(Tokens::new().verify(id, token.as_bytes()), None);
        for bad in [
            "",
            "2",
            "2.",
            "2.zz",
            "x.00",
            "+2.00",
            &token[..token.len() - 1],
        ] {
            assert_eq!(tokens.verify(id, bad.as_bytes()), None);
        }
    }
}
