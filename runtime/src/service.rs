//! HTTP services as functions: a closure or a tower service that takes an `http::Request` and
//! returns an `http::Response`, both with bodies that stream. `connection` runs them; in Job mode
//! they run as handlers whose bodies are complete.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::Body;
use nanofaas_http1::head::header_lines;
use tower_service::Service;

use crate::call::{Context, HandlerCall, Input};
use crate::error::Error;
use crate::handler::{Handler, Running};
use crate::output::{JSON, Output};
use crate::request;
use crate::stream::{ByteStream, PipeBody, boxed, collect};

pub(crate) type ServiceFuture =
    Pin<Box<dyn Future<Output = Result<Response<ByteStream>, Error>> + Send>>;

/// A handler that takes its request's body as it comes.
pub trait HttpService: Send + Sync {
    fn serve(&self, request: Request<PipeBody>) -> ServiceFuture;
}

/// Makes a handler from an `async` closure over HTTP's own types. It serves HTTP calls of every
/// method and path; an invocation reaches it as `POST /invoke` with the envelope. The request's
/// extensions have the [`Context`].
pub fn http<F, Fut, B, E>(service: F) -> impl Handler
where
    F: Fn(Request<PipeBody>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Into<Error>,
    E: Into<Error> + 'static,
{
    HttpHandler(Arc::new(Closure(service, PhantomData)))
}

/// Makes a handler from a tower service, for example a router of axum. Each call gets a clone.
pub fn tower<S, B>(service: S) -> impl Handler
where
    S: Service<Request<PipeBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Error> + 'static,
    B: Body + Send + 'static,
    B::Error: Into<Error>,
{
    http(move |request| {
        let mut service = service.clone();
        async move {
            std::future::poll_fn(|task| service.poll_ready(task)).await?;
            service.call(request).await
        }
    })
}

struct Closure<F, B, E>(F, PhantomData<fn() -> (B, E)>);

impl<F, Fut, B, E> HttpService for Closure<F, B, E>
where
    F: Fn(Request<PipeBody>) -> Fut + Send + Sync,
    Fut: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Into<Error>,
    E: Into<Error> + 'static,
{
    fn serve(&self, request: Request<PipeBody>) -> ServiceFuture {
        let answered = (self.0)(request);
        Box::pin(async move { Ok(answered.await.map_err(Into::into)?.map(boxed)) })
    }
}

struct HttpHandler(Arc<dyn HttpService>);

impl Handler for HttpHandler {
    fn call(&self, input: Input, context: Context) -> Running {
        let service = Arc::clone(&self.0);
        Running::Future(Box::pin(async move {
            let body = PipeBody::whole(Bytes::copy_from_slice(input.body()));
            let answer = service.serve(request(context.call(), body)?).await?;
            let (head, body) = answer.into_parts();
            let bytes = collect(body).await?;
            if !head.status.is_success() {
                let text = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]).into_owned();
                return Err(Error::new(format!(
                    "the function answered {}: {text}",
                    head.status
                )));
            }
            let kind = head.headers.get(http::header::CONTENT_TYPE);
            let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or(JSON);
            Ok(Output::raw(kind.to_owned(), bytes))
        }))
    }

    fn service(&self) -> Option<&dyn HttpService> {
        Some(&*self.0)
    }
}

/// Returns the request of a call as HTTP's own type.
pub(crate) fn request(call: &Arc<HandlerCall>, body: PipeBody) -> Result<Request<PipeBody>, Error> {
    let refused = |what: &str| Error::bad_input(format!("the {what} cannot be read"));
    let head = call.head();
    let method = Method::from_bytes(request::method(head)).map_err(|_| refused("method"))?;
    let target = request::target(head);
    let uri = Uri::try_from(target).map_err(|_| refused("target"))?;
    let mut made = Request::new(body);
    *made.method_mut() = method;
    *made.uri_mut() = uri;
    for (name, value) in header_lines(head) {
        let name = HeaderName::from_bytes(name).map_err(|_| refused("header"))?;
        let value = HeaderValue::from_bytes(value).map_err(|_| refused("header"))?;
        made.headers_mut().append(name, value);
    }
    made.extensions_mut().insert(Context::new(Arc::clone(call)));
    Ok(made)
}
