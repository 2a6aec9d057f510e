//! Passes HTTP/1.1 exchanges from the platform on to a program that knows nothing of it, and writes
//! `X-Execution-Id` on the answers: by it the platform knows whose answer it reads. An answer that
//! only the connection's end would end gets chunks, so that a cut one shows. A request whose program
//! ended before any of its answer came is answered here. No other byte is changed, and no request is
//! judged here. Called by the watchdog's relay.

mod heads;
mod source;

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nanofaas_http1::response_head::ResponseBody;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf, split};
use tokio::time::timeout;

use crate::answer::{Extra, put_head};
use crate::error::Error;

use heads::{ForwardedRequest, NotHttp, answer_head, request_head};
use source::Source;

/// Requests that are read ahead while an answer comes; past it a FIN is seen after the answer.
const AHEAD_MAX: usize = 64 * 1024;
/// What still comes after the last answer is read for so long: closing at once would reset the
/// connection, and the platform might lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// What becomes of the connections after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    NextRequest,
    End,
    /// What follows is not ours to read: another protocol, or nothing that is surely HTTP.
    Raw,
    /// The program's connection ended before any of its answer was passed on.
    Lost,
}

/// Serves the platform's connection from the program's, until either of them ends. `ended` says how
/// the program itself ended, where it did; it is asked when an answer stays out.
pub async fn forward<A, B>(
    platform: A,
    program: B,
    ended: impl Future<Output = Option<Error>>,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (requests, mut to_platform) = split(platform);
    let (answers, mut to_program) = split(program);
    let (mut requests, mut answers) = (Source::new(requests), Source::new(answers));
    loop {
        let Some(head) = next_request(&mut requests, &mut answers).await? else {
            return Ok(());
        };
        let after = match &head {
            Ok(head) => {
                let platform = (&mut requests, &mut to_platform);
                exchange(head, platform, (&mut answers, &mut to_program)).await?
            }
            Err(NotHttp) => After::Raw,
        };
        match after {
            After::NextRequest => {}
            After::End => return linger(&mut requests, &mut to_platform).await,
            After::Lost => {
                let id = head.ok().and_then(|head| head.id);
                // A program that goes on and only closed its connection has no words for it: the
                // connection ends as if the platform had one to the program.
                let Some(error) = ended.await else {
                    return Ok(());
                };
                let answer = own_answer(&error, id.as_deref(), Extra::JSON);
                to_platform.write_all(&answer).await?;
                return linger(&mut requests, &mut to_platform).await;
            }
            After::Raw => {
                let up = requests.pass_all(&mut to_program);
                let down = answers.pass_all(&mut to_platform);
                return tokio::try_join!(up, down).map(|_| ());
            }
        }
    }
}

/// Answers the first request of a connection that has no program behind it: 503, and nothing was
/// begun.
pub async fn not_started<A: AsyncRead + AsyncWrite>(platform: A) -> io::Result<()> {
    let (requests, mut to_platform) = split(platform);
    let mut requests = Source::new(requests);
    let head = loop {
        match request_head(&requests.buffer) {
            Ok(Some(head)) => break head,
            Ok(None) if requests.fill().await? > 0 => {}
            Ok(None) | Err(NotHttp) => return Ok(()),
        }
    };
    let message = "the program does not listen on its port; it is started anew where it ended";
    let error = Error {
        status: 503,
        ..Error::with_code("NOT_STARTED", message)
    };
    let extra = Extra {
        not_started: true,
        ..Extra::JSON
    };
    let answer = own_answer(&error, head.id.as_deref(), extra);
    to_platform.write_all(&answer).await?;
    linger(&mut requests, &mut to_platform).await
}

/// An answer of this side, after which the connection closes.
fn own_answer(error: &Error, id: Option<&[u8]>, extra: Extra<'_>) -> Vec<u8> {
    let (mut out, body) = (Vec::new(), error.json());
    let extra = Extra {
        close: true,
        ..extra
    };
    let id = id.unwrap_or_default();
    put_head(&mut out, error.status, body.len(), id, &extra);
    out.extend_from_slice(body.as_bytes());
    out
}

