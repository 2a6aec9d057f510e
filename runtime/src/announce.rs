//! Reports to the platform, one time, that this pod is ready (`NANOFAAS_READY_URL`). The report
//! does not delay serving. If it fails, the platform's probe of `/health` finds the pod. `server`
//! and the watchdog call `announce`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::{self, ClientRequest, Url};
use crate::log;

const WAIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// When the program began.
    pub started: SystemTime,
    /// When the function's code was loaded.
    pub loaded: SystemTime,
    /// When the initialisation ended with success.
    pub ready: Option<SystemTime>,
}

impl Birth {
    /// Makes the times of a pod that is not ready yet.
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

    /// Returns the time from the start of the program to `ready`, in ms; 0 if the pod is not ready.
    pub(crate) fn init_ms(&self) -> u64 {
        let init = self
            .ready
            .and_then(|ready| ready.duration_since(self.started).ok());
        u64::try_from(init.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns `startedAt`, `loadedAt` and `readyAt` in epoch ms. An unknown time is left out,
    /// because the platform accepts no null.
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

/// Posts `{startedAt, loadedAt, readyAt}` to `url`. A failure is only logged.
pub async fn announce(url: String, birth: Birth) {
    let body: serde_json::Map<_, _> = birth
        .fields()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let body = serde_json::Value::from(body).to_string();
    let sent = async {
        let url = Url::parse(&url)?;
        let headers = [("Content-Type", "application/json")];
        client::request(&url, ClientRequest::post(&headers, body.as_bytes()), WAIT).await
    };
    let fault = match sent.await {
        Ok(answer) if answer.status < 300 => return,
        Ok(answer) => format!("the platform answered {}", answer.status),
        Err(error) => error.to_string(),
    };
    let message = format!("could not say that the pod is ready (it serves all the same): {fault}");
    log::line("warn", &message, None, &[]);
}
