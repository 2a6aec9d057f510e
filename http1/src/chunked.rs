//! Decodes the chunked transfer coding, piece by piece.
//!
//! The decoder holds a few words of state and no bytes. Data goes directly to the caller's buffer;
//! chunk extensions and trailers are parsed, limited and dropped. The outcome does not depend on
//! how the input is split. `io` and `runtime` use the decoder for requests and answers.

use crate::error::ParseError;

/// The limit of a chunk-size line in bytes, with its extensions and its CR.
pub const CHUNK_LINE_MAX: u32 = 1024;
/// The limit of all chunk extensions of one body, in bytes. Without this limit, tiny chunks with
/// long extensions would cost much work for little data.
pub const EXTENSIONS_MAX: u32 = 16 * 1024;
/// The limit of all trailers of one body, in bytes.
pub const TRAILERS_MAX: u32 = 16 * 1024;
/// The limit of the hex digits of a chunk size. 16 hex digits are 64 bits, so a size within this
/// limit cannot overflow.
const SIZE_DIGITS_MAX: u32 = 16;

/// The result of one piece of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The number of bytes of the input that were used. Bytes after the body are not used.
    pub consumed: usize,
    /// Whether the body is complete.
    pub done: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    /// White space after the size. Only an extension may follow it (RFC 9112 §7.1.1).
    SizeSpace,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

/// The decoder of one body. Use `default()` for the next body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkedDecoder {
    state: ChunkState,
    /// The value of the size digits that were read so far; after the size line, the number of the chunk's
    /// bytes that are still missing.
    left: u64,
    digits: u32,
    line: u32,
    extensions: u32,
    trailers: u32,
}

impl ChunkedDecoder {
    /// Appends the data in `input` to `out`, which may grow to `max` bytes in all. A chunk that
    /// would exceed `max` is refused as soon as its size is known, before its data.
    pub fn decode(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        max: usize,
    ) -> Result<Decoded, ParseError> {
        // `out` may already hold other bytes, for example the head before the body.
        let room = max.saturating_sub(out.len()) as u64;
        self.advance(input, Some(room), |data| out.extend_from_slice(data))
    }

    /// Finds the end of a body that the caller passes on undecoded. The body may have any length.
    pub fn skip(&mut self, input: &[u8]) -> Result<Decoded, ParseError> {
        self.advance(input, None, |_| {})
    }

