//! Functions with bodies that stream: a plain handler that returns a stream, an HTTP service, and an axum app.
//! `FUNCTION_HANDLER` selects one of them. The tests run this program as their function.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use http::{Request, Response};
use nanofaas_runtime::{Context, Error, Handlers, Output, PipeBody, handler, pipe};

async fn until_there(path: PathBuf) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns a stream. The input is a file: the second piece is sent when the file exists. An empty
/// input breaks the stream off after its first piece.
async fn pieces(gate: String, _: Context) -> Result<Output, Error> {
    let (sender, body) = pipe();
    tokio::spawn(async move {
        sender.send("first").await?;
        if gate.is_empty() {
            return Ok(());
        }
        until_there(gate.into()).await;
        sender.send("second").await?;
        sender.finish();
        Ok::<(), Error>(())
    });
    Ok(Output::stream("text/plain", body))
}

/// Converts each piece of the request's body to upper case as it comes.
async fn upper(request: Request<PipeBody>) -> Result<Response<PipeBody>, Error> {
    let mut answer = Response::builder()
        .status(201)
        .header("X-Method", request.method().as_str())
        .header("X-Target", request.uri().to_string())
        .header("X-Nanofaas-Answer", "forged");
    let context = request.extensions().get::<Context>().cloned();
    if let Some(id) = context.as_ref().and_then(Context::execution_id) {
        answer = answer.header("X-Own-Id", id);
    }
    match request.uri().path() {
        "/fail" => return Err(Error::with_code("MY_CODE", "it did not work")),
        "/panic" => panic!("out of order"),
        "/short" => answer = answer.header("Content-Length", "9"),
        "/late" => tokio::time::sleep(Duration::from_millis(100)).await,
        "/never" => std::future::pending().await,
        _ => {}
    }
    let (sender, body) = pipe();
    let mut pieces = request.into_body();
    tokio::spawn(async move {
        while let Some(piece) = pieces.next().await {
            sender.send(piece?.to_ascii_uppercase()).await?;
        }
        sender.finish();
        Ok::<(), Error>(())
    });
    Ok(answer.body(body)?)
}

async fn hello(Path(name): Path<String>) -> String {
    format!("hello, {name}")
}

async fn length(body: String) -> String {
    body.len().to_string()
}

fn main() -> ExitCode {
    let app = Router::new().route("/hello/{name}", get(hello).put(length));
    let handlers = Handlers::new()
        .add("app", handler::tower(app))
        .add("pieces", handler::future(pieces))
        .add("upper", handler::http(upper));
    nanofaas_runtime::serve(handlers)
}
