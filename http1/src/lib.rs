//! Reads HTTP/1.1 without I/O: bytes in, offsets and lengths out. One reader of heads and one chunked
//! decoder serve clients' requests, pods' answers and the runtime inside a pod. It opens no socket,
//! reads no clock and keeps no byte; what a head means for a call is for its callers to say: `io` on
//! the platform's side, `runtime` in the pod.

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
