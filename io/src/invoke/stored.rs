//! Calls that may outlive their client's wait: async, keyed and `Prefer` ones. Such a call runs in a
//! task of its own, its execution is kept, and clients follow it. It admits nothing by itself and runs
//! no attempt. `serve` calls it; the ticker has it drop what is past its time.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::call::{Deadline, End, goes_on_without_client};
use nanofaas_core::id::ExecutionId;
use nanofaas_core::memory::Charge;
use nanofaas_core::outcome::TimeLimit;
use nanofaas_core::ticket::Class;

use crate::api::executions::{self, NotFollowed};
use crate::http::problem::Problem;
use crate::http::response::{Response, problem};
use crate::invoke::admit::{Answering, Entrant, MS, end_record, enter, finish, record};
use crate::invoke::call::{self, Call, Life};
use crate::invoke::charges::WaitingBody;
use crate::invoke::incoming::Incoming;
use crate::invoke::join::{self, Follower};
use crate::invoke::to_pod::Stamps;
use crate::links::shards;
use crate::shard::thread::Thread;
use crate::state::executions::{Kept, Key};
use crate::state::idempotency::{Claim, fingerprint};

/// Lets the call in, and has its client follow it.
pub(crate) async fn serve(
    thread: &Rc<Thread>,
    mut entrant: Entrant,
    incoming: Incoming,
    detached: bool,
    answering: &Answering<'_>,
) -> Response {
    let id = thread.new_id();
    let key = match claim_key(thread, &entrant, &incoming, detached, id).await {
        Ok(key) => key,
        Err(response) => return *response,
    };
    let async_limit = TimeLimit::Async(thread.config.async_max_age_ms);
    let async_deadline = Deadline::after(entrant.arrived_ns, async_limit);
    let deadline = if detached {
        async_deadline
    } else {
        entrant.deadline
    };
    let now_ns = thread.now_ns();
    let record = record(&entrant.known, id, now_ns, None);
    let kept = Kept::new(record, deadline, key, detached);
    let class = if detached { Class::Async } else { Class::Sync };
    let begin = |place| kept.record.borrow_mut().call = Some(place);
    let life = match enter(thread, &entrant.known, class, now_ns, deadline, begin) {
        Ok(life) => life,
        Err(refused) => {
            if let Some(key) = kept.key.take() {
                shards::refuse_key(thread, key, id, &refused);
            }
            return problem(&refused);
        }
    };
    // Before the owner of the key tells others to follow it.
    thread.executions.put(&kept);
    if let Some(key) = &*kept.key.borrow() {
        shards::admit_key(thread, key, id);
    }
    expire(thread, now_ns);
    let trace_id = incoming.trace_id().map(Box::<[u8]>::from);
    let arrived_ns = entrant.arrived_ns;
    let place = life.place();
    // A first call is queued as far as its client is concerned, however fast it is granted.
    let queued = join::accepted(&kept, trace_id.as_deref());
    let waiting = entrant.waiting.take();
    let patience_ns = patience_ns(&incoming, arrived_ns);
    thread.event_loop.spawn(run_kept(
        thread.clone(),
        kept.clone(),
        life,
        (entrant.charge, waiting),
        incoming,
        arrived_ns,
    ));
    if detached {
        return queued;
    }
    let over = follow_own(thread, &kept, patience_ns, answering).await;
    if over {
        return join::result(thread, &kept, trace_id.as_deref(), arrived_ns, false);
    }
    // Its client's patience is over, or its client: it goes on by the async deadlines.
    kept.detached.set(true);
    kept.deadline.set(async_deadline);
    let goes_on = goes_on_without_client(kept.key.borrow().is_some(), kept.followers.get());
    if answering.client.is_gone() && !goes_on {
        thread.calls.end(place, End::ClientLeft);
    }
    join::accepted(&kept, trace_id.as_deref())
}

/// Until when the client of a call that arrived then waits, if it said so.
fn patience_ns(incoming: &Incoming, arrived_ns: u64) -> Option<u64> {
    let wait_s = incoming.head.prefer.wait_s()?;
    Some(arrived_ns + u64::from(wait_s) * 1000 * MS)
}

