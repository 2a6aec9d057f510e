//! Passes HTTP/1.1 exchanges from the platform to a program that does not know the platform, and
//! adds the id of the call to the answers: as `X-Nanofaas-Answer` if the request is an HTTP call
//! (`X-Nanofaas-Call: http`), else as `X-Execution-Id`. The platform compares this id with the id
//! of its call. If only the end of the connection ends an answer, the answer is sent in chunks, so
//! that the platform detects a cut answer. If the program ends before its answer begins, this
//! module answers the call with an error. All other bytes are passed on unchanged, and no request
//! is refused. The watchdog's relay calls this module.

mod heads;
mod source;

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nanofaas_http1::response_head::ResponseBody;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, tcp, unix};
use tokio::time::timeout;

use crate::answer::{Echo, Extra, put_head};
use crate::error::Error;

use heads::{ForwardedRequest, NotHttp, answer_head, request_head};
use source::Source;

/// How many bytes of further requests are read before an answer is complete. If the buffer holds
/// more, the end of the platform's stream is noticed only after the answer.
const AHEAD_MAX: usize = 64 * 1024;
/// How long the platform's bytes are read after the last answer. An immediate close would reset the
/// connection, and the platform could lose the answer.
const LINGER: Duration = Duration::from_secs(2);

type Requests<'a> = Source<unix::ReadHalf<'a>>;
type Answers<'a> = Source<tcp::ReadHalf<'a>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AfterExchange {
    NextRequest,
    End,
    /// The bytes that follow may not be HTTP, and are passed on without parsing.
    Raw,
    /// The program's connection ended before its answer began.
    Lost,
}

/// Passes exchanges between the two connections until one of them ends. `ended` returns the error of a
/// program that has ended, or none if the program runs. `ended` is awaited only when an answer is missing.
pub async fn forward(
    mut platform: UnixStream,
    mut program: TcpStream,
    ended: impl Future<Output = Option<Error>>,
) -> io::Result<()> {
    let (requests, mut to_platform) = platform.split();
    let (answers, mut to_program) = program.split();
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
            Err(NotHttp) => AfterExchange::Raw,
        };
        match after {
            AfterExchange::NextRequest => {}
            AfterExchange::End => return linger(&mut requests, &mut to_platform).await,
            AfterExchange::Lost => {
                // The program still runs, so only close the platform's connection, as would happen
                // without the relay.
                let Some(error) = ended.await else {
                    return Ok(());
                };
                let Ok(head) = &head else {
                    return Ok(());
                };
                let answer = own_answer(&error, head, Extra::JSON);
                to_platform.write_all(&answer).await?;
                return linger(&mut requests, &mut to_platform).await;
            }
            AfterExchange::Raw => {
                let up = requests.pass_all(&mut to_program);
                let down = answers.pass_all(&mut to_platform);
                return tokio::try_join!(up, down).map(|_| ());
            }
        }
    }
}

/// Answers the first request of a connection that cannot be forwarded, because no program listens
/// on its port. The answer is 503 with `X-Not-Started`, because the call did not begin.
pub async fn not_started(mut platform: UnixStream) -> io::Result<()> {
    let (requests, mut to_platform) = platform.split();
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
    let answer = own_answer(&error, &head, extra);
    to_platform.write_all(&answer).await?;
    linger(&mut requests, &mut to_platform).await
}

/// Returns an answer of this module itself. Its head says that the connection closes.
fn own_answer(error: &Error, request: &ForwardedRequest, extra: Extra<'_>) -> Vec<u8> {
    let (mut out, body) = (Vec::new(), error.json(request.echo));
    let extra = Extra {
        close: true,
        echo: request.echo,
        ..extra
    };
    let id = request.id.as_deref().unwrap_or_default();
    put_head(&mut out, error.status, body.len(), id, &extra);
    if !request.headless {
        out.extend_from_slice(body.as_bytes());
    }
    out
}

