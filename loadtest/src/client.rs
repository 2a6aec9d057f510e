//! The load client is one thread with one epoll set. A usual request costs one read and one write. The client
//! sends the requests of the plan; in an open loop it sends them at the times of the arrivals. It reports the
//! end of each request to the tally, and never repeats a request. After the end of the load it waits for
//! answers for a limited time. A latency runs from the intended send time of its request. `run` calls the
//! client one time.

use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::arrivals::{Arrival, ArrivalSequence};
use crate::connection::{ConnectionState, Read};
use crate::load::LoadSpec;
use crate::plan::{PlannedRequest, RequestPlan};
use crate::pool::{Pool, refused};
use crate::tally::{MeasuredSpan, RequestError, RequestTimes, RunTally, Window};

/// The largest number of requests that wait in the client for one address; each takes 24 bytes.
const QUEUE_MAX: usize = 4_000_000;
/// The pause before a failed connection is opened again, so that a dead server is not flooded with connects.
const REST_NS: u64 = 10_000_000;
/// The interval at which the client checks for timeouts, and for closed connections whose pause is over.
const TICK_NS: u64 = 20_000_000;
const TICK_MS: u8 = 20;
const TIMER: u64 = u64::MAX;
const SCRATCH: usize = 128 * 1024;

#[derive(Clone, Copy)]
struct Flight {
    call: PlannedRequest,
    intended_ns: u64,
    sent_ns: u64,
}

pub(crate) struct LoadClient {
    plan: RequestPlan,
    arrivals: Option<ArrivalSequence>,
    /// The next arrival of an open loop.
    next: Option<Arrival>,
    pool: Pool,
    flights: Vec<Option<Flight>>,
    in_flight: usize,
    /// The requests of an open loop that wait for a connection, by address.
    queues: Vec<VecDeque<Arrival>>,
    /// The connections that may be idle, by address. An open loop takes connections from these lists.
    idle: Vec<VecDeque<usize>>,
    /// For each connection: whether `idle` contains it.
    listed: Vec<bool>,
    /// The request that each client of a closed loop sends as soon as its connection is idle.
    pending: Vec<Option<PlannedRequest>>,
    timer: TimerFd,
    /// The intended send time for which the timer is set.
    armed_ns: u64,
    start: Instant,
    end_ns: u64,
    timeout_ns: u64,
    spin: bool,
    tally: RunTally,
    windows: Sender<Window>,
}

