//! Runs one attempt of a call of `/fn/`. It passes on the body of the request and the answer at the same
//! time, each piece in the poll in which the piece came. While one side has not taken a piece, at most one
//! more piece is read from the other side. This module decides no retry; `forward::serve` runs it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use nanofaas_core::outcome::ExecutionError;
use nanofaas_core::ticket::{Grant, PodVerdict};
use nanofaas_core::time::{Nanos, Uptime};
use nanofaas_http1::error::ParseError;
use nanofaas_http1::forward::{NamedHeaders, value_of};
use nanofaas_http1::head::HeadScan;
use nanofaas_http1::request::Method;
use nanofaas_http1::response_head::{ResponseHead, parse_response, parse_upgrade_response};

use crate::forward::answer::{ADDED_ROOM, Added, AnswerFraming, wire_of, write_interim};
use crate::forward::client::PIECE;
use crate::forward::download::Download;
use crate::forward::forwarding::Forwarding;
use crate::forward::request::write_head;
use crate::http::response::Heading;
use crate::invoke::attempt::{AttemptError, FinishedAttempt};
use crate::invoke::call::ServedCall;
use crate::invoke::to_pod::{open, owner};
use crate::links::Links;
use crate::runtime::timers::Alarm;
use crate::state::call_machine::CallMachine;
use crate::state::pod_conn::PodConn;

/// The largest number of `1xx` answers that a pod may send before the real answer.
const INTERIM_MAX: u32 = 8;
/// The number of bytes that the task moves before it lets the other tasks run.
const SHARE: usize = 256 * 1024;

/// Why an attempt ended before the answer was whole.
pub(super) enum BrokenOff {
    /// The connection to the pod ended.
    Closed,
    /// The pod's answer is not valid HTTP.
    Nonsense(ParseError),
    /// The answer names another call.
    Foreign,
    /// The client's body is not valid HTTP.
    Client(ParseError),
    /// The client's connection failed.
    ClientGone,
    /// No byte moved for `streamIdleMs`.
    Idle,
    /// The pod answered that it has not begun the call.
    NotStarted,
}

pub(super) struct Exchange<'a, 'c> {
    pub(super) call: &'a ServedCall<'c>,
    pub(super) forwarding: &'a Forwarding<'a>,
    pub(super) thread: &'a Links,
    grant: Grant,
    pub(super) pod: PodConn,
    /// When a byte last moved.
    pub(super) moved_at: Uptime,
    /// How many bytes the sockets had sent at the last check of a side that is behind.
    sent_bytes: u64,
    /// How many parts of the request were posted.
    pub(super) parts: u32,
    /// The number of bytes that the task may still move before it lets the other tasks run.
    pub(super) share: usize,
}

/// Runs one attempt in the pod that the grant names, or at the function's endpoint.
pub(crate) async fn run(
    call: &ServedCall<'_>,
    forwarding: &Forwarding<'_>,
    grant: Grant,
) -> FinishedAttempt<()> {
    let thread = call.thread;
    let unreachable =
        |why| FinishedAttempt::not_begun(ExecutionError::PodUnreachable(why), PodVerdict::Lost);
    let owner = match owner(call, &grant) {
        Ok(owner) => owner,
        Err(why) => return unreachable(why),
    };
    if let Err(why) = forwarding
        .head
        .check(&call.entry().function.spec, call.request.head_bytes())
    {
        // The function was replaced while the call waited.
        let error = AttemptError::last(ExecutionError::PodUnreachable(why.into()));
        return FinishedAttempt::unanswered(error, PodVerdict::Healthy, None);
    }
    let pod = match thread.pods.take(&owner, thread.recent()) {
        Some(pod) => pod,
        None => match Box::pin(open(call, &owner)).await {
            Ok(pod) => pod,
            Err(why) => return unreachable(why),
        },
    };
    let mut exchange = Exchange {
        call,
        forwarding,
        thread,
        grant,
        pod,
        moved_at: thread.recent(),
        sent_bytes: 0,
        parts: 0,
        share: SHARE,
    };
    let mut answered_at = None;
    let result = match exchange.send_head() {
        Ok(()) => exchange.exchange(&mut answered_at).await,
        Err(broken) => Err(broken),
    };
    exchange.finished(&owner, result, answered_at)
}