/// Returns the head of the next request; its bytes stay in the buffer. Returns none if one side has ended, or
/// if the program sent bytes before the request, because they would be taken for its answer.
async fn next_request(
    requests: &mut Requests<'_>,
    answers: &mut Answers<'_>,
) -> io::Result<Option<Result<ForwardedRequest, NotHttp>>> {
    if !answers.buffer.is_empty() {
        return Ok(None);
    }
    loop {
        let head = request_head(&requests.buffer).transpose();
        let is_there = head.is_some();
        tokio::select! {
            // Bytes without a request may have arrived together with the next request, so poll the
            // program first.
            biased;
            _ = answers.fill() => return Ok(None),
            () = std::future::ready(()), if is_there => return Ok(head),
            count = requests.fill() => if count? == 0 {
                return Ok(None);
            },
        }
    }
}

/// Passes one request and its answer on. Both directions run at the same time, because a program
/// may answer while it still reads.
async fn exchange(
    head: &ForwardedRequest,
    (requests, to_platform): (&mut Requests<'_>, &mut unix::WriteHalf<'_>),
    (answers, to_program): (&mut Answers<'_>, &mut tcp::WriteHalf<'_>),
) -> io::Result<AfterExchange> {
    let is_http_call = head.echo == Echo::HttpAnswer;
    requests.heeds_leaving = is_http_call;
    // An atomic, because the future must be `Send` for any runtime.
    let sent = AtomicBool::new(false);
    let up = async {
        // A body of known length is passed together with the head, so that one write can send both.
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
                if is_http_call {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // The program sees the end of the stream, as it would on a direct connection.
                return to_program.shutdown().await;
            }
        }
        Ok(())
    };
    let after = until_answered(up, answer(head, answers, to_platform)).await;
    let is_sent = sent.load(Ordering::Relaxed);
    if after.is_err() && is_http_call && !is_sent {
        // Reset the connection, because a program that does not read would see its end only after
        // all bytes. An error means that the program's connection has ended, too.
        let _ = to_program.as_ref().set_zero_linger();
    }
    match after? {
        AfterExchange::NextRequest if !head.keep || !is_sent => Ok(AfterExchange::End),
        after => Ok(after),
    }
}

/// Runs both directions until the answer is passed on, or until the platform has left.
async fn until_answered(
    up: impl Future<Output = io::Result<()>>,
    down: impl Future<Output = io::Result<AfterExchange>>,
) -> io::Result<AfterExchange> {
    let (mut up, mut down) = (pin!(up), pin!(down));
    let mut goes_up = true;
    loop {
        tokio::select! {
            biased;
            // The answer is valid even if the program does not read the whole request, so poll it
            // first.
            after = &mut down => return after,
            ended = &mut up, if goes_up => match ended {
                // The platform left before the request was complete, or during an HTTP call, so the
                // exchange ends.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(error),
                // The request was passed on, or the program reads no more of it. The answer may
                // still come.
                Ok(()) | Err(_) => goes_up = false,
            },
        }
    }
}

/// Passes the answer on, with the request's id instead of the program's.
async fn answer(
    request: &ForwardedRequest,
    answers: &mut Answers<'_>,
    to_platform: &mut (impl AsyncWrite + Unpin),
) -> io::Result<AfterExchange> {
    let mut out = Vec::new();
    loop {
        let head = match answer_head(&answers.buffer, request, &mut out) {
            Ok(Some(head)) => head,
            Ok(None) => match answers.fill().await {
                Ok(1..) => continue,
                // If a killed program left bytes unread, the kernel resets its connection, so an
                // error counts as an end.
                Ok(0) | Err(_) => return Ok(AfterExchange::Lost),
            },
            Err(NotHttp) => return Ok(AfterExchange::Raw),
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
        // After an interim answer (1xx) another answer follows (RFC 9110 §15.2).
        if head.status < 200 {
            continue;
        }
        if head.body == ResponseBody::UntilClose && request.minor == 1 {
            answers.pass_in_chunks(to_platform).await?;
        } else {
            answers.pass_body(rest, to_platform).await?;
        }
        return Ok(match head.keep {
            true => AfterExchange::NextRequest,
            false => AfterExchange::End,
        });
    }
}

async fn linger(
    requests: &mut Requests<'_>,
    to_platform: &mut unix::WriteHalf<'_>,
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