impl LoadClient {
    /// Opens all connections, but sends no request.
    pub(crate) fn connect(
        load: &LoadSpec,
        plan: RequestPlan,
        arrivals: Option<ArrivalSequence>,
        windows: Sender<Window>,
    ) -> Result<Self, String> {
        let pool = Pool::open(&plan.urls, load.connections)?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::all()).map_err(refused)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, TIMER);
        pool.epoll.add(&timer, event).map_err(refused)?;
        let begin_ns = nanoseconds(load.warm_up_s);
        let span = MeasuredSpan {
            begin_ns,
            end_ns: begin_ns + nanoseconds(load.duration_s),
        };
        let count = pool.connections.len();
        let mut idle = vec![VecDeque::new(); pool.addresses()];
        for index in 0..count {
            idle[pool.address_at(index)].push_back(index);
        }
        Ok(Self {
            tally: RunTally::new(span, plan.urls.len(), load),
            plan,
            arrivals,
            next: None,
            flights: vec![None; count],
            in_flight: 0,
            queues: vec![VecDeque::new(); pool.addresses()],
            idle,
            listed: vec![true; count],
            pending: vec![None; load.connections],
            pool,
            timer,
            armed_ns: u64::MAX,
            start: Instant::now(),
            end_ns: span.end_ns,
            timeout_ns: nanoseconds(load.timeout_s),
            spin: load.spin,
            windows,
        })
    }

    /// Sends the load, and then waits for missing answers for at most about `drain`.
    pub(crate) fn run(mut self, start: Instant, drain: Duration) -> Result<RunTally, String> {
        self.start = start;
        let drained_ns = self.end_ns + drain.as_nanos() as u64;
        let mut scratch = vec![0; SCRATCH];
        let mut events = vec![EpollEvent::empty(); 512];
        let mut tick_ns = 0;
        self.next = self.following();
        if self.arrivals.is_none() {
            for client in 0..self.pending.len() {
                self.draw(client, self.now_ns());
            }
        }
        loop {
            let now_ns = self.now_ns();
            if self.is_over(now_ns, drained_ns) {
                break;
            }
            self.admit(now_ns);
            if now_ns >= tick_ns {
                self.tick(now_ns);
                tick_ns = now_ns + TICK_NS;
            }
            let patience = if self.arm(now_ns)? { 0 } else { TICK_MS };
            let count = match self.pool.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(format!("epoll failed: {error}")),
            };
            for event in &events[..count] {
                if event.data() != TIMER {
                    self.event(event.data() as usize, event.events(), &mut scratch);
                }
            }
        }
        self.leave();
        Ok(self.tally)
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn is_over(&self, now_ns: u64, drained_ns: u64) -> bool {
        let queued = self.queues.iter().any(|queue| !queue.is_empty());
        // If this thread is late, requests that were due before the end are still to be sent.
        let due = self.next.is_some_and(|next| next.intended_ns < self.end_ns);
        let waits = self.in_flight > 0 || queued || due;
        now_ns >= drained_ns || now_ns >= self.end_ns && !waits
    }

    /// Queues the due requests of an open loop by address, and sends those for which a connection is idle.
    fn admit(&mut self, now_ns: u64) {
        while let Some(arrival) = self.next.filter(|next| next.intended_ns <= now_ns) {
            if arrival.intended_ns >= self.end_ns {
                self.next = None;
                break;
            }
            let address = self.pool.address_of(arrival.call.target);
            if self.queues[address].len() < QUEUE_MAX {
                self.queues[address].push_back(arrival);
                self.hand_out(address);
            } else {
                self.tally.failed(
                    RequestError::QueueFull,
                    arrival.call.target,
                    unsent(arrival, now_ns),
                );
            }
            self.next = self.following();
        }
    }

    fn following(&mut self) -> Option<Arrival> {
        let arrivals = self.arrivals.as_mut()?;
        arrivals.next(&mut self.plan)
    }

    fn hand_out(&mut self, address: usize) {
        while !self.queues[address].is_empty() {
            let Some(index) = self.idle[address].pop_front() else {
                return;
            };
            self.listed[index] = false;
            if self.pool.is_idle(index)
                && let Some(arrival) = self.queues[address].pop_front()
            {
                self.send(index, arrival.call, Some(arrival.intended_ns));
            }
        }
    }

    /// Draws the next request of a client of a closed loop. Sends the request now if the client's connection
    /// is idle, otherwise as soon as that connection becomes idle.
    fn draw(&mut self, client: usize, now_ns: u64) {
        if now_ns >= self.end_ns {
            return;
        }
        let call = self.plan.draw();
        let index = self.pool.index(client, call.target);
        if self.pool.is_idle(index) {
            self.send(index, call, None);
        } else {
            self.pending[client] = Some(call);
        }
    }

    fn send(&mut self, index: usize, call: PlannedRequest, intended_ns: Option<u64>) {
        let connection = &mut self.pool.connections[index];
        connection.out.clear();
        self.plan.write(call, &mut connection.out);
        let sent_ns = self.now_ns();
        let intended_ns = intended_ns.unwrap_or(sent_ns);
        self.flights[index] = Some(Flight {
            call,
            intended_ns,
            sent_ns,
        });
        self.in_flight += 1;
        let bodiless = self.plan.bodiless[call.target as usize];
        match self.pool.connections[index].begin(bodiless) {
            Ok(true) => {}
            Ok(false) => self.watch(index, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT),
            Err(error) => self.fail(index, error),
        }
    }

    fn event(&mut self, index: usize, flags: EpollFlags, scratch: &mut [u8]) {
        match self.pool.connections[index].state {
            ConnectionState::Resting { .. } => return,
            ConnectionState::Connecting => {
                match self.pool.connections[index].connected() {
                    Ok(()) => {
                        self.watch(index, EpollFlags::EPOLLIN);
                        self.ready(index);
                    }
                    Err(_) => self.cannot_connect(index),
                }
                return;
            }
            ConnectionState::Idle | ConnectionState::Busy => {}
        }
        if flags.contains(EpollFlags::EPOLLOUT) {
            match self.pool.connections[index].write() {
                Ok(true) => self.watch(index, EpollFlags::EPOLLIN),
                Ok(false) => {}
                Err(error) => return self.fail(index, error),
            }
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            match self.pool.connections[index].read(scratch) {
                Read::Nothing => {}
                Read::Answer(answer) => self.answered(index, answer.status, answer.closes),
                Read::Closed => self.reopen(index),
                Read::Failed(error) => self.fail(index, error),
            }
        }
    }

    fn answered(&mut self, index: usize, status: u16, closes: bool) {
        // The time is read first, so that the handling of the answer does not count as latency.
        let now_ns = self.now_ns();
        if let Some(flight) = self.land(index) {
            self.tally
                .answer(flight.call.target, status, flight.times(now_ns));
        }
        if closes {
            self.reopen(index);
        } else {
            self.pool.connections[index].state = ConnectionState::Idle;
            self.ready(index);
        }
        self.follow(index, now_ns);
    }

    /// Ends the request on this connection without an answer, and closes the connection.
    fn fail(&mut self, index: usize, error: RequestError) {
        let now_ns = self.now_ns();
        if let Some(flight) = self.land(index) {
            self.tally
                .failed(error, flight.call.target, flight.times(now_ns));
        } else {
            self.tally.unasked += 1;
        }
        self.pool.rest(index, now_ns + REST_NS);
        self.follow(index, now_ns);
    }

    fn land(&mut self, index: usize) -> Option<Flight> {
        let flight = self.flights[index].take();
        self.in_flight -= usize::from(flight.is_some());
        flight
    }

    /// Starts the next request of a client of a closed loop after the client's previous request has ended.
    fn follow(&mut self, index: usize, now_ns: u64) {
        if self.arrivals.is_none() {
            let client = self.pool.client_at(index);
            if self.pending[client].is_none() {
                self.draw(client, now_ns);
            }
        }
    }

    /// Handles a connection that has become idle.
    fn ready(&mut self, index: usize) {
        let address = self.pool.address_at(index);
        if self.arrivals.is_some() {
            if !self.listed[index] {
                self.listed[index] = true;
                self.idle[address].push_back(index);
            }
            self.hand_out(address);
            return;
        }
        let client = self.pool.client_at(index);
        let wanted =
            self.pending[client].filter(|call| self.pool.address_of(call.target) == address);
        if let Some(call) = wanted {
            self.pending[client] = None;
            if self.now_ns() < self.end_ns {
                self.send(index, call, None);
            }
        }
    }

    fn cannot_connect(&mut self, index: usize) {
        self.tally.connect_errors += 1;
        self.pool.rest(index, self.now_ns() + REST_NS);
    }

    fn reopen(&mut self, index: usize) {
        self.tally.reconnects += 1;
        if !self.pool.reopen(index) {
            self.cannot_connect(index);
        }
    }

    fn watch(&mut self, index: usize, flags: EpollFlags) {
        if !self.pool.watch(index, flags) {
            self.fail(index, RequestError::Closed);
        }
    }

    /// Sets the timer for the next request of an open loop. Returns true if the thread must not sleep,
    /// because it spins or because the request is due.
    fn arm(&mut self, now_ns: u64) -> Result<bool, String> {
        if self.spin {
            return Ok(true);
        }
        let Some(next) = self.next else {
            return Ok(false);
        };
        if next.intended_ns <= now_ns {
            return Ok(true);
        }
        if self.armed_ns != next.intended_ns {
            // Setting the timer also clears its readiness, so the timer need not be read.
            let left_ns = next.intended_ns.saturating_sub(self.now_ns()).max(1);
            let left = TimeSpec::nanoseconds(left_ns.try_into().unwrap_or(i64::MAX));
            self.timer
                .set(Expiration::OneShot(left), TimerSetTimeFlags::empty())
                .map_err(|error| format!("the timer cannot be set: {error}"))?;
            self.armed_ns = next.intended_ns;
        }
        Ok(false)
    }

    fn tick(&mut self, now_ns: u64) {
        for index in 0..self.pool.connections.len() {
            match self.pool.connections[index].state {
                ConnectionState::Resting { until_ns } if until_ns <= now_ns => self.reopen(index),
                ConnectionState::Busy => {
                    let late = self.flights[index]
                        .is_some_and(|flight| now_ns >= flight.sent_ns + self.timeout_ns);
                    if late {
                        self.fail(index, RequestError::Timeout);
                    }
                }
                _ => {}
            }
        }
        if let Some(window) = self.tally.tick(now_ns) {
            // The send fails if the watcher has ended. That error is ignored, because the tally keeps the
            // window too.
            let _ = self.windows.send(window.clone());
        }
    }

    /// Counts the requests that are left at the end as unfinished.
    fn leave(&mut self) {
        let now_ns = self.now_ns();
        for flight in self.flights.iter_mut().filter_map(Option::take) {
            self.tally.failed(
                RequestError::Unfinished,
                flight.call.target,
                flight.times(now_ns),
            );
        }
        for arrival in self.queues.iter().flatten() {
            let times = unsent(*arrival, now_ns);
            self.tally
                .failed(RequestError::Unfinished, arrival.call.target, times);
        }
        // Because the thread was late, these requests were due but never queued.
        while let Some(arrival) = self.next.filter(|next| next.intended_ns < self.end_ns) {
            let times = unsent(arrival, now_ns);
            self.tally
                .failed(RequestError::Unfinished, arrival.call.target, times);
            self.next = self.following();
        }
    }
}

impl Flight {
    fn times(self, now_ns: u64) -> RequestTimes {
        RequestTimes {
            intended_ns: self.intended_ns,
            sent_ns: self.sent_ns,
            now_ns,
        }
    }
}

fn unsent(arrival: Arrival, now_ns: u64) -> RequestTimes {
    RequestTimes {
        intended_ns: arrival.intended_ns,
        sent_ns: now_ns,
        now_ns,
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    Duration::from_secs_f64(seconds).as_nanos() as u64
}
