//! What other threads say to this one: messages of the bridge, grants of a pinned scheduler,
//! questions of its peers. It empties the rings and sleeps by the doorbell's protocol; it never
//! waits for anything else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use nanofaas_core::call::End;
use nanofaas_core::function::Function;
use nanofaas_core::message::{BridgeMessage, Message, PodAddress};
use nanofaas_core::post::IoInbox;
use nanofaas_core::spec::Endpoint;

use crate::links::shards::{self, PeerInbox};
use crate::runtime::buffers::SMALL;
use crate::runtime::net::Socket;
use crate::shard::thread::{Known, Phase, Thread};
use crate::state::call_table::JobNews;

/// Messages in a row before the loop looks at I/O.
const PASS_MAX: usize = 512;

/// The receiving ends.
pub(crate) struct Inbox {
    pub(crate) rings: IoInbox,
    pub(crate) peers: PeerInbox,
}

impl Inbox {
    pub(crate) fn has_mail(&self) -> bool {
        let rings = &self.rings;
        rings.messages.is_published() || rings.grants.is_published() || self.peers.has_mail()
    }
}

/// Serves the inbox for ever.
pub(crate) async fn run(thread: Rc<Thread>, inbox: Rc<RefCell<Inbox>>, bell: Socket) {
    let doorbell = inbox.borrow().rings.bell.clone();
    loop {
        let now = thread.now();
        thread.ledger().beat.beat(now);
        thread.alarms.advance(now);
        pump(&thread, &inbox);
        thread.tick(now);
        make_room(&thread);
        // With work left the thread rings its own bell: the read of the bell is then an I/O
        // completion, so the other tasks have their turn before the work goes on.
        let is_wanted = || {
            let has_mail = inbox.borrow().has_mail();
            has_mail
                || thread.turn_left.get()
                || thread.ledger().beat.is_owed()
                || thread.account.is_wanted()
                || thread.readers.is_wanted(&thread)
        };
        if !doorbell.sleep(is_wanted) {
            let _announced = doorbell.sleep(|| false);
            doorbell.ring();
        }
        let rung = poll_fn(|cx| bell.poll_recv(SMALL, cx)).await;
        doorbell.awake();
        let bytes = rung.unwrap_or_default();
        assert!(!bytes.is_empty(), "an io thread lost its bell");
        thread.buffers.give(bytes);
    }
}

/// Tells those who waited for memory, and does what this thread can for those who still do.
fn make_room(thread: &Thread) {
    thread.account.wake();
    thread.grant_descriptor();
    if thread.account.is_short() {
        thread.account.give_back_spare();
        thread.readers.plan(thread);
    }
}

/// Takes what is there from within a call, which has heard of something that a message explains.
pub(crate) fn catch_up(thread: &Rc<Thread>) {
    if let Some(inbox) = thread.inbox.get() {
        pump(thread, inbox);
    }
}

/// Takes what is there, messages before grants: a grant may name a pod that a message introduces.
pub(crate) fn pump(thread: &Rc<Thread>, inbox: &RefCell<Inbox>) {
    for _ in 0..PASS_MAX {
        let Some(message) = inbox.borrow_mut().rings.messages.pop() else {
            break;
        };
        take(thread, message);
    }
    for _ in 0..PASS_MAX {
        let Some(grant) = inbox.borrow_mut().rings.grants.pop() else {
            break;
        };
        thread.take_grant(grant);
    }
    for _ in 0..PASS_MAX {
        let Some(message) = inbox.borrow_mut().peers.messages.pop() else {
            break;
        };
        shards::take(thread, message);
    }
    for _ in 0..PASS_MAX {
        let Some((token, answer)) = inbox.borrow_mut().peers.answers.pop() else {
            break;
        };
        shards::take_answer(thread, token, answer);
    }
}

fn take(thread: &Rc<Thread>, message: Message) {
    match message {
        Message::Event(event) => thread.schedule(event, thread.now()),
        Message::Notice(notice) => thread.heed(&notice),
        Message::Function(function) => {
            let version = function.version;
            let name = function.name();
            let old = thread.functions.borrow().get(name).cloned();
            let endpoint = match &old {
                Some(old) if old.function.spec.endpoint_url == function.spec.endpoint_url => {
                    old.endpoint.borrow().clone()
                }
                _ => literal(&function),
            };
            let known = Rc::new(Known {
                host: crate::invoke::to_pod::host_of(&function.spec),
                function,
                endpoint: RefCell::new(endpoint),
            });
            thread.functions.borrow_mut().put(known);
            acknowledge(thread, version);
        }
        Message::FunctionRemoved {
            lane,
            name,
            version,
        } => {
            thread.functions.borrow_mut().remove(&name);
            thread.calls.end_all(Some(lane), &End::Removed);
            acknowledge(thread, version);
        }
        Message::PodAddress {
            pod,
            address,
            start,
        } => thread.pods.put(pod, address, start),
        Message::PodGone { pod, end } => thread.pods.gone(pod, end),
        Message::Endpoint { lane, address } => {
            if let Some(known) = thread.functions.borrow().at(lane) {
                *known.endpoint.borrow_mut() = address.map(Rc::new);
            }
        }
        Message::JobStarting {
            call,
            attempt,
            running_since,
            start,
            held_up,
        } => {
            let news = JobNews::Starting {
                running_since,
                start,
                held_up,
            };
            thread.calls.job(call, attempt, news);
        }
        Message::JobEnded {
            call,
            attempt,
            failure,
            oom,
        } => {
            thread
                .calls
                .job(call, attempt, JobNews::Ended { failure, oom });
        }
        Message::Reply { token, reply } => {
            // A change that comes too late for its client was made all the same.
            let _late = thread.replies.answer(token, reply);
        }
        Message::Begun => thread.begin(),
        Message::Drain => thread.phase.set(Phase::Draining),
        Message::Stop => {
            thread.phase.set(Phase::Stopping);
            let _told = thread.until_stopping.take().map(Waker::wake);
            thread.calls.end_all(None, &End::Shutdown);
        }
    }
}

/// Where a POOL function's endpoint is, if its URL names an address: then there is nothing to
/// resolve, and the first call need not wait for the bridge.
fn literal(function: &Function) -> Result<Rc<PodAddress>, Arc<str>> {
    match &function.spec.endpoint_url {
        Some(Endpoint::Unix { socket, .. }) => Ok(Rc::new(PodAddress::Unix(socket.into()))),
        Some(Endpoint::Http { host, port, .. }) => match host.parse() {
            Ok(ip) => Ok(Rc::new(PodAddress::Tcp(SocketAddr::new(ip, *port)))),
            Err(_) => Err("the name of its endpoint was not resolved yet; call again".into()),
        },
        None => Err("it has no endpoint".into()),
    }
}

/// The bridge has room for an answer to each of its messages: it waits for them before more.
fn acknowledge(thread: &Thread, version: u64) {
    let sent = thread.bridge.send(BridgeMessage::Ack { version });
    assert!(
        sent.is_ok(),
        "the bridge's ring has places for every acknowledgement"
    );
}
