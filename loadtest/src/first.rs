//! Measures a contender's first answer. The time starts with the first process that has no `ready` URL, or
//! with the call if every process has one. This module makes no load. It sends one request, and repeats it
//! while a starting server does not answer. Comparisons measure a first answer once in each turn.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::ask::{self, BlockingConnection};
use crate::load::RequestTarget;
use crate::running::RunningContender;

/// The pause between the readiness of the processes and the call.
const SETTLE: Duration = Duration::from_millis(200);
/// The pause between two attempts to reach a starting process. It is much shorter than any start.
const PAUSE: Duration = Duration::from_micros(200);
/// The time limit from the start of a process to its answer.
const START_MAX: Duration = Duration::from_secs(30);

/// Returns the time until the first answer. An answer that is not 2xx is an error.
pub(crate) fn answer(
    running: &RunningContender,
    target: RequestTarget,
) -> Result<Duration, String> {
    let url = target.url.clone();
    let named = |error: std::io::Error| format!("{url}: {error}");
    let (address, request) = ask::request(target)?;
    let (begun, (status, text)) = if let Some(begun) = running.unawaited {
        let ask =
            || BlockingConnection::open(&address).and_then(|mut line| line.ask(&request, false));
        let mut answer = ask();
        while answer.is_err() && begun.elapsed() < START_MAX {
            running.check()?;
            sleep(PAUSE);
            answer = ask();
        }
        (begun, answer.map_err(named)?)
    } else {
        sleep(SETTLE);
        let mut line = BlockingConnection::open(&address).map_err(named)?;
        let begun = Instant::now();
        (begun, line.ask(&request, false).map_err(named)?)
    };
    let took = begun.elapsed();
    if !(200..300).contains(&status) {
        return Err(format!("{url}: {}", String::from_utf8_lossy(&text)));
    }
    Ok(took)
}
