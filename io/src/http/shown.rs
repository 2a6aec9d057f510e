//! Writes an output piece by piece, so that a large text needs no second buffer of its size. All answers that
//! contain a stored output share the output's bytes. `response` and `execution_json` choose the form; `serve`
//! sends the pieces.

use std::sync::{Arc, Weak};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::json;
use crate::http::output::Output;

/// A body larger than this, in bytes, is written in pieces. Each piece has at most this many bytes of the
/// rendered output.
pub(crate) const PIECE: usize = 64 * 1024;

/// How the bytes of an output are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rendering {
    AsIs,
    /// The bytes are escaped, as the inside of a JSON string.
    Escaped,
    Base64,
}

impl Rendering {
    pub(crate) fn len(self, bytes: &[u8]) -> usize {
        match self {
            Self::AsIs => bytes.len(),
            Self::Escaped => json::escaped_len(bytes),
            Self::Base64 => bytes.len().div_ceil(3) * 4,
        }
    }

    /// Returns the largest number of the output's bytes that one piece renders. For base64 the number is a
    /// multiple of three, because the pieces are rendered separately.
    const fn step(self) -> usize {
        match self {
            Self::AsIs => PIECE,
            // One byte of the output has at most six bytes when it is escaped.
            Self::Escaped => PIECE / 6,
            Self::Base64 => PIECE / 4 * 3,
        }
    }

    fn write(self, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::AsIs => out.extend_from_slice(bytes),
            Self::Escaped => json::write_escaped(out, bytes),
            Self::Base64 => {
                let at = out.len();
                out.resize(at + self.len(bytes), 0);
                let written = STANDARD.encode_slice(bytes, &mut out[at..]);
                assert_eq!(written, Ok(out.len() - at), "base64 is as long as it is");
            }
        }
    }
}

/// A body around an output, which the body shares with the store instead of copying it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) before: Vec<u8>,
    pub(crate) output: Arc<Output>,
    pub(crate) rendering: Rendering,
    pub(crate) after: Vec<u8>,
}

impl Shown {
    pub(crate) fn len(&self) -> usize {
        self.before.len() + self.rendering.len(self.output.bytes()) + self.after.len()
    }

    /// Writes the whole body if `len`, its length, is at most `PIECE`. If the body is longer, writes the part
    /// before the output, and returns the rest.
    pub(crate) fn write(self, len: usize, out: &mut Vec<u8>) -> Option<RestOfOutput> {
        out.extend_from_slice(&self.before);
        if len <= PIECE {
            self.rendering.write(self.output.bytes(), out);
            out.extend_from_slice(&self.after);
            return None;
        }
        Some(RestOfOutput {
            source: OutputSource::Kept(Arc::downgrade(&self.output)),
            rendering: self.rendering,
            at: 0,
            after: self.after,
        })
    }
}

/// The rest of a body that is being written.
pub(crate) struct RestOfOutput {
    source: OutputSource,
    rendering: Rendering,
    at: usize,
    after: Vec<u8>,
}

enum OutputSource {
    Own(Output),
    /// An output of the store, which may drop the output while it is being written. Such a drop frees the
    /// memory at once, because this reference is weak.
    Kept(Weak<Output>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    More,
    Last,
    /// The store has dropped the output, so the body cannot be completed.
    Gone,
}

impl RestOfOutput {
    pub(crate) const fn own(output: Output, rendering: Rendering, after: Vec<u8>) -> Self {
        Self {
            source: OutputSource::Own(output),
            rendering,
            at: 0,
            after,
        }
    }

    pub(crate) fn write(&mut self, out: &mut Vec<u8>) -> Piece {
        let kept;
        let output = match &self.source {
            OutputSource::Own(output) => output,
            OutputSource::Kept(output) => match output.upgrade() {
                Some(output) => {
                    kept = output;
                    &*kept
                }
                None => return Piece::Gone,
            },
        };
        let bytes = output.bytes();
        let end = bytes.len().min(self.at + self.rendering.step());
        self.rendering.write(&bytes[self.at..end], out);
        self.at = end;
        if end < bytes.len() {
            return Piece::More;
        }
        out.extend_from_slice(&self.after);
        Piece::Last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::output::Labels;

    fn shown(bytes: &[u8], rendering: Rendering) -> Shown {
        let output = Output::check(bytes.to_vec(), 0..bytes.len(), Labels::default(), None);
        let output = output.unwrap_or_else(|_| Output::json(bytes.to_vec(), 0..bytes.len()));
        Shown {
            before: b"before".to_vec(),
            output: Arc::new(output),
            rendering,
            after: b"after".to_vec(),
        }
    }

    /// Returns the whole body and the length of its largest piece.
    fn whole(shown: &Shown) -> (Vec<u8>, usize) {
        let mut out = Vec::new();
        let (mut largest, len) = (0, shown.len());
        if let Some(mut rest) = shown.clone().write(len, &mut out) {
            loop {
                let before = out.len();
                let piece = rest.write(&mut out);
                largest = largest.max(out.len() - before);
                match piece {
                    Piece::More => {}
                    Piece::Last => break,
                    Piece::Gone => panic!("it is held"),
                }
            }
        }
        (out, largest)
    }

    #[test]
    fn pieces_make_up_the_whole() {
        for size in [0, 1, 10_000, PIECE, PIECE + 1, 300_001] {
            let bytes: Vec<u8> = (0..size).map(|at| (at % 127) as u8).collect();
            let base64 = STANDARD.encode(&bytes).into_bytes();
            let mut escaped = Vec::new();
            json::write_escaped(&mut escaped, &bytes);
            for (rendering, expected) in [
                (Rendering::AsIs, bytes.clone()),
                (Rendering::Base64, base64),
                (Rendering::Escaped, escaped),
            ] {
                let shown = shown(&bytes, rendering);
                if size == 0 {
                    // An empty output of JSON is shown as `null`, so `expected` does not hold for it.
                    continue;
                }
                let (out, largest) = whole(&shown);
                assert_eq!(out.len(), shown.len(), "{rendering:?} {size}");
                let expected = [b"before", &expected[..], b"after"].concat();
                assert!(out == expected, "{rendering:?} {size}");
                assert!(largest <= PIECE + 5, "{rendering:?} {size}: {largest}");
            }
        }
    }

    #[test]
    fn a_dropped_output_differs_from_a_whole_one() {
        let shown = shown(&vec![b'1'; 3 * PIECE], Rendering::AsIs);
        let (len, mut out) = (shown.len(), Vec::new());
        let kept = shown.output.clone();
        let mut rest = shown.write(len, &mut out).expect("it is large");
        assert_eq!(rest.write(&mut out), Piece::More);
        drop(kept);
        assert_eq!(rest.write(&mut out), Piece::Gone);
    }
}