/// The head of the next request, which is still in the buffer; none where there will be no other.
/// What a program says unasked belongs to no request: it must not become the next one's answer.
async fn next_request<A: AsyncRead, B: AsyncRead>(
    requests: &mut Source<A>,
    answers: &mut Source<B>,
) -> io::Result<Option<Result<ForwardedRequest, NotHttp>>> {
    if !answers.buffer.is_empty() {
        return Ok(None);
    }
    loop {
        let head = request_head(&requests.buffer).transpose();
        let is_there = head.is_some();
        tokio::select! {
            // The program is asked first: what it said unasked may have come with the request.
            biased;
            _ = answers.fill() => return Ok(None),
            () = std::future::ready(()), if is_there => return Ok(head),
            count = requests.fill() => if count? == 0 {
                return Ok(None);
            },
        }
    }
}

/// One request and its answer, both ways at once: a program may answer while it reads.
async fn exchange<A: AsyncRead + AsyncWrite, B: AsyncRead + AsyncWrite>(
    head: &ForwardedRequest,
    (requests, to_platform): (&mut Source<A>, &mut WriteHalf<A>),
    (answers, to_program): (&mut Source<B>, &mut WriteHalf<B>),
) -> io::Result<After> {
    // An atomic only so that the future may be handed to any runtime.
    let sent = AtomicBool::new(false);
    let up = async {
        // The head and what is there of the body in one write.
        let rest = match head.body {
            ResponseBody::Length(length) => {
                ResponseBody::Length((head.len as u64).saturating_add(length))
            }
            other => {
                requests.pass(head.len, to_program).await?;
                other
            }
        };
        requests.pass_body(rest, to_program).await?;
        sent.store(true, Ordering::Relaxed);
        while requests.buffer.len() < AHEAD_MAX {
            if requests.fill().await? == 0 {
                // A caller that leaves is seen by the program as if it were connected directly.
                return to_program.shutdown().await;
            }
        }
        Ok(())
    };
    let (mut up, mut down) = (pin!(up), pin!(answer(head, answers, to_platform)));
    let mut goes_up = true;
    let after = loop {
        tokio::select! {
            biased;
            after = &mut down => break after?,
            ended = &mut up, if goes_up => match ended {
                // The platform is gone, and the request is not whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
                // The program takes no more of it, and may have answered before.
                Ok(()) | Err(_) => goes_up = false,
            },
        }
    };
    match after {
        After::NextRequest if !head.keep || !sent.load(Ordering::Relaxed) => Ok(After::End),
        after => Ok(after),
    }
}

/// Passes the answer on, with the id of `request` in the place of the program's.
async fn answer<A: AsyncWrite, B: AsyncRead>(
    request: &ForwardedRequest,
    answers: &mut Source<B>,
    to_platform: &mut WriteHalf<A>,
) -> io::Result<After> {
    let mut out = Vec::new();
    loop {
        let head = match answer_head(&answers.buffer, request, &mut out) {
            Ok(Some(head)) => head,
            Ok(None) => match answers.fill().await {
                Ok(1..) => continue,
                // A program that is killed resets the connection where it left bytes unread.
                Ok(0) | Err(_) => return Ok(After::Lost),
            },
            Err(NotHttp) => return Ok(After::Raw),
        };
        let mut rest = head.body;
        let mut used = head.len;
        if let ResponseBody::Length(length) = &mut rest {
            let there = ((answers.buffer.len() - used) as u64).min(*length);
            let end = used + there as usize;
            out.extend_from_slice(&answers.buffer[used..end]);
            (used, *length) = (end, *length - there);
        }
        to_platform.write_all(&out).await?;
        answers.buffer.drain(..used);
        if head.status < 200 {
            continue;
        }
        if head.body == ResponseBody::UntilClose && request.minor == 1 {
            answers.pass_in_chunks(to_platform).await?;
        } else {
            answers.pass_body(rest, to_platform).await?;
        }
        return Ok(match head.keep {
            true => After::NextRequest,
            false => After::End,
        });
    }
}

async fn linger<A: AsyncRead + AsyncWrite>(
    requests: &mut Source<A>,
    to_platform: &mut WriteHalf<A>,
) -> io::Result<()> {
    to_platform.shutdown().await?;
    let rest = async {
        while requests.fill().await? > 0 {
            requests.buffer.clear();
        }
        Ok(())
    };
    timeout(LINGER, rest).await.unwrap_or(Ok(()))
}
