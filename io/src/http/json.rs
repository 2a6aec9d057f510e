//! Checks JSON without building anything from it, and finds the parts that a call needs.
//!
//! The check is strict (RFC 8259 and UTF-8). It needs no recursion and no allocation, because each level of
//! nesting is a bit of one word. Lone surrogates (`\ud800`) are refused, because UTF-8 cannot encode them.
//! `admit` checks the envelopes of requests with this module before the calls are queued. `output` checks the
//! answers of pods with it before they go into an envelope.

use std::ops::Range;

use nanofaas_http1::byte_scan;

/// The deepest nesting that is accepted, which is the number of bits of the word that holds the nesting.
pub const DEPTH_MAX: u32 = u128::BITS;

/// What is wrong in the JSON, and at which byte, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {at}")]
pub struct JsonError {
    pub kind: JsonErrorKind,
    pub at: u32,
}

/// What is wrong in the JSON, without the position; `JsonError` adds the position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    #[error("the text is not UTF-8")]
    Utf8,
    #[error("the JSON ends too early")]
    End,
    #[error("the JSON has a character where it must not be")]
    Unexpected,
    #[error("a string has a control character that must be escaped")]
    Control,
    #[error("a string has an unknown escape")]
    Escape,
    #[error("a string has half of a surrogate pair")]
    Surrogate,
    #[error("a number is malformed")]
    Number,
    #[error("the JSON is nested too deeply (128 levels are the most)")]
    Depth,
    #[error("something follows the JSON value")]
    Trailing,
    #[error("the body must be an object like {{\"input\": …}}, which is not what begins")]
    NotAnObject,
    #[error("\"input\" is missing (it may be null) in the object that ends")]
    InputMissing,
    #[error("the key \"input\" is there a second time")]
    InputRepeated,
    #[error("the key \"metadata\" is there a second time")]
    MetadataRepeated,
    #[error("\"metadata\" must be an object whose values are strings, which it is not")]
    MetadataType,
}

/// The positions of an envelope's parts in its bytes. White space around the parts does not belong to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeParts {
    pub input: Range<u32>,
    /// The value of `metadata`; none if `metadata` is missing or null.
    pub metadata: Option<Range<u32>>,
}

/// Checks that `bytes` is one JSON value, and that its containers nest at most `depth_max` levels deep. A
/// `depth_max` above 128 counts as 128.
pub fn check(bytes: &[u8], depth_max: u32) -> Result<(), JsonError> {
    let mut cursor = Cursor::new(bytes)?;
    cursor.skip_space();
    cursor.value(depth_max)?;
    cursor.end()
}

/// Checks the whole envelope of a request, and finds the values of `input` and `metadata`. The values of
/// other keys are checked and skipped.
pub fn envelope(bytes: &[u8]) -> Result<EnvelopeParts, JsonError> {
    let mut cursor = Cursor::new(bytes)?;
    let (mut input, mut metadata) = (None, None);
    cursor.skip_space();
    if cursor.peek() != b'{' {
        return Err(cursor.unexpected(JsonErrorKind::NotAnObject));
    }
    cursor.at += 1;
    cursor.skip_space();
    let mut more = cursor.peek() != b'}';
    while more {
        let key_at = cursor.at;
        let key = cursor.key()?;
        let at = cursor.at;
        match key {
            EnvelopeKey::Input if input.is_some() => {
                return Err(fault(JsonErrorKind::InputRepeated, key_at));
            }
            EnvelopeKey::Metadata if metadata.is_some() => {
                return Err(fault(JsonErrorKind::MetadataRepeated, key_at));
            }
            EnvelopeKey::Metadata => cursor.metadata()?,
            EnvelopeKey::Input | EnvelopeKey::Other => cursor.value(DEPTH_MAX - 1)?,
        }
        let range = at as u32..cursor.at as u32;
        match key {
            EnvelopeKey::Input => input = Some(range),
            EnvelopeKey::Metadata => metadata = Some(range),
            EnvelopeKey::Other => {}
        }
        more = cursor.comma_or(b'}')?;
    }
    let close = cursor.at;
    cursor.at += 1;
    cursor.end()?;
    let input = input.ok_or_else(|| fault(JsonErrorKind::InputMissing, close))?;
    let metadata = metadata.filter(|range| bytes[range.start as usize] == b'{');
    Ok(EnvelopeParts { input, metadata })
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// Returns how many bytes `write_escaped` appends for `bytes`.
pub(crate) fn escaped_len(bytes: &[u8]) -> usize {
    let more = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 1,
        0..0x20 => 5,
        _ => 0,
    };
    bytes.len() + bytes.iter().map(more).sum::<usize>()
}

