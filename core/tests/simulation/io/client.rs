//! The model of clients makes calls arrive and has each call admitted. It also decides what the clients do
//! before they get an answer.

use nanofaas_core::call::{Call, Deadline, NotAdmitted};
use nanofaas_core::outcome::TimeLimit;
use nanofaas_core::ticket::Class;
use nanofaas_core::time::Nanos;

use super::{ASYNC_AGE_MAX, CallAct, IoThread, Served, ServedSlot};
use crate::environment::SharedEnvironment;
use crate::judge::Judge;
use crate::scenario::{MS, SECOND};

impl IoThread {
    pub(super) fn arrivals(&mut self, shared: &mut SharedEnvironment) {
        while self.arrivals_left > 0 && self.next_arrival <= shared.now {
            let burst = if shared.rng.chance(60) {
                shared.rng.within(5, 40)
            } else {
                1
            };
            for _ in 0..burst.min(u64::from(self.arrivals_left)) {
                self.arrivals_left -= 1;
                self.arrive(shared);
            }
            let most = shared
                .rng
                .pick(&[Nanos::from_ns(100_000), 10 * MS, 300 * MS]);
            let quiet = u64::from(shared.rng.chance(10)) * 3;
            self.next_arrival = shared.now + shared.rng.span(most) + quiet * SECOND;
        }
    }

    fn arrive(&mut self, shared: &mut SharedEnvironment) {
        let Some(function) = self.env.any(&mut shared.rng) else {
            return;
        };
        let nature = shared.natures[function.name()];
        let class = if shared.rng.chance(nature.async_share) {
            Class::Async
        } else {
            Class::Sync
        };
        let limit = match class {
            Class::Sync => TimeLimit::Function(function.spec.timeout_ms),
            Class::Async => TimeLimit::Async(ASYNC_AGE_MAX.as_ms()),
        };
        if shared.bucket.take(shared.now).is_err() {
            self.refused += 1;
            return;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(ServedSlot::default());
            self.places.len() as u32 - 1
        });
        let call_id = self.reference(index);
        let (now, deadline) = (shared.now, Deadline::after(shared.now, limit));
        let admitted = Call::admit(&self.env, function.clone(), call_id, class, now, deadline);
        let (life, ticket) = match admitted {
            Ok(admitted) => admitted,
            Err(NotAdmitted::Refused(refusal)) => {
                assert!(refusal.retry_after_s >= 1);
                self.refused += 1;
                return self.free.push(index);
            }
            Err(NotAdmitted::FunctionRemoved) => panic!("it was found a moment ago"),
        };
        assert!(function.stats.depth() > 0);
        shared.show(|| format!("io admits {ticket:?}"));
        // The call is stored before its ticket is sent, because the scheduler may grant the call at once.
        let timer_at = life.until();
        let timer = self.wheel.set(timer_at, u64::from(index));
        self.places[index as usize].call = Some(Served {
            judge: Judge::new(&life, now),
            life,
            running: None,
            timer,
            timer_at: Some(timer_at),
        });
        if shared.post(&function.stats, ticket) {
            self.env.ledger.accepted.add();
            self.plan_client(index, shared);
        } else {
            self.refused += 1;
            let place = &mut self.places[index as usize];
            let served = place.call.take().expect("it was put there");
            served.life.turned_away(&self.env);
            self.wheel.cancel(timer);
            self.free_place(index, shared);
        }
    }

    fn plan_client(&mut self, index: u32, shared: &mut SharedEnvironment) {
        let name = self.served(index).life.function().name().clone();
        let fickle = shared.natures[&name].fickle;
        let acts = [
            (CallAct::Cancels, fickle / 2),
            (CallAct::ClientLeaves, fickle / 2),
            (CallAct::Detaches, 100),
        ];
        for (act, share) in acts {
            if shared.rng.chance(share) {
                let at = shared.now + shared.rng.span(3 * SECOND);
                self.later(index, at, act);
            }
        }
    }
}