impl Exchange<'_, '_> {
    /// Sends the head, and the part of the body that has come or that earlier attempts have sent.
    fn send_head(&mut self) -> Result<(), BrokenOff> {
        let forwarding = self.forwarding;
        let buffers = &self.thread.buffers;
        let mut upload = forwarding.upload.borrow_mut();
        let until = self.call.life.borrow().running_until();
        // A part of the body that came with the head is sent with the head, because a second send costs a system
        // call.
        let first = if upload.sent().is_empty() {
            upload
                .next(forwarding.client, buffers)
                .map_err(BrokenOff::Client)?
        } else {
            None
        };
        let more = first.as_deref().unwrap_or_else(|| upload.sent());
        let mut out = write_head(
            self.call,
            forwarding.head,
            forwarding.peer,
            until,
            more.len(),
        );
        out.extend_from_slice(more);
        if let Some(first) = first {
            buffers.give(first);
        }
        if upload.is_complete() {
            forwarding.client.end_body();
        }
        self.pod.post_part(out, upload.is_complete());
        self.parts = 1;
        if !upload.is_complete() {
            // The call's own deadline does not count while the client's body comes.
            self.clock(|life, now| life.body_awaited(now));
        }
        self.call.timestamps.sent_at.set(Some(self.thread.recent()));
        Ok(())
    }

    /// Passes on the request's body and the answer. Sets `answered_at` when the head of the answer has come.
    async fn exchange(
        &mut self,
        answered_at: &mut Option<Uptime>,
    ) -> Result<ResponseHead, BrokenOff> {
        let mut interim = 0;
        let mut scan = HeadScan::default();
        let head = loop {
            let bytes = &self.pod.received;
            let head = if self.forwarding.head.is_websocket {
                parse_upgrade_response(bytes, &mut scan)
            } else {
                parse_response(bytes, &mut scan)
            };
            match head.map_err(BrokenOff::Nonsense)? {
                Some(head) if head.status >= 200 || head.status == 101 => break head,
                Some(head) => {
                    interim += 1;
                    if interim > INTERIM_MAX {
                        let why = "there are too many 1xx answers before the real one";
                        return Err(BrokenOff::Nonsense(ParseError::Malformed(why)));
                    }
                    self.pass_interim(&head);
                    scan = HeadScan::default();
                }
                None => self.more_of_head().await?,
            }
        };
        let now = self.thread.now();
        *answered_at = Some(now);
        let head = self.judge(head)?;
        let mut download = self.begin_answer(&head, now)?;
        if head.status == 101 {
            Box::pin(self.tunnel()).await?;
        } else {
            self.pass_body(&mut download).await?;
        }
        self.forwarding.is_whole.set(true);
        let is_complete = self.forwarding.upload.borrow().is_complete();
        let stays = is_complete && self.forwarding.stays.get();
        self.forwarding.stays.set(stays);
        Ok(head)
    }

