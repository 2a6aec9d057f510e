//! The tables of one io thread. Only this thread uses them, so they need no locks. What all io threads share
//! is in `SharedTables`. Code in higher layers acts on the tables.

pub(crate) mod functions;
pub(crate) mod call_table;
pub(crate) mod call_machine;
pub(crate) mod executions;
pub(crate) mod store;
pub(crate) mod idempotency;
pub(crate) mod pod_pool;
pub(crate) mod pod_conn;
pub(crate) mod job_inputs;
pub(crate) mod token;
pub(crate) mod readers;
pub(crate) mod patience;
pub(crate) mod descriptors;

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::entries::Entries;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::memory::{Account, ThreadAccount};
use nanofaas_core::rate::RateBucket;

use self::call_table::CallTable;
use self::descriptors::{Descriptors, Scarcity};
use self::executions::ExecutionTable;
use self::functions::{FunctionEntry, FunctionTable};
use self::idempotency::Keys;
use self::job_inputs::JobInputs;
use self::pod_pool::PodPool;
use self::readers::Readers;
use self::store::{Budget, Store};
use self::token::Tokens;
use crate::http::error::HttpError;
use crate::runtime::Runtime;

/// What all io threads share in this layer.
#[derive(Clone)]
pub(crate) struct SharedTables {
    pub(crate) entries: Arc<Entries>,
    pub(crate) rate: Arc<RateBucket>,
    pub(crate) account: Arc<Account>,
    pub(crate) scarcity: Arc<Scarcity>,
    pub(crate) store: Arc<Store>,
    pub(crate) tokens: Tokens,
}

/// The tables of one io thread, over its `Runtime`.
pub(crate) struct Tables {
    pub(crate) runtime: Rc<Runtime>,
    pub(crate) entries: Arc<Entries>,
    pub(crate) rate: Arc<RateBucket>,
    /// The bytes of the process's budget that this thread holds for calls.
    pub(crate) account: Rc<ThreadAccount>,
    pub(crate) functions: RefCell<FunctionTable>,
    /// Whether this thread knows all functions that existed at the start of the process.
    begun: Cell<bool>,
    pub(crate) calls: CallTable,
    pub(crate) executions: ExecutionTable,
    pub(crate) keys: Keys,
    pub(crate) pods: PodPool,
    pub(crate) tokens: Tokens,
    pub(crate) inputs: JobInputs,
    /// Clients that have not taken all of their answer.
    pub(crate) readers: Readers,
    /// Clients whose connections may be closed to free descriptors.
    pub(crate) descriptors: Rc<Descriptors>,
}

/// Lets code that has `Tables` use the `Runtime` in it. A function can therefore take the lowest layer that
/// has everything that the function needs.
impl Deref for Tables {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        &self.runtime
    }
}

impl Tables {
    pub(crate) fn new(runtime: Rc<Runtime>, shared: SharedTables) -> Self {
        let id = runtime.id;
        let budget = Budget::new(shared.store, id);
        Self {
            account: ThreadAccount::new(shared.account, id, runtime.ledgers().clone()),
            rate: shared.rate,
            entries: shared.entries,
            functions: RefCell::default(),
            begun: Cell::new(runtime.config.begun),
            calls: CallTable::new(id),
            executions: ExecutionTable::new(budget, runtime.config.execution_ttl_ms),
            keys: Keys::default(),
            pods: PodPool::default(),
            tokens: shared.tokens,
            inputs: JobInputs::default(),
            readers: Readers::new(&runtime.alarms),
            descriptors: Descriptors::new(shared.scarcity),
            runtime,
        }
    }

    /// Returns the function of this name, if this thread knows it.
    pub(crate) fn function(&self, name: &str) -> Option<Rc<FunctionEntry>> {
        self.functions.borrow().get(name).cloned()
    }

    /// Marks the table of functions as complete. After that, a function that is not in the table does not
    /// exist.
    pub(crate) fn begin(&self) {
        self.begun.set(true);
    }

    /// Returns the error to answer while the table of functions is not complete. If the answer were that the
    /// function does not exist, the client would not try again.
    pub(crate) fn not_begun(&self) -> Option<HttpError> {
        let why = "this control plane has not read the functions yet; try again in a second";
        (!self.begun.get()).then(|| HttpError::RegistryUnavailable(why.to_owned()))
    }

    /// Returns the error for a function that is not in the table.
    pub(crate) fn no_such(&self, name: &str) -> HttpError {
        self.not_begun()
            .unwrap_or_else(|| HttpError::NoSuchFunction(name.to_owned()))
    }

    /// Makes the id of a new stored execution of this thread.
    pub(crate) fn new_id(&self) -> ExecutionId {
        ExecutionId::new(self.random(), self.id, 0)
    }

    /// Makes the id of a new plain execution of this thread, which leaves only a small record.
    pub(crate) fn new_plain_id(&self) -> ExecutionId {
        ExecutionId::new(self.random(), self.id, self.executions.next_place())
    }
}
