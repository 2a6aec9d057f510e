//! Tests of the account of bytes. In one of them, io threads make, change, send and drop charges in a random
//! order: the account exceeds its bound by at most one answer, and nothing is charged after the last drop.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use nanofaas_core::doorbell::Doorbell;
use nanofaas_core::memory::{Account, Charge, Loose, ThreadAccount, Wait};
use nanofaas_core::metrics::ThreadLedger;
use nanofaas_core::shard::ShardId;
use proptest::prelude::*;

const THREADS: usize = 3;
const ANSWER_MAX: u64 = 6 << 20;
const BYTES_MAX: u64 = 16 << 20;

fn ledgers(count: usize) -> Arc<[ThreadLedger]> {
    (0..count).map(|_| ThreadLedger::default()).collect()
}

fn bells(count: usize) -> impl Iterator<Item = Arc<Doorbell>> {
    (0..count).map(|_| Arc::new(Doorbell::new(Waker::noop().clone())))
}

/// What a thread of the test does. The first `usize` of an act selects a charge, a message or a wait.
#[derive(Clone, Debug)]
enum AccountAct {
    /// The thread charges a request, or refuses it.
    Request(u64),
    /// An answer waits for room.
    Answer(u64),
    /// The thread charges more for a held charge.
    Grow(usize, u64),
    Cut(usize, u64),
    Drop(usize),
    /// The thread sends a held charge to another thread.
    Send(usize, usize),
    /// The thread drops a message with the charge that is in it.
    LoseMessage(usize),
    /// The thread adopts the charge of a message.
    Take(usize),
    /// The thread polls all its waits.
    Poll,
    /// The thread drops a wait.
    GiveUp(usize),
    Idle,
}

fn act() -> impl Strategy<Value = AccountAct> {
    let bytes = prop_oneof![0..4096_u64, 0..(1_u64 << 20), 0..ANSWER_MAX];
    prop_oneof![
        4 => bytes.clone().prop_map(AccountAct::Request),
        4 => bytes.clone().prop_map(AccountAct::Answer),
        2 => (any::<usize>(), bytes.clone()).prop_map(|(at, bytes)| AccountAct::Grow(at, bytes)),
        2 => (any::<usize>(), bytes).prop_map(|(at, bytes)| AccountAct::Cut(at, bytes)),
        5 => any::<usize>().prop_map(AccountAct::Drop),
        2 => (any::<usize>(), 0..THREADS).prop_map(|(at, to)| AccountAct::Send(at, to)),
        1 => any::<usize>().prop_map(AccountAct::LoseMessage),
        2 => any::<usize>().prop_map(AccountAct::Take),
        4 => Just(AccountAct::Poll),
        2 => any::<usize>().prop_map(AccountAct::GiveUp),
        1 => Just(AccountAct::Idle),
    ]
}

struct Thread {
    account: Rc<ThreadAccount>,
    held: Vec<Charge>,
    waits: Vec<(u64, Wait)>,
    messages: Vec<Loose>,
}

fn pick<T>(all: &mut Vec<T>, at: usize) -> Option<T> {
    (!all.is_empty()).then(|| all.swap_remove(at % all.len()))
}

impl Thread {
    fn poll(&mut self) {
        let cx = &Context::from_waker(Waker::noop());
        self.account.wake();
        let held = &mut self.held;
        self.waits.retain_mut(|(bytes, wait)| match wait.poll(cx) {
            Poll::Ready(charge) => {
                assert_eq!(charge.bytes(), *bytes, "room is had whole");
                held.push(charge);
                false
            }
            Poll::Pending => true,
        });
    }

