//! Reads HTTP/1.1 without I/O: bytes in, offsets and lengths out. One reader of heads and one chunked
//! decoder serve clients' requests, pods' answers and the runtime inside a pod. It opens no socket,
//! reads no clock and keeps no byte; what a head means for a call is for its callers to say: `io` on
//! the platform's side, `runtime` in the pod.

pub mod request;
pub mod answer;
pub mod head;
mod lines;
pub mod scan;
pub mod chunked;

pub mod field;
pub mod host;
pub mod media_type;
