//! This crate is a fake cluster for tests of programs that use Kubernetes. It has a scripted API server
//! (`server`) with its objects (`store`) and watches (`watch`), a kubelet and a Job controller (`kubelet`),
//! and faults that a test asks for (`script`). The server answers as the API of Kubernetes does, but knows
//! only the kinds of objects that the platform uses, in one namespace, `test`. The crate uses no code of the
//! platform. All its tasks run on the thread of the test, so that the test controls the time.

mod http;
pub mod kubelet;
pub mod script;
pub mod server;
mod store;
mod watch;

pub use store::{name_of, selects};
