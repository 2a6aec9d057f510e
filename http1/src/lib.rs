//! Reads HTTP/1.1 without I/O (RFC 9112): bytes in, offsets and lengths out. One reader of heads and
//! one chunked decoder serve every side: clients' requests and pods' answers in `io`; requests, the
//! client's answers and what the watchdog passes on in `runtime`; `Host` on the management port.
//!
//! It opens no socket, reads no clock, keeps no byte and writes no message. What a head means for a
//! call is for its callers to decide. The outcome depends on the bytes alone, never on how they came.
//!
//! # What is refused
//!
//! Whatever two readers could take for two different messages, because a message could hide in what
//! the other one takes for a body:
//!
//! | input | RFC 9112 |
//! |---|---|
//! | a bare CR or LF, another control byte but the tab, in a head | §2.2 |
//! | white space before a header's colon, or at the start of a header line | §5.1, §5.2 |
//! | more than one empty line before a request, any before an answer | §2.2 |
//! | a request of HTTP/1.1 without one `Host`, or whose target names another | §3.2 |
//! | `Content-Length` twice, as a list, or not in digits | §6.3 |
//! | `Content-Length` beside `Transfer-Encoding` | §6.3 |
//! | `Transfer-Encoding` in HTTP/1.0, or in which `chunked` is not once and last | §6.1, §6.3 |
//! | a header twice of which one value is taken (`Content-Type`, `Idempotency-Key`, ...) | |
//! | in chunks: a size that is no hex number of up to 16 digits, white space after it, a bare LF | §7.1 |
//!
//! Also what nothing here could serve: codings but `chunked` (501), versions but 1.1 and 1.0 (505),
//! expectations but `100-continue` (417), a switch of protocols; and what is over
//! its limit: a head of 16 KiB or 100 headers (431), a first line of 8 KiB (414), chunk lines of
//! 1 KiB, 16 KiB of chunk extensions, 16 KiB of trailers.

pub mod request;
pub mod response_head;
pub mod head;
pub mod framing;
mod fast_path;
pub mod byte_scan;
pub mod chunked;
pub mod error;

pub mod header_value;
pub mod host;
pub mod media_type;