/// Appends `bytes` as the inside of a JSON string. The bytes may be cut inside a character of UTF-8, because
/// each byte is copied or escaped separately.
pub(crate) fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut at = 0;
    loop {
        let stop = byte_scan::first::<byte_scan::JsonRunEnd>(bytes, at);
        out.extend_from_slice(&bytes[at..stop]);
        let Some(&byte) = bytes.get(stop) else {
            break;
        };
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
        }
        at = stop + 1;
    }
}

/// Appends a `text/plain` body as a JSON string. Fails and appends nothing if the body is not UTF-8.
pub fn write_text(out: &mut Vec<u8>, text: &[u8]) -> Result<(), JsonError> {
    write_string(out, utf8(text)?);
    Ok(())
}

fn fault(kind: JsonErrorKind, at: usize) -> JsonError {
    JsonError {
        kind,
        at: at as u32,
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, JsonError> {
    str::from_utf8(bytes).map_err(|error| fault(JsonErrorKind::Utf8, error.valid_up_to()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EnvelopeKey {
    Input,
    Metadata,
    Other,
}

/// Reads JSON from `at` on, in bytes that are known to be UTF-8.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn new(bytes: &'b [u8]) -> Result<Self, JsonError> {
        // Most JSON is ASCII, and the check for ASCII is faster than the check for UTF-8.
        if !bytes.is_ascii() {
            utf8(bytes)?;
        }
        Ok(Self { bytes, at: 0 })
    }

    /// Returns the next byte. At the end, returns 0, which no token contains.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    #[cold]
    fn unexpected(&self, kind: JsonErrorKind) -> JsonError {
        let kind = if self.at < self.bytes.len() {
            kind
        } else {
            JsonErrorKind::End
        };
        fault(kind, self.at)
    }

    fn end(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        if self.at < self.bytes.len() {
            return Err(fault(JsonErrorKind::Trailing, self.at));
        }
        Ok(())
    }

    /// Returns true after a comma, which it reads; another member or element has to follow. Returns false
    /// before `close`, which it does not read.
    #[inline]
    fn comma_or(&mut self, close: u8) -> Result<bool, JsonError> {
        self.skip_space();
        match self.peek() {
            b',' => {
                self.at += 1;
                self.skip_space();
                Ok(true)
            }
            byte if byte == close => Ok(false),
            _ => Err(self.unexpected(JsonErrorKind::Unexpected)),
        }
    }

    /// Reads one value, without the white space around it.
    fn value(&mut self, depth_max: u32) -> Result<(), JsonError> {
        let depth_max = depth_max.min(DEPTH_MAX);
        // Bit 0 is set if the innermost open container is an object, bit 1 if the container around that one
        // is an object, and so on.
        let mut objects = 0u128;
        let mut depth = 0;
        loop {
            match self.peek() {
                b'"' => _ = self.string()?,
                open @ (b'{' | b'[') => {
                    if depth == depth_max {
                        return Err(fault(JsonErrorKind::Depth, self.at));
                    }
                    self.at += 1;
                    depth += 1;
                    objects = objects << 1 | u128::from(open == b'{');
                    self.skip_space();
                    if self.peek() != open + 2 {
                        if open == b'{' {
                            self.string_key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    depth -= 1;
                    objects >>= 1;
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => return Err(self.unexpected(JsonErrorKind::Unexpected)),
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                if self.comma_or(if is_object { b'}' } else { b']' })? {
                    if is_object {
                        self.string_key()?;
                    }
                    break;
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    /// Reads a key, its colon, and the white space around the colon. Returns whether the key has escapes.
    #[inline]
    fn string_key(&mut self) -> Result<bool, JsonError> {
        if self.peek() != b'"' {
            return Err(self.unexpected(JsonErrorKind::Unexpected));
        }
        let escaped = self.string()?;
        self.skip_space();
        if self.peek() != b':' {
            return Err(self.unexpected(JsonErrorKind::Unexpected));
        }
        self.at += 1;
        self.skip_space();
        Ok(escaped)
    }

    /// Reads a key of the envelope and its colon. The key may have escapes.
    fn key(&mut self) -> Result<EnvelopeKey, JsonError> {
        let start = self.at + 1;
        let escaped = self.string_key()?;
        let rest = &self.bytes[start..];
        if escaped {
            return Ok(escaped_key(rest));
        }
        Ok(if rest.starts_with(b"input\"") {
            EnvelopeKey::Input
        } else if rest.starts_with(b"metadata\"") {
            EnvelopeKey::Metadata
        } else {
            EnvelopeKey::Other
        })
    }

    /// Reads the value of `metadata`: an object of strings, or null.
    fn metadata(&mut self) -> Result<(), JsonError> {
        if self.peek() == b'n' {
            return self.literal(b"null");
        }
        if self.peek() != b'{' {
            return Err(self.unexpected(JsonErrorKind::MetadataType));
        }
        self.at += 1;
        self.skip_space();
        let mut more = self.peek() != b'}';
        while more {
            self.string_key()?;
            if self.peek() != b'"' {
                return Err(self.unexpected(JsonErrorKind::MetadataType));
            }
            self.string()?;
            more = self.comma_or(b'}')?;
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a string, from quote to quote. Returns whether the string has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, JsonError> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at = byte_scan::first::<byte_scan::JsonRunEnd>(self.bytes, self.at);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(fault(JsonErrorKind::Control, self.at)),
                None => return Err(fault(JsonErrorKind::End, self.at)),
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        match self.bytes.get(start + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = self.unit(start)?;
                self.at += 6;
                match unit {
                    0xd800..=0xdbff => {
                        let low = self.bytes[self.at..].starts_with(b"\\u");
                        if !low || !matches!(self.unit(self.at)?, 0xdc00..=0xdfff) {
                            return Err(fault(JsonErrorKind::Surrogate, start));
                        }
                        self.at += 6;
                    }
                    0xdc00..=0xdfff => return Err(fault(JsonErrorKind::Surrogate, start)),
                    _ => {}
                }
            }
            Some(_) => return Err(fault(JsonErrorKind::Escape, start)),
            None => return Err(fault(JsonErrorKind::End, start + 1)),
        }
        Ok(())
    }

    /// Returns the sixteen bits of the `\uXXXX` that begins at `start`.
    fn unit(&self, start: usize) -> Result<u32, JsonError> {
        unit(&self.bytes[start + 2..]).ok_or_else(|| fault(JsonErrorKind::Escape, start))
    }

    #[inline]
    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_ascii_digit() {
            return Err(self.unexpected(JsonErrorKind::Number));
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    #[inline]
    fn literal(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        self.at += self.bytes[self.at..]
            .iter()
            .zip(word)
            .take_while(|(a, b)| a == b)
            .count();
        Err(self.unexpected(JsonErrorKind::Unexpected))
    }
}

fn unit(digits: &[u8]) -> Option<u32> {
    digits
        .first_chunk::<4>()?
        .iter()
        .try_fold(0, |unit, &byte| {
            Some(unit << 4 | char::from(byte).to_digit(16)?)
        })
}

/// Returns which key `text` spells before its closing quote. The escapes in the text are known to be valid.
/// Both names are ASCII, so a key with any other character is another key.
#[cold]
fn escaped_key(text: &[u8]) -> EnvelopeKey {
    let mut name = [0u8; 8];
    let mut length = 0;
    let mut at = 0;
    while text[at] != b'"' {
        let (byte, width) = match (text[at], text[at + 1]) {
            (b'\\', b'u') => (
                unit(&text[at + 2..]).and_then(|unit| u8::try_from(unit).ok()),
                6,
            ),
            (b'\\', b'/' | b'"' | b'\\') => (Some(text[at + 1]), 2),
            // The other escapes stand for control characters, which neither name contains.
            (b'\\', _) => (None, 2),
            (byte, _) => (Some(byte), 1),
        };
        let (Some(byte), Some(place)) = (byte, name.get_mut(length)) else {
            return EnvelopeKey::Other;
        };
        *place = byte;
        length += 1;
        at += width;
    }
    match &name[..length] {
        b"input" => EnvelopeKey::Input,
        b"metadata" => EnvelopeKey::Metadata,
        _ => EnvelopeKey::Other,
    }
}

#[cfg(test)]
mod tests;
