//! Decodes a chunked body as it comes, however it is split. It never reads a socket and never
//! keeps what it decoded. Called by `connection` for requests and by `client` for answers.

/// Longest line with a chunk's size, its extensions included.
const SIZE_LINE_MAX: usize = 256;
/// All trailer fields together; they are skipped.
const TRAILERS_MAX: usize = 8 * 1024;

#[derive(Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(usize),
    /// The line end after a chunk's data.
    DataEnd,
    Trailers(usize),
    Done,
}

/// Where in a chunked body the reader is.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// Bytes of body that there may be in all.
    body_max: usize,
    body_len: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ChunkFault {
    Malformed(&'static str),
    TooLarge,
}

impl Chunked {
    pub(crate) fn new(body_max: usize) -> Self {
        Self {
            state: State::Size,
            body_max,
            body_len: 0,
        }
    }

    pub(crate) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Appends to `body` what can be decoded of `from`, and says how much of it is used up.
    pub(crate) fn take(&mut self, from: &[u8], body: &mut Vec<u8>) -> Result<usize, ChunkFault> {
        let mut used = 0;
        while let Some(step) = self.step(&from[used..], body)? {
            used += step;
        }
        Ok(used)
    }

    /// One line or one piece of data; none where more has to come first.
    fn step(&mut self, from: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>, ChunkFault> {
        match self.state {
            State::Size => {
                let Some(line) = line(from, SIZE_LINE_MAX)? else {
                    return Ok(None);
                };
                let size = size(line)?;
                if size > self.body_max - self.body_len {
                    return Err(ChunkFault::TooLarge);
                }
                self.body_len += size;
                self.state = match size {
                    0 => State::Trailers(0),
                    size => State::Data(size),
                };
                Ok(Some(line.len() + 2))
            }
            State::Data(_) if from.is_empty() => Ok(None),
            State::Data(left) => {
                let count = left.min(from.len());
                body.extend_from_slice(&from[..count]);
                self.state = match left - count {
                    0 => State::DataEnd,
                    left => State::Data(left),
                };
                Ok(Some(count))
            }
            State::DataEnd if from.len() < 2 => Ok(None),
            State::DataEnd if from.starts_with(b"\r\n") => {
                self.state = State::Size;
                Ok(Some(2))
            }
            State::DataEnd => Err(ChunkFault::Malformed("a chunk is longer than it said")),
            State::Trailers(so_far) => {
                let Some(line) = line(from, TRAILERS_MAX - so_far)? else {
                    return Ok(None);
                };
                self.state = match line.len() {
                    0 => State::Done,
                    length => State::Trailers((so_far + length + 2).min(TRAILERS_MAX)),
                };
                Ok(Some(line.len() + 2))
            }
            State::Done => Ok(None),
        }
    }
}

/// The line that `from` begins with, less its end; none while the end is not there.
fn line(from: &[u8], most: usize) -> Result<Option<&[u8]>, ChunkFault> {
    let Some(end) = from.iter().position(|byte| *byte == b'\n') else {
        return match from.len() > most {
            true => Err(ChunkFault::Malformed(
                "a line of a chunked body is too long",
            )),
            false => Ok(None),
        };
    };
    let Some(line) = from[..end].strip_suffix(b"\r") else {
        return Err(ChunkFault::Malformed(
            "a line of a chunked body ends without CR",
        ));
    };
    if line.len() > most || line.contains(&b'\r') {
        return Err(ChunkFault::Malformed(
            "a line of a chunked body is not sound",
        ));
    }
    Ok(Some(line))
}

fn size(line: &[u8]) -> Result<usize, ChunkFault> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = digits.trim_ascii_end();
    let sound = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| sound);
    let size = text.and_then(|text| usize::from_str_radix(text, 16).ok());
    size.ok_or(ChunkFault::Malformed(
        "a chunk's size is no hexadecimal number",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, usize, bool), ChunkFault> {
        let mut chunked = Chunked::new(100);
        let (mut left, mut body, mut used) = (Vec::new(), Vec::new(), 0);
        for piece in pieces {
            left.extend_from_slice(piece);
            let taken = chunked.take(&left, &mut body)?;
            left.drain(..taken);
            used += taken;
        }
        Ok((body, used, chunked.done()))
    }

    #[test]
    fn the_result_does_not_depend_on_the_splits() {
        let whole = b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET";
        let expected = (b"abc0123456789".to_vec(), whole.len() - 3, true);
        assert_eq!(decode(&[whole]), Ok(expected.clone()));
        for at in 1..whole.len() {
            assert_eq!(decode(&[&whole[..at], &whole[at..]]), Ok(expected.clone()));
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(decode(&bytes), Ok(expected));
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for wrong in [
            &b"3\nabc\r\n"[..],
            b"3\r\nabcd\r\n",
            b"+3\r\nabc\r\n",
            b"0x3\r\nabc\r\n",
            b"\r\n",
            b"3;a\rb\r\nabc\r\n",
            b"ffffffffffffffffff\r\n",
            &[b'0'; 300],
        ] {
            let result = decode(&[wrong]);
            assert!(
                matches!(result, Err(ChunkFault::Malformed(_))),
                "{wrong:?}: {result:?}"
            );
        }
    }

    #[test]
    fn the_whole_body_is_bounded() {
        assert_eq!(decode(&[b"65\r\n"]), Err(ChunkFault::TooLarge));
        let mut two = b"64\r\n".to_vec();
        two.extend_from_slice(&[b'a'; 100]);
        two.extend_from_slice(b"\r\n1\r\n");
        assert_eq!(decode(&[&two]), Err(ChunkFault::TooLarge));
    }
}
