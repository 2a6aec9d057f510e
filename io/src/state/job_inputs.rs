//! Bodies that Jobs fetch. Each body is kept for as long as its attempt runs. `api::executions` answers the
//! requests of the Jobs.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

/// A body that a Job may fetch. The Job's call holds a charge for it.
pub(crate) struct JobInput {
    pub(crate) content_type: Box<[u8]>,
    pub(crate) content_encoding: Option<Box<[u8]>>,
    /// The bytes, shared with the bridge, which gives a small body to the Job when it starts the Job.
    pub(crate) body: Arc<[u8]>,
    /// The attempt whose Job may fetch the body.
    pub(crate) attempt: u32,
}

/// The inputs, by the random bits of their executions' ids.
pub(crate) type JobInputs = RefCell<HashMap<u128, Rc<JobInput>>>;
