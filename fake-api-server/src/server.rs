//! This scripted API server speaks plain HTTP on loopback. It lists, watches, gets, creates, updates, patches
//! and deletes the objects that a control plane uses. It records every request and produces the faults of a
//! script. It runs on the test's own thread, so that the test controls the time.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep};

use crate::http::{ServedRequest, cut_answer, read_request, write_answer};
use crate::kubelet::Kubelet;
use crate::script::{Asked, Fault, FaultScript, Which, any};
use crate::store::{ApiRefusal, ObjectStore, has_fields, kind_of, name_of, refusal, selects};
use crate::watch;

/// The server; each task and each test has a clone of this handle.
#[derive(Clone)]
pub struct FakeApiServer(pub(crate) Rc<ServerState>);

pub(crate) struct ServerState {
    pub(crate) store: RefCell<ObjectStore>,
    pub(crate) asked: RefCell<Vec<Asked>>,
    /// The requests that hung until the client closed the connection: verb, resource, and the time of the
    /// close.
    given_up: RefCell<Vec<(&'static str, String, Instant)>>,
    pub(crate) kubelet: Kubelet,
    pub(crate) changed: Notify,
    /// The delay of the events that watches send.
    pub(crate) watch_delay: Cell<Duration>,
    /// The largest number of objects in one page of a list.
    pub(crate) page: Cell<usize>,
    pub(crate) watches: RefCell<Vec<String>>,
    script: RefCell<FaultScript>,
    address: Cell<SocketAddr>,
    accepted: Cell<usize>,
    is_slamming: Cell<bool>,
    tasks: RefCell<Vec<AbortHandle>>,
}

impl FakeApiServer {
    pub async fn start() -> Self {
        let server = Self(Rc::new(ServerState {
            store: RefCell::default(),
            asked: RefCell::default(),
            given_up: RefCell::default(),
            kubelet: Kubelet::default(),
            changed: Notify::new(),
            watch_delay: Cell::default(),
            page: Cell::new(usize::MAX),
            watches: RefCell::default(),
            script: RefCell::default(),
            address: Cell::new(([127, 0, 0, 1], 0).into()),
            accepted: Cell::new(0),
            is_slamming: Cell::new(false),
            tasks: RefCell::default(),
        }));
        server.come_back().await;
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.address.get())
    }

