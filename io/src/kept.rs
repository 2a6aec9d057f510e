//! Calls that may outlive their client's wait: async, keyed and `Prefer` ones. Such a call runs in a
//! task of its own, its execution is kept, and clients follow it. It admits nothing by itself and runs
//! no attempt. `client` calls it; the ticker has it drop what is past its time.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use nanofaas_core::outcome::Failure;
use nanofaas_core::ticket::{CallRef, Class};

use crate::call::{self, Call};
use crate::calls::End;
use crate::execution_api::{self, About};
use crate::executions::{Kept, Key, Status};
use crate::follow::{self, Follower};
use crate::idempotency::{Claim, fingerprint};
use crate::incoming::Incoming;
use crate::invoke::{Answering, Entrant, MS, end_record, enter, finish, record};
use crate::peer;
use crate::problem::Problem;
use crate::reply::problem;
use crate::thread::{Charge, Known, Thread};

/// Lets the call in, and has its client follow it.
pub(crate) async fn serve(
    thread: &Rc<Thread>,
    entrant: Entrant,
    incoming: Incoming,
    detached: bool,
    answering: &mut Answering<'_>,
) {
    let id = thread.new_id();
    let queued_ns = thread.last_ns();
    let async_deadline_ns = entrant.arrived_ns + thread.config.async_max_age_ms * MS;
    let deadline_ns = if detached {
        async_deadline_ns
    } else {
        entrant.deadline_ns
    };
    let kept = Kept::new(
        record(&entrant.known, id, queued_ns, None),
        deadline_ns,
        detached,
    );
    thread.executions.put(&kept);
    if let Some(key) = incoming.idempotency_key() {
        let key: Key = (entrant.known.function.name().clone(), key.into());
        let body = fingerprint(incoming.content_type().unwrap_or_default(), incoming.body());
        let claim = peer::claim(thread, &key, body, id).await;
        if claim != Some(Claim::Run) {
            thread.executions.forget(id);
            return follow_other(thread, &entrant, &incoming, detached, claim, answering).await;
        }
        kept.key.replace(Some(key));
    }
    let class = if detached { Class::Async } else { Class::Sync };
    let now_ns = thread.now_ns();
    let begin = |place| kept.record.borrow_mut().call = Some(place);
    let place = match enter(thread, &entrant.known, class, now_ns, deadline_ns, begin) {
        Ok(place) => place,
        Err(refused) => {
            refuse_followers(thread, &kept, &refused);
            return answering.send(&problem(&refused));
        }
    };
    let trace_id = incoming.trace_id().map(Box::<[u8]>::from);
    let wait_s = incoming.head.prefer.wait_s;
    let arrived_ns = entrant.arrived_ns;
    let own = (entrant.known, entrant.charge);
    // A first call is queued as far as its client is concerned, however fast it is granted.
    let queued = follow::accepted(&kept, trace_id.as_deref());
    thread.event_loop.spawn(run_kept(
        thread.clone(),
        kept.clone(),
        place,
        own,
        incoming,
        class,
        arrived_ns,
    ));
    if detached {
        return answering.send(&queued);
    }
    let patience_ns = wait_s.map_or(u64::MAX, |wait_s| {
        arrived_ns + u64::from(wait_s) * 1000 * MS
    });
    let over = follow_own(thread, &kept, patience_ns, answering).await;
    if over {
        let response = follow::result(thread, &kept, trace_id.as_deref(), arrived_ns, false);
        return answering.send(&response);
    }
    // Its client's patience is over, or its client: it goes on by the async deadlines.
    kept.detached.set(true);
    kept.deadline_ns.set(async_deadline_ns);
    let keeps_on = kept.key.borrow().is_some() || kept.followers.get() > 0;
    if answering.client.poll_gone() && !keeps_on {
        thread.calls.end(place, End::Left);
    }
    answering.send(&follow::accepted(&kept, trace_id.as_deref()));
}

/// Waits for one's own call; false where patience, or the client, went first.
async fn follow_own(
    thread: &Thread,
    kept: &Kept,
    patience_ns: u64,
    answering: &Answering<'_>,
) -> bool {
    let alarm = thread.alarms.alarm();
    alarm.set(patience_ns);
    poll_fn(|cx| {
        if kept.is_over() {
            return Poll::Ready(true);
        }
        if answering.client.poll_gone() {
            return Poll::Ready(false);
        }
        kept.watch(cx);
        alarm.poll(cx).map(|()| false)
    })
    .await
}

/// A key that somebody else's execution holds.
async fn follow_other(
    thread: &Rc<Thread>,
    entrant: &Entrant,
    incoming: &Incoming,
    enqueue: bool,
    claim: Option<Claim>,
    answering: &mut Answering<'_>,
) {
    let response = match claim {
        Some(Claim::Follow(id)) => {
            let follower = Follower {
                trace_id: incoming.trace_id().map(Into::into),
                deadline_ns: entrant.deadline_ns,
                enqueue,
                arrived_ns: entrant.arrived_ns,
            };
            let about = About::Follow(follower);
            execution_api::answer_anywhere(thread, id, about).await
        }
        Some(Claim::Mismatch) => problem(&Problem::KeyMismatch),
        Some(Claim::Run) => unreachable!("its own claim is not another's"),
        None => problem(&Problem::Busy),
    };
    answering.send(&response);
}

/// The first caller was refused: the key is free again, and who followed hears the same.
fn refuse_followers(thread: &Thread, kept: &Rc<Kept>, refused: &Problem) {
    let id = kept.record.borrow().id;
    if let Problem::Refused(refusal) = refused {
        kept.refused.set(Some(*refusal));
    } else {
        // The function was removed meanwhile.
        let now_ns = thread.now_ns();
        let removed = Some(&Failure::FunctionRemoved);
        end_record(
            &mut kept.record.borrow_mut(),
            Status::Error,
            removed,
            now_ns,
        );
    }
    if let Some(key) = kept.key.take() {
        peer::release_key(thread, key, id);
    }
    thread.executions.forget(id);
    kept.announce();
}

/// The task of a kept call.
async fn run_kept(
    thread: Rc<Thread>,
    kept: Rc<Kept>,
    place: CallRef,
    own: (Rc<Known>, Charge),
    incoming: Incoming,
    class: Class,
    arrived_ns: u64,
) {
    let (known, charge) = own;
    let alarm = thread.alarms.alarm();
    let (id, queued_ns) = {
        let record = kept.record.borrow();
        (record.id, record.enqueued_ns)
    };
    let call = Call {
        thread: &thread,
        known: known.into(),
        place,
        id,
        class,
        arrived_ns,
        queued_ns,
        deadline_ns: kept.deadline_ns.get(),
        kept: Some(kept.clone()),
        request: &incoming,
        alarm: &alarm,
        attempt: 0.into(),
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
        peer::release_key(&thread, key, id);
    }
    thread
        .executions
        .finished(&kept, finished.result.ok().map(Rc::new), now_ns);
    kept.announce();
    expire(&thread, now_ns);
}

/// Drops executions that are past their time or the byte budget, and their keys.
pub(crate) fn expire(thread: &Thread, now_ns: u64) {
    thread.executions.expire(now_ns, |gone, early| {
        if early {
            thread.ledger().evicted.add();
        }
        if let Some(key) = gone.key.take() {
            peer::release_key(thread, key, gone.record.borrow().id);
        }
    });
}