    /// Checks that the answer belongs to this call, that a 101 switches to WebSocket, and that the pod has
    /// begun the call.
    fn judge(&self, head: ResponseHead) -> Result<ResponseHead, BrokenOff> {
        let bytes = &self.pod.received[..head.len];
        NamedHeaders::of(bytes).map_err(BrokenOff::Nonsense)?;
        let named = value_of(bytes, b"x-nanofaas-answer");
        if named.is_some_and(|named| named != self.call.id.text()) {
            return Err(BrokenOff::Foreign);
        }
        if head.status == 101 {
            let upgrade = value_of(bytes, b"upgrade");
            if !upgrade.is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
                let why = "the pod switched to another protocol than websocket";
                return Err(BrokenOff::Nonsense(ParseError::Malformed(why)));
            }
        }
        if head.status == 503 && head.not_started && !self.forwarding.has_answered.get() {
            return Err(BrokenOff::NotStarted);
        }
        Ok(match self.call.request.head.method {
            Method::Head => head.to_head_request(),
            _ => head,
        })
    }

    /// Sends the head of the answer, and the part of the body that came with the head.
    fn begin_answer(&mut self, head: &ResponseHead, now: Uptime) -> Result<Download, BrokenOff> {
        let Self {
            call,
            forwarding,
            thread,
            pod,
            ..
        } = self;
        {
            let mut life = call.life.borrow_mut();
            life.head_came(now);
        }
        let mut upload = forwarding.upload.borrow_mut();
        upload.forget(&thread.buffers);
        let is_old = forwarding.wire.old;
        let mut download = Download::new(head.body, is_old);
        let is_early = !upload.is_complete();
        let ends = download.ends_with_connection() || head.status == 101;
        forwarding
            .stays
            .set(forwarding.wire.keep_alive && !ends && !is_early);
        let wire = wire_of(forwarding.wire, forwarding.stays.get());
        let sent_at = call.timestamps.sent_at.get().unwrap_or(now);
        let mut times = *call.life.borrow().times();
        times.function += now.since(sent_at);
        times.dispatch += sent_at.since(self.grant.granted_at);
        let added = Added {
            id: call.id,
            request: call.request,
            times,
            total: now.since(call.arrived_at),
        };
        let heading = Heading::of(thread, wire);
        let mut out = thread.buffers.take(pod.received.len() + ADDED_ROOM);
        added.write_head(
            &mut out,
            head,
            &pod.received,
            match head.status {
                101 => AnswerFraming::Switch,
                _ if download.is_in_chunks() => AnswerFraming::Chunks,
                _ => AnswerFraming::AsSent,
            },
            &heading,
        );
        pod.received.drain(..head.len);
        let out = download
            .next(pod, Some(out), &thread.buffers)
            .map_err(BrokenOff::Nonsense)?;
        forwarding.has_head.set(true);
        forwarding.has_answered.set(true);
        forwarding.client.socket().post(out);
        self.moved_at = now;
        Ok(download)
    }

    fn pass_interim(&mut self, head: &ResponseHead) {
        let request = &self.call.request.head;
        // A client of HTTP/1.0 does not know interim answers (RFC 9110 §15.2). A client that does not wait
        // for a `100` does not need it.
        if request.minor == 1
            && (head.status != 100 || request.expect_continue)
            && NamedHeaders::of(&self.pod.received[..head.len]).is_ok()
        {
            let mut out = self.thread.buffers.take(head.len + ADDED_ROOM);
            write_interim(&mut out, head, &self.pod.received);
            self.forwarding.has_answered.set(true);
            self.forwarding.client.socket().post(out);
        }
        self.pod.received.drain(..head.len);
    }

    /// Waits for more bytes of the answer's head, and meanwhile sends the request's body.
    async fn more_of_head(&mut self) -> Result<(), BrokenOff> {
        let before = self.pod.received.len();
        let alarm = self.thread.alarms.alarm();
        loop {
            match poll_fn(|cx| self.poll_head(before, &alarm, cx)).await {
                Moved::Whole => return Ok(()),
                Moved::BrokenOff(broken) => return Err(broken),
                Moved::Share => self.next_turn().await,
            }
        }
    }

    fn poll_head(&mut self, before: usize, alarm: &Alarm, cx: &Context<'_>) -> Poll<Moved> {
        loop {
            if self.share == 0 {
                return Poll::Ready(Moved::Share);
            }
            let has_sent = match self.poll_upload(cx) {
                Ok(has_sent) => has_sent,
                Err(broken) => return Poll::Ready(Moved::BrokenOff(broken)),
            };
            self.pod.poll_more(PIECE, cx);
            if self.pod.received.len() > before {
                return Poll::Ready(Moved::Whole);
            }
            if self.pod.is_closed() {
                return Poll::Ready(Moved::BrokenOff(BrokenOff::Closed));
            }
            if has_sent {
                continue;
            }
            // After the whole request was sent, only the call's deadline limits the wait for the answer's
            // head. While the request is being sent, the idle limit applies, too.
            if self.forwarding.upload.borrow().is_complete() && !self.pod.is_behind() {
                return Poll::Pending;
            }
            return self.poll_idle(alarm, cx);
        }
    }

    /// Lets the other tasks run, and renews the task's share.
    pub(super) async fn next_turn(&mut self) {
        self.thread.event_loop.yield_now().await;
        self.share = SHARE;
    }

    /// Sends the next part of the request's body, if the pod has taken the part before it. Returns whether a
    /// part was sent.
    fn poll_upload(&mut self, cx: &Context<'_>) -> Result<bool, BrokenOff> {
        let forwarding = self.forwarding;
        let mut upload = forwarding.upload.borrow_mut();
        if upload.is_complete() {
            return Ok(false);
        }
        if self.pod.is_behind() {
            self.pod.poll_taken(cx);
            if self.pod.is_behind() {
                return Ok(false);
            }
            self.moved_at = self.thread.recent();
        }
        let part = upload
            .next(forwarding.client, &self.thread.buffers)
            .map_err(BrokenOff::Client)?;
        let Some(part) = part else {
            return Ok(false);
        };
        self.moved_at = self.thread.recent();
        self.share = self.share.saturating_sub(part.len());
        self.pod.post_part(part, upload.is_complete());
        self.parts += 1;
        if upload.is_complete() {
            forwarding.client.end_body();
            self.clock(|life, now| life.body_came(now));
        }
        Ok(true)
    }

    fn clock(&self, change: impl FnOnce(&mut CallMachine, Uptime)) {
        change(&mut self.call.life.borrow_mut(), self.thread.recent());
    }

    /// Is ready if no byte has moved for `streamIdleMs`.
    pub(super) fn poll_idle(&mut self, alarm: &Alarm, cx: &Context<'_>) -> Poll<Moved> {
        loop {
            self.note_sent_bytes();
            let due = self.moved_at + self.idle_max();
            if self.thread.recent() >= due {
                return Poll::Ready(Moved::BrokenOff(BrokenOff::Idle));
            }
            alarm.set(due);
            if alarm.poll(cx).is_pending() {
                return Poll::Pending;
            }
            let _read = self.thread.now();
        }
    }

    /// Notes bytes that a side took of a piece which it has not taken whole. A slow side may need longer for
    /// one piece than `streamIdleMs`.
    fn note_sent_bytes(&mut self) {
        let client = self.forwarding.client.socket();
        if !client.is_behind() && !self.pod.is_behind() {
            return;
        }
        let sent_bytes = client.moved().get() + self.pod.moved();
        if sent_bytes != self.sent_bytes {
            self.sent_bytes = sent_bytes;
            self.moved_at = self.thread.recent();
        }
    }

    fn idle_max(&self) -> Nanos {
        let ms = self.call.entry().function.spec.stream_idle_ms;
        Nanos::from_ms(u64::from(ms))
    }

    /// Passes on the body of the answer, and meanwhile the rest of the request's body.
    async fn pass_body(&mut self, download: &mut Download) -> Result<(), BrokenOff> {
        if download.is_complete() {
            return Ok(());
        }
        let alarm = self.thread.alarms.alarm();
        loop {
            let polled = poll_fn(|cx| self.poll_body(download, &alarm, cx)).await;
            match polled {
                Moved::Whole => return Ok(()),
                Moved::BrokenOff(broken) => return Err(broken),
                Moved::Share => self.next_turn().await,
            }
        }
    }

    fn poll_body(
        &mut self,
        download: &mut Download,
        alarm: &Alarm,
        cx: &Context<'_>,
    ) -> Poll<Moved> {
        loop {
            if self.share == 0 {
                return Poll::Ready(Moved::Share);
            }
            let sent = match self.poll_upload(cx) {
                Ok(sent) => sent,
                Err(broken) => return Poll::Ready(Moved::BrokenOff(broken)),
            };
            let passed = match self.poll_download(download, cx) {
                Ok(passed) => passed,
                Err(broken) => return Poll::Ready(Moved::BrokenOff(broken)),
            };
            if download.is_complete() {
                return Poll::Ready(Moved::Whole);
            }
            if !sent && !passed {
                return self.poll_idle(alarm, cx);
            }
        }
    }

    /// Passes on one piece of the answer, if the client has taken the piece before it. Returns whether a
    /// piece or the end of the answer had come.
    fn poll_download(
        &mut self,
        download: &mut Download,
        cx: &Context<'_>,
    ) -> Result<bool, BrokenOff> {
        let socket = self.forwarding.client.socket();
        if socket.is_behind() {
            match socket.poll_sent(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Err(_)) => return Err(BrokenOff::ClientGone),
                Poll::Ready(Ok(())) => self.moved_at = self.thread.recent(),
            }
        }
        self.pod.poll_part(PIECE, cx);
        let buffers = &self.thread.buffers;
        if self.pod.received.is_empty() {
            if self.pod.has_ended_in_order()
                && let Some(end) = download.pod_ended(buffers)
            {
                if !end.is_empty() {
                    socket.post(end);
                }
                return Ok(true);
            }
            return if self.pod.is_closed() {
                Err(BrokenOff::Closed)
            } else {
                Ok(false)
            };
        }
        let part = download
            .next(&mut self.pod, None, buffers)
            .map_err(BrokenOff::Nonsense)?;
        // The clock is read, because a stream may be the thread's only event for a long time, and `recent`
        // would become too old.
        self.moved_at = self.thread.now();
        self.share = self.share.saturating_sub(part.len().max(1));
        if part.is_empty() {
            buffers.give(part);
        } else {
            socket.post(part);
        }
        Ok(true)
    }
}

/// Why one poll ended.
pub(super) enum Moved {
    /// The aim of the poll is reached: more bytes of the head, the end of the body, or the end of the tunnel.
    Whole,
    /// The share is used up, so the task has to let the other tasks run.
    Share,
    BrokenOff(BrokenOff),
}
