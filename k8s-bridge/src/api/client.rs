//! Makes the client of the API server, which finds the server as `kubectl` or a pod does. The client retries
//! nothing; the module `cluster` does, because only that module knows whether an earlier try may have worked.

use std::path::Path;
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::client::{ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tower::util::MapResponseLayer;

use crate::api::cluster::chain;

/// How long one try to connect to the API server may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why no client could be made; the message is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "cannot find out how to reach the API server: {0}; run in a pod with a service account, \
         or set KUBECONFIG"
    )]
    Config(String),
    #[error("cannot make a client for the API server: {0}")]
    Client(String),
}

pub(crate) async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let refused = |error: &dyn std::error::Error| ConnectError::Config(chain(error));
    let mut found = match kubeconfig {
        None => Config::infer().await.map_err(|error| refused(&error))?,
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(|error| refused(&error))?;
            let options = KubeConfigOptions::default();
            let found = Config::from_custom_kubeconfig(read, &options).await;
            found.map_err(|error| refused(&error))?
        }
    };
    found.connect_timeout = Some(CONNECT);
    // A read timeout would end a watch that gets no event for a long time. Each request has its own deadline.
    found.read_timeout = None;
    found.default_retry = false;
    Ok(found)
}

pub(crate) fn client(config: Config) -> Result<Client, ConnectError> {
    let builder = ClientBuilder::try_from(config);
    let builder = builder.map_err(|error| ConnectError::Client(chain(&error)))?;
    let layer = MapResponseLayer::new(keep_retry_after);
    Ok(builder.with_layer(&layer).build())
}

/// Copies the `Retry-After` header of a 429 or 503 into the body, because `kube`'s error keeps the body of
/// an answer and drops its headers. The API server's own rate limiter sets only the header.
fn keep_retry_after(response: Response<Box<DynBody>>) -> Response<Box<DynBody>> {
    let status = response.status();
    let is_meant = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let after = response.headers().get(RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    let Some(seconds) = after.filter(|_| is_meant) else {
        return response;
    };
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": format!("the API server asks to come back in {seconds} s"),
        "reason": "TooManyRequests",
        "details": {"retryAfterSeconds": seconds},
        "code": status.as_u16(),
    });
    let body = Full::from(body.to_string()).map_err(Box::from);
    response.map(|_| Box::new(body) as Box<DynBody>)
}
