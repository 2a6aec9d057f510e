//! Reads a pod's complete answer from a connection: finds the end of the answer, and checks that the answer
//! belongs to this call. It does not interpret the answer; `to_pod` does.

use std::future::poll_fn;
use std::task::Poll;

use nanofaas_core::memory::{Charge, Wait};
use nanofaas_http1::chunked::{ChunkedDecoder, Decoded};
use nanofaas_http1::error::ParseError;
use nanofaas_http1::head::HeadScan;
use nanofaas_http1::response_head::{ResponseBody, ResponseHead, parse_response};

use crate::http::response::HEAD_ROOM;
use crate::runtime::buffers::Buffers;
use crate::state::Tables;
use crate::state::pod_conn::PodConn;

/// The largest number of `1xx` answers that a pod may send before the real answer.
const INTERIM_MAX: u32 = 8;

/// The buffer of a body without a length grows step by step up to this size. For a longer body the buffer
/// gets the size of the largest allowed body in one step.
const GROWN_MAX: usize = 1024 * 1024;

/// Why no complete answer was read.
pub(crate) enum Broken {
    /// The connection ended before the answer was complete.
    Closed,
    TooLarge,
    /// The answer names another call.
    Foreign,
    Nonsense(ParseError),
}

/// Where the body of an answer is.
pub(crate) struct AnswerBytes {
    /// The decoded body, if it came in chunks. If none, the body follows the head in the head's buffer.
    pub(crate) chunked: Option<Vec<u8>>,
    pub(crate) length: usize,
    /// Whether the end of the body is known by its framing, and no byte came after it.
    pub(crate) exact: bool,
}

/// What the reader of an answer needs to know of the call.
pub(crate) struct Expected<'a> {
    /// The call's id. An id that the answer names has to be the same.
    pub(crate) execution_id: &'a [u8],
    /// The largest number of bytes that the body may have.
    pub(crate) bytes_max: usize,
    /// The request's body, of which a part may be unsent.
    pub(crate) request: &'a [u8],
    pub(crate) thread: &'a Tables,
}

pub(crate) struct Whole {
    /// The head, and the bytes that followed it.
    pub(crate) buffer: Vec<u8>,
    pub(crate) head: ResponseHead,
    pub(crate) body: AnswerBytes,
    /// The charge for the memory of the answer, and later of the envelope.
    pub(crate) charge: Charge,
}

/// Reads one complete answer, also while the request is still being sent, because a pod may answer before it
/// has read the whole request.
pub(crate) async fn read_answer(
    connection: &mut PodConn,
    expected: &Expected<'_>,
) -> Result<Whole, Broken> {
    let max = expected.bytes_max;
    let mut scan = HeadScan::default();
    let mut interim = 0;
    let head = loop {
        let parsed = parse_response(&connection.received, &mut scan);
        match parsed.map_err(Broken::Nonsense)? {
            Some(head) if head.has_forbidden_body => {
                let why = "an answer without a body announced one";
                return Err(Broken::Nonsense(ParseError::Malformed(why)));
            }
            Some(head) if head.status >= 200 => break head,
            Some(head) => {
                interim += 1;
                if interim > INTERIM_MAX {
                    let why = "there are too many 1xx answers before the real one";
                    return Err(Broken::Nonsense(ParseError::Malformed(why)));
                }
                connection.received.drain(..head.len);
                scan = HeadScan::default();
            }
            None => more(connection, expected).await?,
        }
    };
    if head.has_several_ids {
        let why = "X-Execution-Id is there twice: send it once";
        return Err(Broken::Nonsense(ParseError::Malformed(why)));
    }
    // If an answer names another call, the answers on this connection no longer match its requests. This
    // call's client must not see the answer.
    if let Some(named) = head.execution_id
        && named.of(&connection.received) != expected.execution_id
    {
        return Err(Broken::Foreign);
    }
    let (body, charge) = match head.body {
        ResponseBody::None => known_length(connection, expected, head.len, 0).await?,
        ResponseBody::Length(length) => {
            if length > max as u64 {
                return Err(Broken::TooLarge);
            }
            known_length(connection, expected, head.len, length as usize).await?
        }
        ResponseBody::Chunked => Box::pin(chunks(connection, expected, head.len)).await?,
        ResponseBody::UntilClose => Box::pin(until_close(connection, expected, head.len)).await?,
    };
    Ok(Whole {
        buffer: std::mem::take(&mut connection.received),
        head,
        body,
        charge,
    })
}

/// Charges an answer of `bytes` bytes and its envelope, at once or after a wait in line. During the wait
/// nothing is read from the pod, so that no more bytes are held without a charge.
async fn room(connection: &mut PodConn, expected: &Expected<'_>, bytes: usize) -> Charge {
    let account = &expected.thread.account;
    let bytes = Buffers::size_for(bytes + HEAD_ROOM) as u64;
    match account.charge_answer(bytes) {
        Some(charge) => charge,
        None => Box::pin(turn(connection, expected, account.wait(bytes))).await,
    }
}