    /// Listens at the server's address. After `leave`, this is the same address as before.
    pub async fn come_back(&self) {
        let listener = TcpListener::bind(self.0.address.get()).await;
        let listener = listener.expect("the port is free");
        self.0.address.set(listener.local_addr().expect("bound"));
        let server = self.clone();
        self.keep(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                server.0.accepted.set(server.0.accepted.get() + 1);
                if !server.0.is_slamming.get() {
                    server.keep(server.clone().serve(stream));
                }
            }
        });
    }

    fn keep(&self, task: impl Future<Output = ()> + 'static) {
        let task = spawn_local(task).abort_handle();
        let mut tasks = self.0.tasks.borrow_mut();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    /// Closes the listener and all connections.
    pub fn leave(&self) {
        self.0
            .tasks
            .borrow_mut()
            .drain(..)
            .for_each(|task| task.abort());
    }

    /// Closes all connections and listens again. If `is_slamming` is true, the server then closes each new
    /// connection at once; if it is false, the server serves them.
    pub async fn slam(&self, is_slamming: bool) {
        self.0.is_slamming.set(is_slamming);
        self.leave();
        sleep(Duration::from_millis(1)).await;
        self.come_back().await;
    }

    /// Delays the events of all watches by this time from now on.
    pub fn delay_watches(&self, delay: Duration) {
        self.0.watch_delay.set(delay);
    }

    /// Limits the number of objects in one page of a list from now on.
    pub fn limit_page(&self, objects: usize) {
        self.0.page.set(objects);
    }

    /// Returns the resource of each open watch. A resource with two watches is returned twice.
    pub fn watched(&self) -> Vec<String> {
        self.0.watches.borrow().clone()
    }

    /// Returns how many connections the server has accepted so far.
    pub fn accepted(&self) -> usize {
        self.0.accepted.get()
    }

    /// Gives a fault to the next `times` requests of a kind.
    pub fn script(&self, which: Which, times: usize, fault: Fault) {
        self.0.script.borrow_mut().add(which, times, fault);
    }

    /// Removes all faults of the script.
    pub fn mend(&self) {
        self.0.script.borrow_mut().clear();
    }

    /// Returns the requests of a kind that the server received since the start, or since `forget_asked`.
    pub fn asked(&self, which: Which) -> Vec<Asked> {
        let asked = self.0.asked.borrow();
        let of = asked
            .iter()
            .filter(|one| which.matches(one.verb, &one.resource));
        of.cloned().collect()
    }

    pub fn count(&self, which: Which) -> usize {
        self.asked(which).len()
    }

    /// Returns the times at which clients closed the connections of hung requests of a kind.
    pub fn given_up(&self, which: Which) -> Vec<Instant> {
        let all = self.0.given_up.borrow();
        let of = all
            .iter()
            .filter(|(verb, resource, _)| which.matches(verb, resource));
        of.map(|(_, _, at)| *at).collect()
    }

    /// Clears the record of requests.
    pub fn forget_asked(&self) {
        self.0.asked.borrow_mut().clear();
    }

    pub fn changes(&self) -> Vec<Asked> {
        let reads = ["get", "list", "watch"];
        let mut all = self.asked(any());
        all.retain(|one| !reads.contains(&one.verb));
        all
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<Value> {
        self.0.store.borrow().get(resource, name).cloned()
    }

    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let store = self.0.store.borrow();
        store.all(resource).into_iter().cloned().collect()
    }

    pub fn names(&self, resource: &str) -> Vec<String> {
        let store = self.0.store.borrow();
        let all = store.all(resource);
        all.into_iter().map(|one| name_of(one).to_owned()).collect()
    }

    /// Returns how many objects of a resource were created since the start, or since `compact`.
    pub fn ever(&self, resource: &str) -> usize {
        let store = self.0.store.borrow();
        let all = store.history.iter();
        let added = all.filter(|one| one.resource == resource && one.what == "ADDED");
        added.count()
    }

    /// Creates an object, as a client other than the control plane would.
    pub fn create(&self, resource: &str, object: Value) -> Value {
        let created = self.0.store.borrow_mut().create(resource, object);
        self.0.changed.notify_waiters();
        created.expect("it is new")
    }

    /// Edits an object, as a client other than the control plane would.
    pub fn edit(&self, resource: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        assert!(self.get(resource, name).is_some(), "there is no {name}");
        self.0.store.borrow_mut().edit(resource, name, edit);
        self.0.changed.notify_waiters();
    }

    /// Removes an object at once, as a client other than the control plane would.
    pub fn remove(&self, resource: &str, name: &str) {
        let removed = self.0.store.borrow_mut().remove(resource, name);
        assert!(removed.is_ok(), "there is no {name}");
        self.0.changed.notify_waiters();
    }

    /// Makes a watch expire if it begins at a version older than the present one.
    pub fn forget_history(&self) {
        let mut store = self.0.store.borrow_mut();
        store.oldest = store.version();
    }

    /// Makes a watch expire if it begins at any version that the server has reached so far.
    pub fn compact(&self) {
        self.0.store.borrow_mut().compact();
    }

    async fn serve(self, stream: TcpStream) {
        // Switch Nagle's algorithm off, because the paused test clock would not wait for a segment that the
        // kernel holds back.
        stream.set_nodelay(true).expect("a TCP stream");
        let mut stream = BufReader::new(stream);
        while let Some(request) = read_request(&mut stream).await {
            if !self.answer(request, &mut stream).await {
                return;
            }
        }
    }

    /// Answers a request; returns whether the connection stays open.
    async fn answer(&self, request: ServedRequest, stream: &mut BufReader<TcpStream>) -> bool {
        let asked = request.asked(Instant::now());
        let (verb, resource) = (asked.verb, asked.resource.clone());
        self.0.asked.borrow_mut().push(asked);
        let fault = self.0.script.borrow_mut().next(verb, &resource);
        match fault {
            Some(Fault::Answer {
                refusal: (code, body),
                retry_after_s,
            }) => return write_answer(stream, code, &body, retry_after_s).await,
            Some(Fault::DoneAnswer(code)) => {
                let _ = self.act(&request);
                let (code, body) = refusal(code, "Timeout", "as scripted");
                return write_answer(stream, code, &body, None).await;
            }
            Some(Fault::Close) => return false,
            Some(Fault::Hang) => {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                let mut given_up = self.0.given_up.borrow_mut();
                given_up.push((verb, resource, Instant::now()));
                return false;
            }
            Some(Fault::Late(late)) => sleep(late).await,
            Some(Fault::DoneLate(late)) => {
                let server = self.clone();
                spawn_local(async move {
                    sleep(late).await;
                    let _ = server.act(&request);
                });
                return std::future::pending().await;
            }
            Some(Fault::CutAnswer) => {
                let (Ok((_, body)) | Err((_, body))) = self.act(&request);
                return cut_answer(stream, &body).await;
            }
            Some(Fault::LoseAnswer) => {
                let _ = self.act(&request);
                return false;
            }
            Some(fault) => return watch::broken(&fault, stream).await,
            None => {}
        }
        if verb == "watch" {
            return watch::watch(self, &request, stream).await;
        }
        let (code, body) = match self.act(&request) {
            Ok(done) => done,
            Err(refused) => refused,
        };
        write_answer(stream, code, &body, None).await
    }

    fn act(&self, request: &ServedRequest) -> Result<(u16, Value), ApiRefusal> {
        let (resource, name) = (&*request.resource, &*request.name);
        let body = &request.body;
        let done = match request.verb {
            "list" => Ok((200, self.list(request))),
            "get" => {
                let found = self.get(resource, name);
                let why = || refusal(404, "NotFound", &format!("{resource} \"{name}\" not found"));
                found.map(|object| (200, object)).ok_or_else(why)
            }
            "create" => {
                let created = self.0.store.borrow_mut().create(resource, body.clone())?;
                self.0.kubelet.created(self, resource, name_of(&created));
                Ok((201, created))
            }
            "update" => {
                let written = self.0.store.borrow_mut().replace(resource, name, body);
                written.map(|object| (200, object))
            }
            "patch" => {
                let half = request.subresource.as_deref();
                let mut store = self.0.store.borrow_mut();
                let written = store.patch(resource, name, half, body);
                written.map(|object| (200, object))
            }
            "delete" => self.delete(request).map(|answer| (200, answer)),
            verb => panic!("no such verb: {verb}"),
        };
        self.0.changed.notify_waiters();
        done
    }

    fn list(&self, request: &ServedRequest) -> Value {
        let store = self.0.store.borrow();
        let labels = request.parameter("labelSelector").unwrap_or_default();
        let fields = request.parameter("fieldSelector").unwrap_or_default();
        let all = store.all(&request.resource).into_iter();
        let found = all.filter(|one| selects(&labels, one) && has_fields(&fields, one));
        let found: Vec<Value> = found.cloned().collect();
        let limit = request
            .parameter("limit")
            .and_then(|limit| limit.parse().ok());
        let limit = limit.unwrap_or(usize::MAX).min(self.0.page.get());
        let from = request
            .parameter("continue")
            .and_then(|from| from.parse().ok());
        let from: usize = from.unwrap_or_default();
        let mut metadata = json!({"resourceVersion": store.version().to_string()});
        let to = from.saturating_add(limit);
        if to < found.len() {
            metadata["continue"] = json!(to.to_string());
        }
        let page: Vec<Value> = found.into_iter().skip(from).take(limit).collect();
        let (api, kind) = kind_of(&request.resource);
        json!({"apiVersion": api, "kind": format!("{kind}List"), "metadata": metadata,
            "items": page})
    }

    fn delete(&self, request: &ServedRequest) -> Result<Value, ApiRefusal> {
        let (resource, name) = (&*request.resource, &*request.name);
        if resource == "pods" {
            let grace_s = request.body["gracePeriodSeconds"].as_u64();
            return self.0.kubelet.deleted(self, name, grace_s.unwrap_or(30));
        }
        let removed = self.0.store.borrow_mut().remove(resource, name)?;
        if resource == "jobs" && request.body["propagationPolicy"] != "Orphan" {
            self.0.kubelet.collect(self, name);
        }
        let uid = &removed["metadata"]["uid"];
        Ok(
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {"name": name, "kind": resource, "uid": uid}}),
        )
    }
}
