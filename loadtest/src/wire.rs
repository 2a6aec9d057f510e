//! Reads answers: finds the end and the status of each, independently of how the bytes are split. The reader
//! keeps no body and repairs nothing; bytes that are not valid HTTP/1 are an error. A connection feeds the
//! reader with the bytes that arrive.

use std::mem::MaybeUninit;

/// An answer that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseEnd {
    pub(crate) status: u16,
    /// Whether the server closes the connection after this answer.
    pub(crate) closes: bool,
}

/// The bytes from the peer are not a valid answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedResponse;

/// A head that is still incomplete after this many bytes is an error.
const HEAD_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 64;
/// The longest size line of a chunk, including extensions, and the longest trailer line.
const SIZE_LINE_MAX: usize = 1024;

#[derive(Debug)]
enum Await {
    Head,
    Body {
        left: u64,
    },
    Size,
    Chunk {
        left: u64,
    },
    ChunkEnd {
        seen_cr: bool,
    },
    /// The trailers, which end with an empty line.
    Trailers {
        line: usize,
    },
    /// A body that ends with the connection.
    Close,
}

#[derive(Debug)]
pub(crate) struct ResponseReader {
    await_: Await,
    /// The received part of a head or a size line.
    carry: Vec<u8>,
    answer: ResponseEnd,
    /// Whether the request was a HEAD, whose answer has no body.
    bodiless: bool,
}

impl ResponseReader {
    pub(crate) fn new() -> Self {
        Self {
            await_: Await::Head,
            carry: Vec::new(),
            answer: ResponseEnd {
                status: 0,
                closes: false,
            },
            bodiless: false,
        }
    }

    /// Prepares for the answer of the next request. `bodiless` is true if the request is a HEAD.
    pub(crate) fn begin(&mut self, bodiless: bool) {
        self.bodiless = bodiless;
    }

    /// Reads received bytes. Only one request is in flight, so bytes after the end of its answer are an
    /// error.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<ResponseEnd>, MalformedResponse> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (used, ended) = self.step(rest)?;
            rest = &rest[used..];
            if ended {
                self.await_ = Await::Head;
                return if rest.is_empty() {
                    Ok(Some(self.answer))
                } else {
                    Err(MalformedResponse)
                };
            }
        }
        Ok(None)
    }

    /// Handles the end of the connection. Returns the answer if its body has no length and so ends with the
    /// connection.
    pub(crate) fn close(&self) -> Option<ResponseEnd> {
        matches!(self.await_, Await::Close).then_some(ResponseEnd {
            closes: true,
            ..self.answer
        })
    }

    /// Reads some of the bytes; returns their number and whether the answer is complete.
    fn step(&mut self, bytes: &[u8]) -> Result<(usize, bool), MalformedResponse> {
        match &mut self.await_ {
            Await::Head => self.head(bytes),
            Await::Body { left } => {
                let used = take(left, bytes);
                Ok((used, *left == 0))
            }
            Await::Size => self.size(bytes),
            Await::Chunk { left } => {
                let used = take(left, bytes);
                if *left == 0 {
                    self.await_ = Await::ChunkEnd { seen_cr: false };
                }
                Ok((used, false))
            }
            Await::ChunkEnd { seen_cr } => {
                match (bytes[0], *seen_cr) {
                    (b'\r', false) => *seen_cr = true,
                    (b'\n', true) => self.await_ = Await::Size,
                    _ => return Err(MalformedResponse),
                }
                Ok((1, false))
            }
            Await::Trailers { line } => match bytes[0] {
                b'\n' if *line == 0 => Ok((1, true)),
                b'\n' => {
                    *line = 0;
                    Ok((1, false))
                }
                b'\r' => Ok((1, false)),
                _ if *line == SIZE_LINE_MAX => Err(MalformedResponse),
                _ => {
                    *line += 1;
                    Ok((1, false))
                }
            },
            Await::Close => Ok((bytes.len(), false)),
        }
    }

    fn head(&mut self, bytes: &[u8]) -> Result<(usize, bool), MalformedResponse> {
        // Usually the whole head comes in one read, and is parsed without a copy.
        if self.carry.is_empty() {
            return match self.parse_head(bytes)? {
                Some((length, ended)) => Ok((length, ended)),
                None if bytes.len() > HEAD_MAX => Err(MalformedResponse),
                None => {
                    self.carry.extend_from_slice(bytes);
                    Ok((bytes.len(), false))
                }
            };
        }
        let before = self.carry.len();
        let mut carry = std::mem::take(&mut self.carry);
        carry.extend_from_slice(bytes);
        match self.parse_head(&carry)? {
            Some((length, ended)) => Ok((length - before, ended)),
            None if carry.len() > HEAD_MAX => Err(MalformedResponse),
            None => {
                self.carry = carry;
                Ok((bytes.len(), false))
            }
        }
    }

    /// Returns the head's length, and whether the answer ends with the head; `None` if the head is
    /// incomplete.
    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<(usize, bool)>, MalformedResponse> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let usual = httparse::ParserConfig::default();
        let length = match usual.parse_response_with_uninit_headers(&mut head, bytes, &mut headers)
        {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(MalformedResponse),
        };
        let status = head.code.ok_or(MalformedResponse)?;
        let mut content_length = None;
        let mut chunked = false;
        let mut closes = head.version == Some(0);
        for header in head.headers.iter() {
            let name = header.name;
            if name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).map_err(|_| MalformedResponse)?;
                let value = text.trim().parse::<u64>().map_err(|_| MalformedResponse)?;
                if content_length.replace(value).is_some() {
                    return Err(MalformedResponse);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = header.value.eq_ignore_ascii_case(b"chunked");
                if !chunked {
                    return Err(MalformedResponse);
                }
            } else if name.eq_ignore_ascii_case("connection") {
                closes = !header.value.eq_ignore_ascii_case(b"keep-alive")
                    && (closes || header.value.eq_ignore_ascii_case(b"close"));
            }
        }
        if status < 200 {
            // The client asks for no other protocol, so 101 is an error. Any other 1xx is an interim answer,
            // which comes before the final one.
            return if status == 101 {
                Err(MalformedResponse)
            } else {
                Ok(Some((length, false)))
            };
        }
        self.answer = ResponseEnd { status, closes };
        let ended = if self.bodiless || status == 204 || status == 304 {
            true
        } else if chunked && content_length.is_some() {
            return Err(MalformedResponse);
        } else if chunked {
            self.await_ = Await::Size;
            false
        } else if let Some(left) = content_length {
            self.await_ = Await::Body { left };
            left == 0
        } else {
            self.await_ = Await::Close;
            false
        };
        Ok(Some((length, ended)))
    }

    /// Reads a chunk's size line, which may come in pieces.
    fn size(&mut self, bytes: &[u8]) -> Result<(usize, bool), MalformedResponse> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(bytes.len(), |at| at + 1);
        self.carry.extend_from_slice(&bytes[..used]);
        // The digit is checked here, because httparse accepts a line without a digit as a size of
        // 0.
        if !self.carry[0].is_ascii_hexdigit() || self.carry.len() > SIZE_LINE_MAX {
            return Err(MalformedResponse);
        }
        match (httparse::parse_chunk_size(&self.carry), end) {
            (Ok(httparse::Status::Complete((_, size))), _) => {
                self.carry.clear();
                self.await_ = match size {
                    0 => Await::Trailers { line: 0 },
                    left => Await::Chunk { left },
                };
                Ok((used, false))
            }
            (Ok(httparse::Status::Partial), None) => Ok((used, false)),
            _ => Err(MalformedResponse),
        }
    }
}