    /// Passes the data in `input` to `take`. Refuses a chunk that is larger than what is left of
    /// `room`, if there is a limit.
    #[inline]
    fn advance(
        &mut self,
        input: &[u8],
        mut room: Option<u64>,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Decoded, ParseError> {
        let mut at = 0;
        while at < input.len() && self.state != ChunkState::Done {
            if self.state == ChunkState::Data {
                let count = self.left.min((input.len() - at) as u64) as usize;
                take(&input[at..at + count]);
                at += count;
                self.left -= count as u64;
                room = room.map(|room| room.saturating_sub(count as u64));
                if self.left == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            let byte = input[at];
            self.state = match self.state {
                ChunkState::Size | ChunkState::SizeSpace | ChunkState::Extension => {
                    self.size_line(byte)?
                }
                ChunkState::SizeLf => {
                    expect_lf(byte)?;
                    self.begin_data(room)?
                }
                ChunkState::DataCr if byte == b'\r' => ChunkState::DataLf,
                ChunkState::DataCr => {
                    return Err(ParseError::Malformed(
                        "a chunk is longer than its size says",
                    ));
                }
                ChunkState::DataLf => {
                    expect_lf(byte)?;
                    ChunkState::Size
                }
                ChunkState::LastLf => {
                    expect_lf(byte)?;
                    ChunkState::Done
                }
                state => self.trailer(state, byte)?,
            };
            at += 1;
        }
        Ok(Decoded {
            consumed: at,
            done: self.state == ChunkState::Done,
        })
    }

    fn size_line(&mut self, byte: u8) -> Result<ChunkState, ParseError> {
        self.line += 1;
        if self.line > CHUNK_LINE_MAX {
            return Err(ParseError::Malformed(
                "a chunk-size line is over 1 KiB: send no extensions",
            ));
        }
        if self.state == ChunkState::Size {
            if let Some(digit) = char::from(byte).to_digit(16) {
                // Leading zeros count too, so the shift below is done at most 16 times and cannot
                // overflow.
                self.digits += 1;
                if self.digits > SIZE_DIGITS_MAX {
                    return Err(ParseError::Malformed("a chunk size has over 16 digits"));
                }
                self.left = self.left << 4 | u64::from(digit);
                return Ok(ChunkState::Size);
            }
            if self.digits == 0 {
                return Err(ParseError::Malformed(
                    "a chunk must begin with its size in hex digits",
                ));
            }
        }
        match (self.state, byte) {
            (ChunkState::Size | ChunkState::Extension, b'\r') => return Ok(ChunkState::SizeLf),
            (ChunkState::Extension, b'\t' | b' '..=b'~' | 0x80..) => {}
            (ChunkState::Size | ChunkState::SizeSpace, b' ' | b'\t' | b';') => {}
            _ => {
                return Err(ParseError::Malformed(
                    "a chunk-size line holds a byte it must not",
                ));
            }
        }
        self.extensions += 1;
        if self.extensions > EXTENSIONS_MAX {
            return Err(ParseError::Malformed(
                "over 16 KiB of chunk extensions: send none",
            ));
        }
        if self.state == ChunkState::Extension || byte == b';' {
            Ok(ChunkState::Extension)
        } else {
            Ok(ChunkState::SizeSpace)
        }
    }

    fn begin_data(&mut self, room: Option<u64>) -> Result<ChunkState, ParseError> {
        (self.digits, self.line) = (0, 0);
        // A chunk of size 0 is the last one (RFC 9112 §7.1). The trailers follow its line.
        if self.left == 0 {
            return Ok(ChunkState::TrailerStart);
        }
        if room.is_some_and(|room| self.left > room) {
            return Err(ParseError::BodyTooLarge);
        }
        Ok(ChunkState::Data)
    }

    fn trailer(&mut self, state: ChunkState, byte: u8) -> Result<ChunkState, ParseError> {
        self.trailers += 1;
        if self.trailers > TRAILERS_MAX {
            return Err(ParseError::Malformed("over 16 KiB of trailers: send fewer"));
        }
        match (state, byte) {
            (ChunkState::TrailerStart, b'\r') => Ok(ChunkState::LastLf),
            (ChunkState::TrailerName, b':') => Ok(ChunkState::TrailerValue),
            (ChunkState::TrailerStart | ChunkState::TrailerName, byte) if is_token(byte) => {
                Ok(ChunkState::TrailerName)
            }
            (ChunkState::TrailerValue, b'\r') => Ok(ChunkState::TrailerLf),
            (ChunkState::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                Ok(ChunkState::TrailerValue)
            }
            (ChunkState::TrailerLf, b'\n') => Ok(ChunkState::TrailerStart),
            _ => Err(ParseError::Malformed(
                "a trailer must be `name: value` and end in CRLF",
            )),
        }
    }
}

fn expect_lf(byte: u8) -> Result<(), ParseError> {
    match byte {
        b'\n' => Ok(()),
        _ => Err(ParseError::Malformed(
            "a CR without LF in a chunked body: end lines in CRLF",
        )),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes the whole input at once, and checks that decoding it byte by byte gives the same
    /// outcome.
    fn decode(input: &[u8], max: usize) -> Result<(Decoded, Vec<u8>), ParseError> {
        let mut out = Vec::new();
        let whole = ChunkedDecoder::default().decode(input, &mut out, max);
        let (mut chunked, mut slow_out, mut slow) = (ChunkedDecoder::default(), Vec::new(), Ok(0));
        for byte in input {
            match chunked.decode(std::slice::from_ref(byte), &mut slow_out, max) {
                Ok(progress) => slow = slow.map(|consumed| consumed + progress.consumed),
                Err(error) => {
                    slow = Err(error);
                    break;
                }
            }
        }
        assert_eq!(slow, whole.map(|progress| progress.consumed));
        assert_eq!(slow_out, out);
        whole.map(|progress| (progress, out))
    }

    fn data(input: &str) -> Option<(String, usize)> {
        let (progress, out) = decode(input.as_bytes(), 1000).ok()?;
        progress
            .done
            .then(|| (String::from_utf8(out).unwrap(), progress.consumed))
    }

    #[test]
    fn decodes_chunks_and_leaves_what_follows() {
        let whole = |text: &str, consumed| Some((text.to_owned(), consumed));
        assert_eq!(data("0\r\n\r\n"), whole("", 5));
        assert_eq!(
            data("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nGET"),
            whole("abcde", 20)
        );
        assert_eq!(
            data("00A\r\n0123456789\r\n000\r\n\r\n"),
            whole("0123456789", 24)
        );
        assert_eq!(
            data("a;x=\"y;\u{e9}\"\r\n0123456789\r\n0 ;z\r\n\r\n")
                .unwrap()
                .0,
            "0123456789"
        );
        assert_eq!(data("0\r\nA: b\r\nC:\r\n\r\nX"), whole("", 15));
        assert_eq!(data("1\r\n\n\r\n0\r\n\r\n"), whole("\n", 11));
    }

    #[test]
    fn says_that_more_is_to_come() {
        let body = b"3\r\nabc\r\n0\r\nA: b\r\n\r\n";
        for end in 0..body.len() {
            let (progress, _) = decode(&body[..end], 1000).unwrap();
            assert_eq!(
                progress,
                Decoded {
                    consumed: end,
                    done: false
                }
            );
        }
        let mut done = ChunkedDecoder::default();
        let mut out = Vec::new();
        assert!(done.decode(body, &mut out, 1000).unwrap().done);
        let after = done.decode(b"1\r\nx", &mut out, 1000);
        assert_eq!(
            after,
            Ok(Decoded {
                consumed: 0,
                done: true
            })
        );
    }

    #[test]
    fn refuses_what_parsers_read_differently() {
        for body in [
            "\r\n",
            "x",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            ";a\r\n",
            "1 \r\n",
            "1\t\r\n",
            "1 2\r\n",
            "1\n",
            "1\rx",
            "1;a\n",
            "1;a\rb",
            "1;\u{1}",
            "1;\u{7f}",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rb",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\n a: b\r\n",
            "0\r\na\r\n",
            "0\r\na : b\r\n",
            "0\r\n: b\r\n",
            "0\r\na: b\n",
            "0\r\na: b\rc",
            "0\r\na: b\r\n c\r\n",
            "0\r\na: \u{0}",
        ] {
            let outcome = decode(body.as_bytes(), 1000);
            assert!(
                matches!(outcome, Err(ParseError::Malformed(_))),
                "{body:?}: {outcome:?}"
            );
        }
    }

    #[test]
    fn holds_every_limit_on_both_sides() {
        let sized = |digits: &str| decode(format!("{digits}\r\n").as_bytes(), usize::MAX);
        assert!(sized("FFFFFFFFFFFFFFFF").is_ok());
        assert!(sized("0000000000000001").is_ok());
        assert!(matches!(
            sized("10000000000000000"),
            Err(ParseError::Malformed(_))
        ));
        assert!(matches!(
            sized("00000000000000001"),
            Err(ParseError::Malformed(_))
        ));

        assert!(decode(b"3\r\nabc\r\n2\r\nde", 5).is_ok());
        // A chunk over the limit is refused as soon as its size is read, before any of its data is
        // taken.
        let mut out = b"ab".to_vec();
        let outcome = ChunkedDecoder::default().decode(b"4\r\nabcd", &mut out, 5);
        assert_eq!((outcome, out.len()), (Err(ParseError::BodyTooLarge), 2));
        assert_eq!(
            decode(b"3\r\nabc\r\n3\r\n", 5),
            Err(ParseError::BodyTooLarge)
        );

        let line = |length: usize| format!("1;{}\r\na\r\n", "x".repeat(length - 3));
        assert!(decode(line(CHUNK_LINE_MAX as usize).as_bytes(), 1000).is_ok());
        assert!(decode(line(CHUNK_LINE_MAX as usize + 1).as_bytes(), 1000).is_err());
        // One line of this length is allowed. The extensions of 17 such lines together exceed their
        // limit.
        let lines = |count: usize| line(CHUNK_LINE_MAX as usize).repeat(count);
        assert!(decode(lines(16).as_bytes(), 1000).is_ok());
        assert!(decode(lines(17).as_bytes(), 1000).is_err());

        let trailers = |length: usize| format!("0\r\nA:{}\r\n\r\n", "b".repeat(length - 5));
        assert!(
            decode(trailers(TRAILERS_MAX as usize).as_bytes(), 1000)
                .unwrap()
                .0
                .done
        );
        assert!(decode(trailers(TRAILERS_MAX as usize + 1).as_bytes(), 1000).is_err());
    }
}
