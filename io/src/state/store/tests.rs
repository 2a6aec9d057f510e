//! Tests of the budget that all io threads share: which execution is dropped first, and how many bytes each
//! execution counts.

use std::rc::Rc;

use nanofaas_core::call::Deadline;
use nanofaas_core::id::ExecutionId;
use nanofaas_core::outcome::{ExecutionError, TimeLimit};
use nanofaas_core::time::Uptime;

use super::*;
use crate::http::output::Output;
use crate::invoke::admit;
use crate::invoke::stored;
use crate::links::Links;
use crate::shard::fleet::{Fleet, STORE_BYTES, exchange, with_fleet};
use crate::state::executions::{IdempotencyKey, Status, StoredExecution};

const NEVER: Deadline = Deadline::after(Uptime::from_ns(u64::MAX), TimeLimit::Async(0));

/// Adds a finished execution with an output of `bytes` bytes, and drops executions while the budget is
/// exceeded.
fn finish(fleet: &Fleet, index: usize, bytes: usize) -> ExecutionId {
    let thread = &fleet.threads[index];
    let (id, now) = (thread.new_id(), thread.now());
    let entry = thread.function("f").expect("it is registered");
    let stored = StoredExecution::new(admit::record(&entry, id, now, None), NEVER, None, true);
    thread.executions.put(&stored);
    let output = Output::json(vec![b'1'; bytes], 0..bytes);
    admit::end_record(&mut stored.record.borrow_mut(), Status::Success, None, now);
    let output = Some(output);
    thread.executions.finished(&stored, output, thread.now());
    stored::expire(thread, thread.now());
    id
}

fn is_kept(fleet: &Fleet, id: ExecutionId) -> bool {
    let thread = &fleet.threads[id.shard().index()];
    thread.executions.find(id).is_some()
}

fn stored_bytes(fleet: &Fleet) -> u64 {
    let of = |thread: &Rc<Links>| thread.ledger().store_bytes.load(Ordering::Relaxed);
    fleet.threads.iter().map(of).sum()
}

#[test]
fn the_oldest_finished_of_all_threads_goes_first() {
    const QUARTER: usize = STORE_BYTES as usize / 4;
    with_fleet(3, async |fleet: Rc<Fleet>| {
        let mut ids = Vec::new();
        // With its record, each execution takes a little less than a quarter of the budget, so four of them
        // fit.
        for index in [0, 1, 0, 2, 2, 1, 2, 2, 2, 0] {
            ids.push(finish(&fleet, index, QUARTER - 4096));
            exchange(&fleet).await;
            let there = ids.iter().map(|id| is_kept(&fleet, *id));
            let dropped = ids.len().saturating_sub(4);
            let expected = (0..ids.len()).map(|at| at >= dropped);
            assert!(there.eq(expected), "{ids:?}");
            assert!(stored_bytes(&fleet) <= STORE_BYTES);
        }
    });
}

#[test]
fn one_thread_may_fill_the_store() {
    with_fleet(4, async |fleet: Rc<Fleet>| {
        let id = finish(&fleet, 2, STORE_BYTES as usize - 4096);
        exchange(&fleet).await;
        assert!(is_kept(&fleet, id));
        // An execution that is larger than the budget is dropped after all executions that finished before
        // it.
        let larger = finish(&fleet, 1, STORE_BYTES as usize + 1);
        exchange(&fleet).await;
        assert!(!is_kept(&fleet, id) && !is_kept(&fleet, larger));
        assert_eq!(stored_bytes(&fleet), 0);
    });
}

#[test]
fn stored_weight_is_all_and_returns_to_zero() {
    with_fleet(1, async |fleet: Rc<Fleet>| {
        let thread = &fleet.threads[0];
        let entry = thread.function("f").expect("it is registered");
        let put = |key: Option<IdempotencyKey>,
                   failure: Option<ExecutionError>,
                   output: Option<Output>| {
            let before = stored_bytes(&fleet);
            let (id, now) = (thread.new_id(), thread.now());
            let record = admit::record(&entry, id, now, None);
            let stored = StoredExecution::new(record, NEVER, key, true);
            thread.executions.put(&stored);
            let status = Status::Error;
            admit::end_record(
                &mut stored.record.borrow_mut(),
                status,
                failure.as_ref(),
                now,
            );
            thread.executions.finished(&stored, output, now);
            stored_bytes(&fleet) - before
        };
        let bare = put(None, None, None);
        assert!(bare as usize > size_of::<StoredExecution>());
        let text = ExecutionError::PodLost("x".repeat(1000).into());
        assert_eq!(put(None, Some(text), None), bare + 1000);
        let key: IdempotencyKey = (crate::shard::fleet::LANE, vec![b'k'; 200].into());
        assert!(put(Some(key), None, None) > bare + 2 * 200);
        let output = |room: usize, bytes: usize| {
            let mut buffer = Vec::with_capacity(room);
            buffer.resize(bytes, b'1');
            Some(Output::json(buffer, 0..bytes))
        };
        assert_eq!(put(None, None, output(5000, 3000)), bare + 5000);
        // An output in a much larger buffer than it needs is moved to a smaller one.
        assert_eq!(put(None, None, output(5000, 1)), bare + 1);
        stored::expire(thread, Uptime::from_ns(u64::MAX));
        assert_eq!(stored_bytes(&fleet), 0);
    });
}
