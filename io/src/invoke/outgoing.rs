//! An answer that is to be sent: its bytes, the rest of a large output that follows them, and the charge for
//! the memory that both hold. `sending` sends it.

use std::task::Poll;

use nanofaas_core::memory::Charge;
use nanofaas_core::time::Nanos;

use crate::http::error::HttpError;
use crate::http::output::Output;
use crate::http::response::{EXECUTION_ID, HEAD_ROOM, Heading, Response, Wire, error_response};
use crate::http::shown::{Rendering, RestOfOutput};
use crate::invoke::attempt::ChargedOutput;
use crate::runtime::timers::Alarm;
use crate::state::Tables;

/// The longest time for which a Job's result, or the answer to a request that has changed something, waits
/// for memory.
const ROOM_WAIT_MAX: Nanos = Nanos::from_s(30);

#[derive(Default)]
pub(crate) struct Outgoing {
    pub(crate) out: Vec<u8>,
    /// The rest of a large output, which is sent piece by piece. It is boxed, because few answers have a rest
    /// and every answer is moved.
    pub(crate) rest: Option<Box<RestOfOutput>>,
    /// The charge for the memory that the answer holds.
    pub(crate) charge: Option<Charge>,
}

impl Outgoing {
    /// Writes `response`. If there is no memory for it, writes an error in its place.
    pub(crate) fn put(&mut self, thread: &Tables, response: Response, wire: Wire) {
        let held = response.held_bytes();
        let mut response = response;
        if held > 0 {
            self.charge_for(thread, held as u64);
            if self.charge.is_none() {
                let id = response.execution_id();
                response = error_response(&HttpError::NoMemory);
                if let Some(id) = id {
                    response = response.with(EXECUTION_ID, &id);
                }
            } else {
                let larger = thread.buffers.take(held);
                thread
                    .buffers
                    .give(std::mem::replace(&mut self.out, larger));
            }
        }
        let heading = Heading::of(thread, wire);
        self.rest = response.write(&mut self.out, &heading).map(Box::new);
    }

    /// Writes the answer to a request that has changed something. If there is no memory for the answer, the
    /// task waits in line, because a refusal would tell the client that nothing was changed.
    pub(crate) async fn put_in_turn(
        &mut self,
        thread: &Tables,
        alarm: &Alarm,
        response: Response,
        wire: Wire,
    ) {
        let held = response.held_bytes() as u64;
        self.charge_for(thread, held);
        if held > 0 && self.charge.is_none() {
            self.charge = room_in_turn(thread, alarm, held).await;
        }
        self.put(thread, response, wire);
    }

    /// Charges `held` bytes for the answer, unless an earlier charge covers them.
    fn charge_for(&mut self, thread: &Tables, held: u64) {
        match &mut self.charge {
            Some(charge) if charge.bytes() >= held => charge.cut_to(held),
            charge => *charge = thread.account.charge_answer(held),
        }
    }
}

/// Waits in line for a charge of `bytes` bytes; returns none if `ROOM_WAIT_MAX` passes first.
pub(crate) async fn room_in_turn(thread: &Tables, alarm: &Alarm, bytes: u64) -> Option<Charge> {
    let mut wait = thread.account.wait(bytes);
    alarm.set(thread.recent() + ROOM_WAIT_MAX);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(charge) = wait.poll(cx) {
            return Poll::Ready(Some(charge));
        }
        alarm.poll(cx).map(|()| None)
    })
    .await
}

/// Adds a large output in the buffer that it came in. An output that has to be escaped becomes a rest, which
/// is sent piece by piece.
pub(crate) fn put_large(
    thread: &Tables,
    answer: ChargedOutput,
    (rendering, after): (Rendering, &'static [u8]),
    outgoing: &mut Outgoing,
    wire: Wire,
) {
    outgoing.charge = Some(answer.charge);
    if wire.head_only {
        return;
    }
    if rendering == Rendering::AsIs {
        let whole = answer.output.between(&outgoing.out, after);
        let small = std::mem::replace(&mut outgoing.out, whole);
        thread.buffers.give(small);
    } else {
        let rest = RestOfOutput::own(answer.output, rendering, after.to_vec());
        outgoing.rest = Some(Box::new(rest));
    }
}

/// Makes the buffer large enough for the head and the output, because a buffer that has to grow later costs
/// another allocation.
pub(crate) fn make_room(thread: &Tables, out: &mut Vec<u8>, output: usize) {
    if output + HEAD_ROOM > out.capacity() {
        let larger = thread.buffers.take(output + HEAD_ROOM);
        thread.buffers.give(std::mem::replace(out, larger));
    }
}

pub(crate) fn give_back(thread: &Tables, output: Output) {
    let (buffer, head) = output.into_buffers();
    thread.buffers.give(buffer);
    if let Some(head) = head {
        thread.buffers.give(head);
    }
}