async fn turn(connection: &mut PodConn, expected: &Expected<'_>, mut wait: Wait) -> Charge {
    poll_fn(|cx| {
        // The request is still sent while this call waits in line.
        connection.poll_sent(expected.request, cx);
        wait.poll(cx)
    })
    .await
}

/// Waits for more bytes; fails if the connection is closed.
async fn more(connection: &mut PodConn, expected: &Expected<'_>) -> Result<(), Broken> {
    let before = connection.received.len();
    poll_fn(|cx| {
        // Each poll both sends and reads, because a pod may send its answer while it still receives the
        // request. If this thread read nothing until it had sent the whole request, both sides could wait for
        // each other.
        connection.poll_sent(expected.request, cx);
        connection.poll_read(cx);
        if connection.received.len() > before {
            return Poll::Ready(Ok(()));
        }
        if connection.is_closed() {
            return Poll::Ready(Err(Broken::Closed));
        }
        Poll::Pending
    })
    .await
}

async fn known_length(
    connection: &mut PodConn,
    expected: &Expected<'_>,
    head: usize,
    length: usize,
) -> Result<(AnswerBytes, Charge), Broken> {
    let whole = head + length;
    let charge = room(connection, expected, whole).await;
    if connection.received.len() < whole {
        let missing = whole + HEAD_ROOM - connection.received.len();
        connection.reserve(missing);
        while connection.received.len() < whole {
            more(connection, expected).await?;
        }
    }
    let exact = connection.received.len() == whole;
    let body = AnswerBytes {
        chunked: None,
        length,
        exact,
    };
    Ok((body, charge))
}

/// Charges a body without a length before more of it is read, by the largest size that it may reach. If the
/// body is complete at once, `corrected` charges its real size instead.
async fn room_for_any(
    connection: &mut PodConn,
    expected: &Expected<'_>,
    charge: &mut Option<Charge>,
) {
    if charge.is_none() {
        *charge = Some(room(connection, expected, expected.bytes_max).await);
    }
}

/// Corrects the charge of a body without a length at the end of the body, when its size is known.
async fn corrected(
    connection: &mut PodConn,
    expected: &Expected<'_>,
    charge: Option<Charge>,
    held: usize,
) -> Charge {
    match charge {
        Some(mut charge) => {
            charge.cut_to((held + HEAD_ROOM) as u64);
            charge
        }
        None => room(connection, expected, held).await,
    }
}

async fn chunks(
    connection: &mut PodConn,
    expected: &Expected<'_>,
    head: usize,
) -> Result<(AnswerBytes, Charge), Broken> {
    let mut decoder = ChunkedDecoder::default();
    let mut body = Vec::new();
    let mut charge = None;
    loop {
        let max = expected.bytes_max;
        if body.len() > GROWN_MAX && body.capacity() < max {
            // The buffer gets its full size in one step. If it grew by doubling, its capacity could exceed
            // the limit, and the charge covers only the limit.
            body.reserve_exact(max - body.len());
        }
        let progress = {
            decoder
                .decode(&connection.received[head..], &mut body, max)
                .map_err(|fault| match fault {
                    ParseError::BodyTooLarge => Broken::TooLarge,
                    fault => Broken::Nonsense(fault),
                })?
        };
        if let Some(exact) = drop_chunks(&mut connection.received, head, progress) {
            let length = body.len();
            // The charge covers the whole capacity, so a buffer that is less than half full is cut.
            if body.capacity() > 2 * length {
                body.shrink_to_fit();
            }
            let charge = corrected(connection, expected, charge, body.capacity()).await;
            let body = AnswerBytes {
                chunked: Some(body),
                length,
                exact,
            };
            return Ok((body, charge));
        }
        room_for_any(connection, expected, &mut charge).await;
        more(connection, expected).await?;
    }
}

/// Drops the bytes that were decoded. At the end of the body, returns whether no byte came after it.
fn drop_chunks(received: &mut Vec<u8>, head: usize, progress: Decoded) -> Option<bool> {
    received.drain(head..head + progress.consumed);
    progress.done.then(|| {
        let exact = received.len() == head;
        received.truncate(head);
        exact
    })
}

async fn until_close(
    connection: &mut PodConn,
    expected: &Expected<'_>,
    head: usize,
) -> Result<(AnswerBytes, Charge), Broken> {
    let mut charge = None;
    loop {
        let length = connection.received.len() - head;
        if length > expected.bytes_max {
            return Err(Broken::TooLarge);
        }
        if length > GROWN_MAX {
            connection.reserve(expected.bytes_max - length + HEAD_ROOM);
        }
        if connection.has_ended_in_order() {
            let held = connection.received.capacity();
            let charge = corrected(connection, expected, charge, held).await;
            let body = AnswerBytes {
                chunked: None,
                length,
                exact: false,
            };
            return Ok((body, charge));
        }
        room_for_any(connection, expected, &mut charge).await;
        // An orderly end of the connection is no error here, because it ends a body without a length.
        if let Err(broken) = more(connection, expected).await
            && !connection.has_ended_in_order()
        {
            return Err(broken);
        }
    }
}
