//! The deadlines of one io thread: alarms over a single timer wheel. Each connection, call and long poll has
//! an alarm. This module makes no system call. The ticker sleeps until the next alarm is due; each run of the
//! ticker or the inbox calls `advance`.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use nanofaas_core::time::Uptime;
use nanofaas_core::wheel::{TimerRef, Wheel};

use crate::runtime::due::Due;

struct AlarmSlot {
    due: Due,
    /// When the alarm's timer in the wheel fires, which may be earlier than `due`.
    armed: Due,
    timer: Option<TimerRef>,
    waker: Option<Waker>,
}

impl AlarmSlot {
    /// Sets a timer for the time at which the alarm is due. Does nothing if the alarm is not set.
    fn arm(&mut self, wheel: &mut Wheel, index: u32) {
        if let Some(due) = self.due.time() {
            self.armed = self.due;
            self.timer = Some(wheel.set(due, u64::from(index)));
        }
    }
}

struct AlarmSlots {
    wheel: Wheel,
    slots: Vec<AlarmSlot>,
    free: Vec<u32>,
    now: Uptime,
    /// When the ticker wakes next. If an earlier alarm is set, the ticker has to be woken.
    ticks: Due,
    ticker: Option<Waker>,
}

pub(crate) struct Alarms(RefCell<AlarmSlots>);

/// An alarm of one task. Setting it again moves it; dropping it removes it.
pub(crate) struct Alarm {
    alarms: Rc<Alarms>,
    index: u32,
}

impl Alarms {
    pub(crate) fn new(now: Uptime) -> Rc<Self> {
        Rc::new(Self(RefCell::new(AlarmSlots {
            wheel: Wheel::new(now),
            slots: Vec::new(),
            free: Vec::new(),
            now,
            ticks: Due::NEVER,
            ticker: None,
        })))
    }

    pub(crate) fn alarm(self: &Rc<Self>) -> Alarm {
        let mut inner = self.0.borrow_mut();
        let slot = AlarmSlot {
            due: Due::NEVER,
            armed: Due::NEVER,
            timer: None,
            waker: None,
        };
        let index = if let Some(index) = inner.free.pop() {
            inner.slots[index as usize] = slot;
            index
        } else {
            inner.slots.push(slot);
            u32::try_from(inner.slots.len() - 1).expect("fewer alarms than 2^32")
        };
        Alarm {
            alarms: self.clone(),
            index,
        }
    }

    /// Wakes the tasks whose alarms are due at `now`.
    pub(crate) fn advance(&self, now: Uptime) {
        let mut inner = self.0.borrow_mut();
        inner.now = now;
        if inner.wheel.next_at().is_none_or(|next| next > now) {
            return;
        }
        let AlarmSlots { wheel, slots, .. } = &mut *inner;
        let mut rearm: [u32; 64] = [0; 64];
        loop {
            let mut late = 0;
            wheel.advance(now, |key| {
                let slot = &mut slots[key as usize];
                slot.timer = None;
                slot.armed = Due::NEVER;
                if slot.due.has_come(now) {
                    if let Some(waker) = slot.waker.take() {
                        waker.wake();
                    }
                } else if slot.due != Due::NEVER && late < rearm.len() {
                    rearm[late] = key as u32;
                    late += 1;
                }
            });
            // The wheel is borrowed while it fires, so alarms that were moved to a later time get their
            // timers only here.
            for index in &rearm[..late] {
                slots[*index as usize].arm(wheel, *index);
            }
            if late < rearm.len() {
                return;
            }
            // More alarms may have been moved than fit into `rearm`. The rest are found by their missing
            // timers.
            for (index, slot) in (0..).zip(slots.iter_mut()) {
                if !slot.due.has_come(now) && slot.timer.is_none() {
                    slot.arm(wheel, index);
                }
            }
        }
    }

    /// Returns when the ticker has to wake next, if any alarm is set. If an alarm is set afterwards that is
    /// due before that time, `ticker` is woken.
    pub(crate) fn plan(&self, ticker: &Waker) -> Option<Uptime> {
        let mut inner = self.0.borrow_mut();
        let next = inner.wheel.next_at();
        inner.ticks = next.into();
        inner.ticker = Some(ticker.clone());
        next
    }

    /// Returns whether an alarm was set that is earlier than the ticker's plan.
    pub(crate) fn is_late(&self, planned: Option<Uptime>) -> bool {
        self.0.borrow().ticks < planned.into()
    }
}

impl Alarm {
    /// Sets the alarm for `at`, in place of any earlier setting.
    pub(crate) fn set(&self, at: Uptime) {
        let mut inner = self.alarms.0.borrow_mut();
        let AlarmSlots {
            wheel,
            slots,
            ticks,
            ticker,
            ..
        } = &mut *inner;
        let slot = &mut slots[self.index as usize];
        let due = Due::at(at);
        slot.due = due;
        // If the alarm moves to a later time, its timer stays as it is, so the move costs nothing in the
        // wheel. When the timer fires too early, `advance` sets it again.
        if due < slot.armed {
            if let Some(timer) = slot.timer.take() {
                wheel.cancel(timer);
            }
            slot.armed = due;
            slot.timer = Some(wheel.set(at, u64::from(self.index)));
            if due < *ticks {
                *ticks = due;
                if let Some(waker) = ticker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Unsets the alarm until it is set again.
    pub(crate) fn unset(&self) {
        let mut inner = self.alarms.0.borrow_mut();
        inner.slots[self.index as usize].due = Due::NEVER;
    }

    /// Is ready when the time has come, as of the last `advance`. If the time has not come, stores the waker
    /// of `cx`.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.alarms.0.borrow_mut();
        let now = inner.now;
        let slot = &mut inner.slots[self.index as usize];
        if slot.due.has_come(now) {
            return Poll::Ready(());
        }
        match &slot.waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => slot.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(crate) async fn until(&self, at: Uptime) {
        self.set(at);
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut inner = self.alarms.0.borrow_mut();
        let AlarmSlots {
            wheel, slots, free, ..
        } = &mut *inner;
        let slot = &mut slots[self.index as usize];
        slot.due = Due::NEVER;
        slot.armed = Due::NEVER;
        slot.waker = None;
        if let Some(timer) = slot.timer.take() {
            wheel.cancel(timer);
        }
        free.push(self.index);
    }
}
