//! Charges the memory of a request, from its head on, and counts the bytes that the waiting calls of its
//! function hold. It sends no refusal; its callers do.

use std::rc::Rc;

use nanofaas_core::admission::AdmissionError;
use nanofaas_core::limits::CALL_OVERHEAD_BYTES;
use nanofaas_core::memory::Charge;
use nanofaas_core::metrics::RejectReason;
use nanofaas_core::spec::ExecutionMode;
use nanofaas_core::time::Nanos;

use crate::http::error::HttpError;
use crate::invoke::incoming::Incoming;
use crate::runtime::buffers::{Buffers, LARGE, SMALL};
use crate::state::Tables;
use crate::state::functions::FunctionEntry;

/// A large body that is being read, or whose call waits. While the `WaitingBody` exists, its bytes count
/// among the waiting bytes of its function.
pub(crate) struct WaitingBody {
    entry: Rc<FunctionEntry>,
    bytes: u64,
}

impl WaitingBody {
    /// Counts the body; returns none if the body is too small to be counted.
    fn new(entry: &Rc<FunctionEntry>, bytes: u64) -> Option<Self> {
        (bytes > SMALL as u64).then(|| {
            entry.function.stats.add_waiting(bytes);
            Self {
                entry: entry.clone(),
                bytes,
            }
        })
    }
}

impl Drop for WaitingBody {
    fn drop(&mut self) {
        self.entry.function.stats.sub_waiting(self.bytes);
    }
}

/// Counts a body of `bytes` bytes among the waiting bodies of its function. Fails if these bodies together
/// would hold more than half of the budget (`--inflight-bytes`) while more than half of the budget is taken.
pub(crate) fn wait(
    thread: &Tables,
    entry: &Rc<FunctionEntry>,
    bytes: u64,
) -> Result<Option<WaitingBody>, NoRoom> {
    let waiting = || entry.function.stats.waiting_bytes() + bytes;
    if thread.account.may_wait(waiting) {
        Ok(WaitingBody::new(entry, bytes))
    } else {
        Err(NoRoom)
    }
}

/// The refusal of a body, because the waiting calls of its function hold as many bytes as they may.
pub(crate) struct NoRoom;

/// Returns the charge of a request with a body of `body` bytes. A large body needs a second buffer, for the
/// piece that is being received or sent to a pod. The piece is charged from the beginning, because a call
/// that holds memory must not wait for more memory, except for that of its answer.
pub fn charge_for(body: u64) -> u64 {
    let overhead = CALL_OVERHEAD_BYTES as u64;
    if body <= SMALL as u64 {
        overhead + body
    } else {
        overhead + Buffers::size_for(body as usize) as u64 + piece_of(body as usize)
    }
}

/// Returns the bytes of the second copy of a body, which the control plane sends to a Job while it holds the
/// call's own body. If a function becomes a JOB function, its queued calls are not charged for the copy.
pub(crate) fn copy_of(entry: &FunctionEntry, body: u64) -> u64 {
    if entry.function.spec.execution_mode == ExecutionMode::Job {
        body
    } else {
        0
    }
}

fn piece_of(body: usize) -> u64 {
    Buffers::size_for(body.min(LARGE)) as u64
}

/// Corrects the charge when the request has come completely; fails if there is no memory.
pub(crate) fn settle(
    thread: &Tables,
    entry: &Rc<FunctionEntry>,
    charge: &mut Charge,
    waiting: &mut Option<WaitingBody>,
    incoming: &Incoming,
) -> Result<(), HttpError> {
    let held = incoming.held_bytes();
    if held <= SMALL as u64 {
        return Ok(());
    }
    let body = incoming.body().len();
    let due = CALL_OVERHEAD_BYTES as u64 + held + piece_of(body);
    let due = due + copy_of(entry, body as u64);
    if due > charge.bytes() && !charge.grow(due - charge.bytes()) {
        return Err(out_of_memory(thread, entry));
    }
    charge.cut_to(due);
    if waiting.is_none() {
        // A chunked body is counted only now, because its length was not known before.
        let waits = wait(thread, entry, held);
        *waiting = waits.map_err(|NoRoom| out_of_memory(thread, entry))?;
    }
    Ok(())
}

/// Counts a call that is refused because memory is short, and returns the error.
pub(crate) fn out_of_memory(thread: &Tables, entry: &FunctionEntry) -> HttpError {
    entry.metrics(thread).rejected[RejectReason::Memory as usize].add();
    HttpError::Refused(AdmissionError::new(RejectReason::Memory, Nanos::ZERO))
}
