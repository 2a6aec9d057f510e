//! Reads a pod's answer whole from its connection: where it ends, and whether it is the answer to this call.
//! It judges no content; `pod` asks, and says what an answer means.

use std::future::poll_fn;
use std::task::Poll;

use crate::answer::{AnswerBody, AnswerHead, parse_answer};
use crate::chunked::{Chunked, Progress};
use crate::connection::Connection;
use crate::head::{Fault, HeadScan};

/// `1xx` answers before the real one.
const INTERIM_MAX: u32 = 8;

/// Why there is no answer.
pub(crate) enum Broken {
    /// The connection ended first.
    Closed,
    TooLarge,
    /// It is of another call.
    Foreign,
    Nonsense(Fault),
}

/// Where an answer's body is.
pub(crate) struct AnswerBytes {
    /// In the buffer of the head, from its end on, unless it came in chunks.
    pub(crate) chunked: Option<Vec<u8>>,
    pub(crate) length: usize,
    /// Nothing came after it.
    pub(crate) exact: bool,
}

/// What an answer has to keep to.
pub(crate) struct Expected<'a> {
    /// Of the call, in case the answer names one.
    pub(crate) execution_id: &'a [u8],
    /// Of the body.
    pub(crate) bytes_max: usize,
}

/// Reads one answer whole, also while its request still goes out: a pod may answer what it has read so far,
/// or refuse before it reads.
pub(crate) async fn read_answer(
    connection: &mut Connection,
    expected: &Expected<'_>,
) -> Result<(Vec<u8>, AnswerHead, AnswerBytes), Broken> {
    let max = expected.bytes_max;
    let mut scan = HeadScan::default();
    let mut interim = 0;
    let head = loop {
        let parsed = parse_answer(&connection.received, &mut scan);
        match parsed.map_err(Broken::Nonsense)? {
            Some(head) if head.status >= 200 => break head,
            Some(head) => {
                interim += 1;
                if interim > INTERIM_MAX {
                    let why = "there are too many 1xx answers before the real one";
                    return Err(Broken::Nonsense(Fault::Malformed(why)));
                }
                connection.received.drain(..head.len);
                scan = HeadScan::default();
            }
            None => more(connection).await?,
        }
    };
    if let Some(named) = head.execution_id
        && named.of(&connection.received) != expected.execution_id
    {
        return Err(Broken::Foreign);
    }
    let body = match head.body {
        AnswerBody::None => known_length(connection, head.len, 0).await?,
        AnswerBody::Length(length) => {
            if length > max as u64 {
                return Err(Broken::TooLarge);
            }
            known_length(connection, head.len, length as usize).await?
        }
        AnswerBody::Chunked => chunks(connection, head.len, max).await?,
        AnswerBody::UntilClose => until_close(connection, head.len, max).await?,
    };
    Ok((std::mem::take(&mut connection.received), head, body))
}

/// Waits for more bytes.
async fn more(connection: &mut Connection) -> Result<(), Broken> {
    let before = connection.received.len();
    poll_fn(|cx| {
        connection.poll_sent(cx);
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
    connection: &mut Connection,
    head: usize,
    length: usize,
) -> Result<AnswerBytes, Broken> {
    while connection.received.len() < head + length {
        more(connection).await?;
    }
    let exact = connection.received.len() == head + length;
    Ok(AnswerBytes {
        chunked: None,
        length,
        exact,
    })
}

async fn chunks(
    connection: &mut Connection,
    head: usize,
    max: usize,
) -> Result<AnswerBytes, Broken> {
    let mut decoder = Chunked::default();
    let mut body = Vec::new();
    loop {
        let progress = {
            decoder
                .decode(&connection.received[head..], &mut body, max)
                .map_err(|fault| match fault {
                    Fault::BodyTooLarge => Broken::TooLarge,
                    fault => Broken::Nonsense(fault),
                })?
        };
        if let Some(exact) = drop_chunks(&mut connection.received, head, progress) {
            let length = body.len();
            return Ok(AnswerBytes {
                chunked: Some(body),
                length,
                exact,
            });
        }
        more(connection).await?;
    }
}

/// Forgets decoded bytes; at the end, whether nothing came after them.
fn drop_chunks(received: &mut Vec<u8>, head: usize, progress: Progress) -> Option<bool> {
    received.drain(head..head + progress.consumed);
    progress.done.then(|| {
        let exact = received.len() == head;
        received.truncate(head);
        exact
    })
}

async fn until_close(
    connection: &mut Connection,
    head: usize,
    max: usize,
) -> Result<AnswerBytes, Broken> {
    loop {
        let length = connection.received.len() - head;
        if length > max {
            return Err(Broken::TooLarge);
        }
        if connection.has_ended_in_order() {
            return Ok(AnswerBytes {
                chunked: None,
                length,
                exact: false,
            });
        }
        if let Err(broken) = more(connection).await
            && !connection.has_ended_in_order()
        {
            return Err(broken);
        }
    }
}