fn take(left: &mut u64, bytes: &[u8]) -> usize {
    let used = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= used as u64;
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: ResponseEnd = ResponseEnd {
        status: 200,
        closes: false,
    };

    /// Reads a text whole and in pieces, and checks that the result is the same.
    fn read(text: &str) -> Result<Option<ResponseEnd>, MalformedResponse> {
        let whole = ResponseReader::new().feed(text.as_bytes());
        for at in 1..text.len() {
            let mut reader = ResponseReader::new();
            let (first, second) = text.as_bytes().split_at(at);
            let split = match reader.feed(first) {
                Ok(None) => reader.feed(second),
                // The answer was complete before the last byte, so the rest is an error.
                Ok(Some(_)) => Err(MalformedResponse),
                Err(error) => Err(error),
            };
            assert_eq!(split, whole, "split at {at}: {text:?}");
        }
        let mut reader = ResponseReader::new();
        let mut last = Ok(None);
        for (at, byte) in text.bytes().enumerate() {
            last = reader.feed(&[byte]);
            if last != Ok(None) && at + 1 < text.len() {
                last = Err(MalformedResponse);
                break;
            }
        }
        assert_eq!(last, whole, "byte by byte: {text:?}");
        whole
    }

    #[test]
    fn answers_end_where_they_say() {
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"),
            Ok(Some(OK))
        );
        assert_eq!(
            read("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            Ok(Some(OK))
        );
        assert_eq!(
            read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"),
            Ok(None)
        );
        let answer = ResponseEnd {
            status: 204,
            closes: true,
        };
        assert_eq!(
            read("HTTP/1.1 204 No\r\nConnection: close\r\n\r\n"),
            Ok(Some(answer))
        );
        assert_eq!(
            read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
            Ok(Some(OK))
        );
    }

    #[test]
    fn chunks_are_put_together() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "A;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
        ] {
            assert_eq!(read(&format!("{head}{body}")), Ok(Some(OK)), "{body:?}");
        }
        for body in [
            "\r\n",
            "x\r\n",
            "1\na\r\n",
            "1\rx",
            "3\r\nabcd\r\n",
            "1\r\na\n0\r\n\r\n",
            ";x\r\n",
            "1;x\n",
            "fffffffffffffffff\r\n",
        ] {
            assert_eq!(
                read(&format!("{head}{body}")),
                Err(MalformedResponse),
                "{body:?}"
            );
        }
    }

    #[test]
    fn nonsense_is_a_fault() {
        for text in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        ] {
            assert_eq!(read(text), Err(MalformedResponse), "{text:?}");
        }
    }

    #[test]
    fn an_endless_head_is_a_fault() {
        let mut head = b"HTTP/1.1 200 OK\r\nA: ".to_vec();
        head.resize(HEAD_MAX + 1, b'b');
        let whole = ResponseReader::new().feed(&head);
        assert_eq!(whole, Err(MalformedResponse));
        let mut reader = ResponseReader::new();
        assert_eq!(reader.feed(&head[..HEAD_MAX]), Ok(None));
        assert_eq!(reader.feed(&head[HEAD_MAX..]), Err(MalformedResponse));
    }

    #[test]
    fn a_body_may_end_with_the_connection() {
        let mut reader = ResponseReader::new();
        assert_eq!(reader.feed(b"HTTP/1.1 200 OK\r\n\r\nabc"), Ok(None));
        assert_eq!(
            reader.close(),
            Some(ResponseEnd {
                status: 200,
                closes: true
            })
        );
        assert_eq!(ResponseReader::new().close(), None);
    }
}
