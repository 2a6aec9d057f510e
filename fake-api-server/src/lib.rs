//! A fake cluster for tests of programs that use Kubernetes: a scripted API server (`server`) with its
//! objects (`store`) and watches (`watch`), a kubelet and a Job controller (`kubelet`), and faults that a
//! test asks for (`script`). It behaves as the API of Kubernetes does for the objects that the platform
//! uses, in one namespace, `test`; it knows no code of the platform. All of it runs on the thread of its
//! test, so that the test controls the time.

mod http;
pub mod kubelet;
pub mod script;
pub mod server;
mod store;
mod watch;

pub use store::{name_of, selects};
