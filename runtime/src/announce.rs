//! Tells the platform once that this pod is ready (`NANOFAAS_READY_URL`). It never delays serving:
//! where it fails, the platform probes `/health`. Called by `server` and by the watchdog.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::{self, Request, Url};
use crate::log;

const WAIT: Duration = Duration::from_secs(5);

/// When this pod came to life.
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// The program began.
    pub started: SystemTime,
    /// The function's code is there.
    pub loaded: SystemTime,
    /// The function is initialised: calls can come. None where it is not, or never was.
    pub ready: Option<SystemTime>,
}

impl Birth {
    /// Not ready yet.
    pub fn new(started: SystemTime, loaded: SystemTime) -> Self {
        Self {
            started,
            loaded,
            ready: None,
        }
    }

    #[must_use]
    pub fn ready_now(self) -> Self {
        Self {
            ready: Some(SystemTime::now()),
            ..self
        }
    }

    /// From the start until it was ready; nothing where it is not.
    pub(crate) fn init_ms(&self) -> u64 {
        let init = self
            .ready
            .and_then(|ready| ready.duration_since(self.started).ok());
        u64::try_from(init.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    /// `startedAt`, `loadedAt` and `readyAt` in epoch ms. A time that did not come is left out: the
    /// platform takes no null for one.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let epoch_ms = |time: SystemTime| {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        let times = [
            ("startedAt", Some(self.started)),
            ("loadedAt", Some(self.loaded)),
            ("readyAt", self.ready),
        ];
        let times = times.into_iter();
        times.filter_map(move |(name, time)| Some((name, epoch_ms(time?))))
    }
}

/// Posts `{startedAt, loadedAt, readyAt}`; a failure is a log line.
pub async fn announce(url: String, birth: Birth) {
    let body: serde_json::Map<_, _> = birth
        .fields()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let body = serde_json::Value::from(body).to_string();
    let sent = async {
        let url = Url::parse(&url)?;
        let headers = [("Content-Type", "application/json")];
        client::request(&url, Request::post(&headers, body.as_bytes()), WAIT).await
    };
    let fault = match sent.await {
        Ok(answer) if answer.status < 300 => return,
        Ok(answer) => format!("the platform answered {}", answer.status),
        Err(error) => error.to_string(),
    };
    let message = format!("could not say that the pod is ready (it serves all the same): {fault}");
    log::line("warn", &message, None, &[]);
}
