//! Parses HTTP/1.1 without I/O (RFC 9112): bytes in, offsets and lengths out. The crate has one
//! parser of heads and one chunked decoder. `io` uses them for clients' requests and pods' answers;
//! `runtime` for its requests, for the answers that its client gets, and for the messages that the
//! watchdog passes on. The management port uses the parser of `Host`.
//!
//! The crate opens no socket, reads no clock, keeps no byte and writes no message. The callers
//! decide what a head means for a call. The outcome depends on the bytes alone, not on the pieces
//! in which they arrived.
//!
//! # What is refused
//!
//! A message that two parsers could read as two different messages is refused, because an attacker
//! could hide a request in bytes that the first parser takes for a body:
//!
//! | input | RFC 9112 |
//! |---|---|
//! | a bare CR or LF, or a control byte other than the tab, in a head | §2.2 |
//! | white space before a header's colon, or at the start of a header line | §5.1, §5.2 |
//! | more than one empty line before a request, any before an answer | §2.2 |
//! | a request of HTTP/1.1 without exactly one `Host`, or whose target names another host | §3.2 |
//! | `Content-Length` twice, as a list, or not in digits | §6.3 |
//! | `Content-Length` beside `Transfer-Encoding` | §6.3 |
//! | `Transfer-Encoding` in HTTP/1.0, or in which `chunked` does not stand once and last | §6.1, §6.3 |
//! | two values of a header that may have only one (`Content-Type`, `Idempotency-Key`, ...) | |
//! | in chunks: a size that is not a hex number of 1 to 16 digits, white space after it, a bare LF | §7.1 |
//!
//! The parser also refuses features that no part of the platform serves: codings other than `chunked` (501),
//! versions other than 1.1 and 1.0 (505), expectations other than `100-continue` (417), and a switch of
//! protocols for which the caller did not ask. It also refuses a message over a limit: a head of 16 KiB or
//! 100 headers (431), a first line of 8 KiB (414), chunk lines of 1 KiB, 16 KiB of chunk extensions, 16 KiB
//! of trailers.

pub mod request;
pub mod response_head;
pub mod head;
pub mod framing;
mod fast_path;
pub mod byte_scan;
pub mod chunked;
pub mod error;
pub mod forward;

pub mod header_value;
pub mod host;
pub mod media_type;