/// Waits for one's own call; false where patience, or the client, went first.
async fn follow_own(
    thread: &Thread,
    kept: &Kept,
    patience_ns: Option<u64>,
    answering: &Answering<'_>,
) -> bool {
    let alarm = thread.alarms.alarm();
    if let Some(patience_ns) = patience_ns {
        alarm.set(patience_ns);
    }
    let mut over = kept.until_over();
    poll_fn(|cx| {
        if over.poll(cx) {
            return Poll::Ready(true);
        }
        if answering.client.is_gone() {
            return Poll::Ready(false);
        }
        alarm.poll(cx).map(|()| false)
    })
    .await
}

/// Claims the call's key for `id`, if it has one; else gives the answer of the execution that holds it.
async fn claim_key(
    thread: &Rc<Thread>,
    entrant: &Entrant,
    incoming: &Incoming,
    enqueue: bool,
    id: ExecutionId,
) -> Result<Option<Key>, Box<Response>> {
    let Some(key) = incoming.idempotency_key() else {
        return Ok(None);
    };
    let key: Key = (entrant.known.function.lane, key.into());
    let (content_type, content_encoding) = (incoming.content_type(), incoming.content_encoding());
    let body = fingerprint(content_type, content_encoding, incoming.body());
    let deadline_ns = entrant.deadline.at_ns;
    loop {
        let response = match shards::claim(thread, &key, body, id, deadline_ns).await {
            Some(Claim::Run { key, .. }) => return Ok(Some(*key)),
            Some(Claim::Follow(holder)) => {
                let follower = Follower {
                    trace_id: incoming.trace_id().map(Into::into),
                    deadline_ns,
                    patience_ns: patience_ns(incoming, entrant.arrived_ns),
                    enqueue,
                    arrived_ns: entrant.arrived_ns,
                };
                match executions::follow_anywhere(thread, holder, follower).await {
                    Ok(response) => response,
                    // The store dropped it after the claim was answered, and gave its key up before it
                    // said so: the next claim finds another holder, or none.
                    Err(NotFollowed::Gone) if thread.now_ns() < deadline_ns => continue,
                    Err(NotFollowed::Gone | NotFollowed::Busy) => problem(&Problem::Busy),
                }
            }
            Some(Claim::Mismatch) => problem(&Problem::KeyMismatch),
            Some(Claim::Refused(why)) => problem(&why),
            None => problem(&Problem::Busy),
        };
        return Err(Box::new(response));
    }
}

/// The task of a kept call.
async fn run_kept(
    thread: Rc<Thread>,
    kept: Rc<Kept>,
    life: Life,
    (charge, waiting): (Charge, Option<WaitingBody>),
    incoming: Incoming,
    arrived_ns: u64,
) {
    let alarm = thread.alarms.alarm();
    let id = kept.record.borrow().id;
    let call = Call {
        thread: &thread,
        place: life.place(),
        life: life.into(),
        id,
        arrived_ns,
        kept: Some(kept.clone()),
        request: &incoming,
        alarm: &alarm,
        waiting: RefCell::new(waiting),
        stamps: Stamps::default(),
        is_cold: Cell::new(false),
    };
    let finished = call::serve(&call).await;
    let now_ns = thread.now_ns();
    let status = finish(&call, &finished, now_ns);
    drop(charge);
    kept.times.set(finished.times);
    end_record(
        &mut kept.record.borrow_mut(),
        status,
        finished.result.as_ref().err(),
        now_ns,
    );
    if finished.never_ran
        && let Some(key) = kept.key.take()
    {
        shards::release_key(&thread, key, id);
    }
    // From now on the store has it in its account.
    let output = finished.result.ok().map(|answer| answer.output);
    thread.executions.finished(&kept, output, now_ns);
    kept.announce();
    expire(&thread, now_ns);
}

/// Drops executions that are past their time or the byte budget, and their keys.
pub(crate) fn expire(thread: &Thread, now_ns: u64) {
    let older = thread.executions.expire(now_ns, |gone, early| {
        if early {
            thread.ledger().evicted.add();
        }
        if let Some(key) = gone.key.take() {
            shards::release_key(thread, key, gone.record.borrow().id);
        }
    });
    if let Some(older) = older {
        shards::ask_to_drop(thread, older);
    }
}

/// Another thread passed the byte budget, and the oldest finished execution is here.
pub(crate) fn drop_oldest(thread: &Thread) {
    // First: what passes the budget after the look asks anew.
    thread.executions.acknowledge_budget();
    expire(thread, thread.now_ns());
}
