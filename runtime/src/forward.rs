//! Passes HTTP/1.1 exchanges from the platform on to a program that knows nothing of it, and writes
//! `X-Execution-Id` on the answers: by it the platform knows whose answer it reads. An answer that
//! only the connection's end would end gets chunks, so that a cut one shows. A request whose program
//! ended before any of its answer came is answered here. No other byte is changed, and no request is
//! judged here. Called by the watchdog's relay.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::timeout;

use crate::answer::{Extra, put_head};
use crate::chunked::Chunked;
use crate::error::Error;
use crate::request::{bare_line_end, digits};

const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 100;
const READ: usize = 16 * 1024;
/// Requests that are read ahead while an answer comes; past it a FIN is seen after the answer.
const AHEAD_MAX: usize = 64 * 1024;
/// What still comes after the last answer is read for so long: closing at once would reset the
/// connection, and the platform might lose the answer.
const LINGER: Duration = Duration::from_secs(2);

/// The half of a connection that is read, with what was read and not passed on.
struct Source<S> {
    stream: ReadHalf<S>,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// What the headers of a request or an answer say that matters here.
#[derive(Debug, Default)]
struct Facts {
    length: Option<usize>,
    chunked: bool,
    close: bool,
    /// The first one's value.
    id: Option<Vec<u8>>,
}

struct ForwardedHead {
    len: usize,
    minor: u8,
    /// HEAD: the answer has no body.
    headless: bool,
    framing: Framing,
    keep: bool,
    id: Option<Vec<u8>>,
}

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
) -> io::Result<Option<Result<ForwardedHead, NotHttp>>> {
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
    head: &ForwardedHead,
    (requests, to_platform): (&mut Source<A>, &mut WriteHalf<A>),
    (answers, to_program): (&mut Source<B>, &mut WriteHalf<B>),
) -> io::Result<After> {
    // An atomic only so that the future may be handed to any runtime.
    let sent = AtomicBool::new(false);
    let up = async {
        // The head and what is there of the body in one write.
        let rest = match head.framing {
            Framing::Length(length) => Framing::Length(head.len + length),
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
    request: &ForwardedHead,
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
        let mut rest = head.framing;
        let mut used = head.len;
        if let Framing::Length(length) = &mut rest {
            let there = (answers.buffer.len() - used).min(*length);
            out.extend_from_slice(&answers.buffer[used..used + there]);
            (used, *length) = (used + there, *length - there);
        }
        to_platform.write_all(&out).await?;
        answers.buffer.drain(..used);
        match head.status {
            101 => return Ok(After::Raw),
            100..200 => continue,
            _ => {}
        }
        if head.framing == Framing::UntilClose && request.minor == 1 {
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

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

impl<S: AsyncRead> Source<S> {
    fn new(stream: ReadHalf<S>) -> Self {
        Self {
            stream,
            buffer: Vec::with_capacity(READ),
        }
    }

    /// Reads what there is; 0 is the end. Loses nothing when it is dropped.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ / 4);
        self.stream.read_buf(&mut self.buffer).await
    }

    async fn pass(&mut self, count: usize, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        to.write_all(&self.buffer[..count]).await?;
        self.buffer.drain(..count);
        Ok(())
    }

    async fn pass_all(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        loop {
            self.pass(self.buffer.len(), to).await?;
            if self.fill().await? == 0 {
                return to.shutdown().await;
            }
        }
    }

    /// All until the end, where that comes in order.
    async fn pass_in_chunks(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        loop {
            if !self.buffer.is_empty() {
                to.write_all(format!("{:x}\r\n", self.buffer.len()).as_bytes())
                    .await?;
                self.pass(self.buffer.len(), to).await?;
                to.write_all(b"\r\n").await?;
            }
            if self.fill().await? == 0 {
                return to.write_all(b"0\r\n\r\n").await;
            }
        }
    }

    /// `UnexpectedEof` is this side's end within the body, any other error may be either side's.
    async fn pass_body(
        &mut self,
        framing: Framing,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        match framing {
            Framing::Length(mut left) => loop {
                let count = left.min(self.buffer.len());
                self.pass(count, to).await?;
                left -= count;
                if left == 0 {
                    return Ok(());
                }
                if self.fill().await? == 0 {
                    return Err(ended());
                }
            },
            Framing::Chunked => {
                let (mut chunked, mut decoded) = (Chunked::new(usize::MAX), Vec::new());
                loop {
                    decoded.clear();
                    let used = chunked.take(&self.buffer, &mut decoded);
                    self.pass(used.map_err(|_| ended())?, to).await?;
                    if chunked.done() {
                        return Ok(());
                    }
                    if self.fill().await? == 0 {
                        return Err(ended());
                    }
                }
            }
            Framing::UntilClose => loop {
                self.pass(self.buffer.len(), to).await?;
                if self.fill().await? == 0 {
                    return Ok(());
                }
            },
        }
    }
}

// --- heads ---

/// Bytes that two parsers could read differently, or that are no HTTP/1.1 at all.
#[derive(Debug)]
struct NotHttp;

fn request_head(bytes: &[u8]) -> Result<Option<ForwardedHead>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Some(len) = whole(request.parse(bytes), bytes)? else {
        return Ok(None);
    };
    let (facts, minor) = (Facts::of(request.headers)?, request.version.unwrap_or(0));
    Ok(Some(ForwardedHead {
        len,
        minor,
        headless: request.method == Some("HEAD"),
        framing: match facts.length {
            _ if facts.chunked => Framing::Chunked,
            length => Framing::Length(length.unwrap_or(0)),
        },
        keep: minor == 1 && !facts.close,
        id: facts.id,
    }))
}

struct AnswerHead {
    len: usize,
    status: u16,
    framing: Framing,
    keep: bool,
}

/// The answer's head; in `out` as it goes to the platform.
fn answer_head(
    bytes: &[u8],
    request: &ForwardedHead,
    out: &mut Vec<u8>,
) -> Result<Option<AnswerHead>, NotHttp> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let Some(len) = whole(answer.parse(bytes), bytes)? else {
        return Ok(None);
    };
    let (facts, minor) = (Facts::of(answer.headers)?, answer.version.unwrap_or(0));
    let status = answer.code.unwrap_or(0);
    let framing = match facts.length {
        _ if request.headless || matches!(status, 100..200 | 204 | 304) => Framing::Length(0),
        _ if facts.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    out.clear();
    let id = request.id.as_deref().filter(|_| status >= 200);
    put_answer(out, &bytes[..len], id);
    if framing == Framing::UntilClose && request.minor == 1 {
        out.truncate(out.len() - 2);
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    }
    Ok(Some(AnswerHead {
        len,
        status,
        framing,
        keep: minor == 1 && !facts.close && framing != Framing::UntilClose,
    }))
}

/// The lines of `head` but those of an id, and the id before the empty line that ends it.
fn put_answer(out: &mut Vec<u8>, head: &[u8], id: Option<&[u8]>) {
    let lines = head.split_inclusive(|byte| *byte == b'\n');
    for line in lines.filter(|line| *line != b"\r\n") {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if !name.eq_ignore_ascii_case(b"x-execution-id") {
            out.extend_from_slice(line);
        }
    }
    if let Some(id) = id {
        out.extend_from_slice(b"X-Execution-Id: ");
        out.extend_from_slice(id);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// The length of the head, once it is there.
fn whole(parsed: httparse::Result<usize>, bytes: &[u8]) -> Result<Option<usize>, NotHttp> {
    match parsed {
        // An empty line before the head is passed over by some parsers, and not by others.
        Ok(httparse::Status::Complete(len)) if !bytes.starts_with(b"\r") => {
            match bare_line_end(&bytes[..len]) {
                true => Err(NotHttp),
                false => Ok(Some(len)),
            }
        }
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => Ok(None),
        Ok(_) | Err(_) => Err(NotHttp),
    }
}

impl Facts {
    fn of(headers: &[httparse::Header<'_>]) -> Result<Self, NotHttp> {
        let mut facts = Self::default();
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let length = digits(header.value).and_then(|length| usize::try_from(length).ok());
                if facts.length.replace(length.ok_or(NotHttp)?).is_some() {
                    return Err(NotHttp);
                }
            } else if is("transfer-encoding") {
                if facts.chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(NotHttp);
                }
                facts.chunked = true;
            } else if is("connection") {
                let mut words = header.value.split(|byte| *byte == b',');
                facts.close |= words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"));
            } else if is("x-execution-id") {
                facts.id.get_or_insert_with(|| header.value.to_vec());
            }
        }
        match facts.chunked && facts.length.is_some() {
            true => Err(NotHttp),
            false => Ok(facts),
        }
    }
}