    fn act(&mut self, act: &AccountAct) -> Option<(usize, Loose)> {
        match *act {
            AccountAct::Request(bytes) => self.held.extend(self.account.charge(bytes)),
            AccountAct::Answer(bytes) => {
                self.waits.push((bytes, self.account.wait(bytes)));
                self.poll();
            }
            AccountAct::Grow(at, bytes) => {
                if let Some(mut charge) = pick(&mut self.held, at) {
                    let before = charge.bytes();
                    let grew = charge.grow(bytes);
                    assert_eq!(charge.bytes(), before + if grew { bytes } else { 0 });
                    self.held.push(charge);
                }
            }
            AccountAct::Cut(at, bytes) => {
                if let Some(mut charge) = pick(&mut self.held, at) {
                    charge.cut_to(bytes);
                    self.held.push(charge);
                }
            }
            AccountAct::Drop(at) => drop(pick(&mut self.held, at)),
            AccountAct::Send(at, to) => {
                return pick(&mut self.held, at).map(|charge| (to, charge.into_loose()));
            }
            AccountAct::LoseMessage(at) => drop(pick(&mut self.messages, at)),
            AccountAct::Take(at) => {
                let came = pick(&mut self.messages, at);
                self.held
                    .extend(came.map(|loose| self.account.adopt(loose)));
            }
            AccountAct::Poll => self.poll(),
            AccountAct::GiveUp(at) => drop(pick(&mut self.waits, at)),
            AccountAct::Idle => self.account.give_back_spare(),
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn ends_at_nothing_and_keeps_its_bound(
        acts in prop::collection::vec((0..THREADS, act()), 1..200)
    ) {
        let (account, ledgers) = (Account::new(BYTES_MAX, bells(THREADS)), ledgers(THREADS));
        let mut threads: Vec<Thread> = (0..THREADS)
            .map(|at| Thread {
                account: ThreadAccount::new(account.clone(), ShardId::new(at as u16), ledgers.clone()),
                held: Vec::new(),
                waits: Vec::new(),
                messages: Vec::new(),
            })
            .collect();
        for (at, act) in &acts {
            if let Some((to, loose)) = threads[*at].act(act) {
                threads[to].messages.push(loose);
            }
            prop_assert!(account.taken() <= BYTES_MAX + ANSWER_MAX, "{act:?}");
            for (thread, ledger) in threads.iter().zip(&*ledgers) {
                let held: u64 = thread.held.iter().map(Charge::bytes).sum();
                prop_assert_eq!(ledger.inflight_bytes.get(), held, "the gauge says what is held");
            }
        }
        // If each thread drops all charges that it gets, each wait must end.
        let mut rounds = 0;
        while threads.iter().any(|thread| !thread.waits.is_empty()) {
            for thread in &mut threads {
                thread.held.clear();
                thread.messages.clear();
                thread.poll();
            }
            rounds += 1;
            prop_assert!(rounds < 1000, "a wait for room has no end");
        }
        for thread in &mut threads {
            thread.held.clear();
            thread.messages.clear();
            thread.account.give_back_spare();
        }
        prop_assert_eq!(account.taken(), 0);
        prop_assert!(!account.is_short());
    }
}

#[test]
fn waits_are_served_in_order() {
    let (account, ledgers) = (Account::new(BYTES_MAX, bells(2)), ledgers(2));
    let threads: Vec<_> = (0..2)
        .map(|at| ThreadAccount::new(account.clone(), ShardId::new(at), ledgers.clone()))
        .collect();
    let cx = &Context::from_waker(Waker::noop());
    let mut held: Vec<Charge> = Vec::new();
    let mut waits: Vec<Wait> = (0..12).map(|at| threads[at % 2].wait(5 << 20)).collect();
    for wait in &mut waits {
        if let Poll::Ready(charge) = wait.poll(cx) {
            held.push(charge);
        }
    }
    // Two charges fit into the budget. The third one exceeds it and is granted anyway.
    assert_eq!(held.len(), 3);
    assert!(account.taken() <= BYTES_MAX + (5 << 20));
    waits.drain(..3);
    while !waits.is_empty() {
        held.remove(0);
        // The waits are polled from the last to the first. If they were polled in the order in which they are
        // served, the test could not detect a wrong order.
        let turns: Vec<_> = waits.iter_mut().rev().map(|wait| wait.poll(cx)).collect();
        let ready = turns.iter().filter(|turn| turn.is_ready()).count();
        let first = turns.into_iter().rev().take(ready);
        held.extend(first.map(|turn| match turn {
            Poll::Ready(charge) => charge,
            Poll::Pending => panic!("one that came later is served before"),
        }));
        waits.drain(..ready);
        assert!(
            waits.is_empty() || !held.is_empty(),
            "the first in line gets on"
        );
    }
}

#[test]
fn a_line_moved_by_others_bytes_stands_still() {
    let (account, ledgers) = (Account::new(BYTES_MAX, bells(2)), ledgers(2));
    let threads: Vec<_> = (0..2)
        .map(|at| ThreadAccount::new(account.clone(), ShardId::new(at), ledgers.clone()))
        .collect();
    let cx = &Context::from_waker(Waker::noop());
    let mut held: Vec<Charge> = std::iter::from_fn(|| threads[0].charge(1 << 20)).collect();
    let mut waits: Vec<Wait> = (0..8).map(|_| threads[1].wait(4 << 20)).collect();
    let poll = |waits: &mut Vec<Wait>, held: &mut Vec<Charge>| {
        waits.retain_mut(|wait| match wait.poll(cx) {
            Poll::Ready(charge) => {
                held.push(charge);
                false
            }
            Poll::Pending => true,
        });
    };
    poll(&mut waits, &mut held);
    let moved = threads[0].moved();
    // Thread 0 announces bytes for the waiting tasks, which lowers `moved` for all threads. When the tasks
    // get these bytes, `moved` must not rise above its first value.
    threads[0].reclaim(4 << 20);
    assert!(threads[1].moved() < moved);
    let waiting = waits.len();
    held.drain(..12);
    threads[0].give_back_spare();
    poll(&mut waits, &mut held);
    assert!(waits.len() < waiting, "some get on");
    assert!(threads.iter().all(|thread| thread.moved() <= moved));
    // These charges are dropped without an announcement, so `moved` rises above its first value.
    held.clear();
    threads.iter().for_each(|thread| thread.give_back_spare());
    poll(&mut waits, &mut held);
    assert!(threads.iter().all(|thread| thread.moved() > moved));
}

#[test]
fn calls_that_hold_everything_get_on() {
    let (account, ledgers) = (Account::new(BYTES_MAX, bells(1)), ledgers(1));
    let thread = ThreadAccount::new(account.clone(), ShardId::new(0), ledgers);
    let cx = &Context::from_waker(Waker::noop());
    let bodies: Vec<_> = std::iter::from_fn(|| thread.charge(1 << 20)).collect();
    assert_eq!(bodies.len(), 16);
    let mut waits: Vec<_> = bodies
        .into_iter()
        .map(|body| (body, thread.wait(6 << 20)))
        .collect();
    let mut rounds = 0;
    while !waits.is_empty() {
        let before = waits.len();
        // A call that got the charge for its answer ends at once, because `retain_mut` drops both of its
        // charges.
        waits.retain_mut(|(_, wait)| wait.poll(cx).is_pending());
        assert!(waits.len() < before, "somebody gets on");
        rounds += 1;
    }
    assert!(rounds <= 16);
    thread.give_back_spare();
    assert_eq!(account.taken(), 0);
}

/// The test uses real threads and bells. A thread that misses its wake-up fails the test after 20 s.
#[test]
fn threads_that_give_back_wake_those_that_wait() {
    struct FlagUnpark(std::thread::Thread, AtomicBool);
    impl std::task::Wake for FlagUnpark {
        fn wake(self: Arc<Self>) {
            self.1.store(true, Ordering::SeqCst);
            self.0.unpark();
        }
    }
    const ROUNDS: u64 = 3000;
    let done = &AtomicU64::new(0);
    let ledgers = ledgers(THREADS);
    let (send_bells, take_bells): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| std::sync::mpsc::channel()).unzip();
    let (send_account, mut take_account): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| std::sync::mpsc::channel()).unzip();
    std::thread::scope(|scope| {
        for (at, send_bell) in send_bells.into_iter().enumerate() {
            let (account, ledgers) = (take_account.remove(0), ledgers.clone());
            scope.spawn(move || {
                let rung = Arc::new(FlagUnpark(std::thread::current(), AtomicBool::new(false)));
                let bell = Arc::new(Doorbell::new(rung.clone().into()));
                send_bell.send(bell.clone()).unwrap();
                let account: Arc<Account> = account.recv().unwrap();
                let own = ThreadAccount::new(account, ShardId::new(at as u16), ledgers);
                let cx = &Context::from_waker(Waker::noop());
                for round in 0..ROUNDS {
                    let mut wait = own.wait(1 + (round * 7919 + at as u64) % ANSWER_MAX);
                    let charge = loop {
                        if let Poll::Ready(charge) = wait.poll(cx) {
                            break charge;
                        }
                        own.give_back_spare();
                        if bell.sleep(|| own.is_wanted()) {
                            while !rung.1.swap(false, Ordering::SeqCst) {
                                std::thread::park_timeout(std::time::Duration::from_secs(20));
                                assert!(rung.1.load(Ordering::SeqCst), "a lost wake-up");
                            }
                            bell.awake();
                        }
                    };
                    drop(charge);
                }
                own.give_back_spare();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let bells: Vec<_> = take_bells.iter().map(|bell| bell.recv().unwrap()).collect();
        let account = Account::new(ANSWER_MAX * 2, bells);
        for send in send_account {
            send.send(account.clone()).unwrap();
        }
    });
    assert_eq!(done.load(Ordering::SeqCst), THREADS as u64);
}
