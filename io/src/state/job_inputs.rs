//! Bodies that Jobs fetch, each for as long as its attempt runs. It answers no request; `api::executions` does.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

/// A body that a Job may fetch: the copy that its call is charged for.
pub(crate) struct JobInput {
    pub(crate) content_type: Box<[u8]>,
    pub(crate) content_encoding: Option<Box<[u8]>>,
    /// Shared with the bridge, which hands it to the Job if it is small.
    pub(crate) body: Arc<[u8]>,
    /// The attempt that may fetch it.
    pub(crate) attempt: u32,
}

/// The inputs, by the random bits of their executions' ids.
pub(crate) type JobInputs = RefCell<HashMap<u128, Rc<JobInput>>>;
