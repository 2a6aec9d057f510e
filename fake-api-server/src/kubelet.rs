//! Plays the kubelet and the Job controller of the fake cluster. A new pod runs at a loopback address of its
//! own and answers `/health` there, or has another fate that the test chose. A new Job gets a pod. A deleted
//! pod disappears a little later.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;

use crate::server::FakeApiServer;
use crate::store::{ApiRefusal, name_of};

/// The time between two steps of a pod.
const STEP: Duration = Duration::from_millis(2);
/// The health status that stands for no answer: a pod with this status does not answer requests.
const BUSY: u16 = 0;
const PORT: u16 = 8080;

/// What happens to a new pod, or to the pod of a new Job.
#[derive(Clone, Debug, Default)]
pub enum Fate {
    #[default]
    Runs,
    /// The pod runs, but answers no request.
    RunsMute,
    /// The pod's container waits, with this reason and this message.
    Waits(&'static str, &'static str),
    Unschedulable(&'static str),
    /// The pod's status stays empty.
    Nothing,
    /// The API server refuses the pods of the Job with this message.
    Refused(&'static str),
}

/// The state of the fake kubelet; tests set most of it.
pub struct Kubelet {
    /// The HTTP status with which new pods answer at `health_path`.
    pub health: Cell<u16>,
    pub health_path: RefCell<String>,
    next: RefCell<VecDeque<Fate>>,
    otherwise: RefCell<Fate>,
    running: RefCell<HashMap<String, RunningPod>>,
    /// How long a deleted pod still exists, in addition to `STEP`.
    pub lingering: Cell<Duration>,
    jobs: Cell<u32>,
}

impl Default for Kubelet {
    fn default() -> Self {
        Self {
            health: Cell::new(200),
            health_path: RefCell::new("/health".to_owned()),
            next: RefCell::default(),
            otherwise: RefCell::default(),
            running: RefCell::default(),
            lingering: Cell::default(),
            jobs: Cell::default(),
        }
    }
}

struct RunningPod {
    health: Rc<Cell<u16>>,
    listening: JoinHandle<()>,
}

impl Drop for RunningPod {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Binds a listener at a loopback address that no other test uses.
async fn own_address() -> (Ipv4Addr, TcpListener) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    // Try several addresses, because another process may use some of them.
    for _ in 0..1000 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = u8::try_from(std::process::id() % 199).expect("small") + 20;
        let [.., high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(127, process, high, low);
        if let Ok(listener) = TcpListener::bind((address, PORT)).await {
            return (address, listener);
        }
    }
    panic!("port {PORT} is taken at every loopback address");
}

/// Answers requests of the pod's health path with the status `health`, and requests of other paths with 421.
async fn answer_health(listener: TcpListener, path: String, health: Rc<Cell<u16>>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            return;
        };
        let (path, health) = (path.clone(), health.clone());
        spawn_local(async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let asked = head.starts_with(format!("GET {path} ").as_bytes());
            let code = if asked { health.get() } else { 421 };
            if code == BUSY {
                return std::future::pending().await;
            }
            let answer = format!("HTTP/1.1 {code} Health\r\nContent-Length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

fn container(state: &Value) -> Value {
    json!([{"name": "function", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": state}])
}

impl Kubelet {
    /// Sets the fate of the next pod or Job. If fates are already set, this one comes after them.
    pub fn next(&self, fate: Fate) {
        self.next.borrow_mut().push_back(fate);
    }

    /// Sets the fate of all pods and Jobs for which `next` sets none.
    pub fn otherwise(&self, fate: Fate) {
        self.otherwise.replace(fate);
    }

    fn fate(&self) -> Fate {
        let next = self.next.borrow_mut().pop_front();
        next.unwrap_or_else(|| self.otherwise.borrow().clone())
    }

    /// Runs a new pod, or the pod of a new Job, that a client has created.
    pub(crate) fn created(&self, server: &FakeApiServer, resource: &str, name: &str) {
        let (server, name) = (server.clone(), name.to_owned());
        match resource {
            "pods" => {
                let fate = self.fate();
                spawn_local(async move { server.run(&name, fate).await });
            }
            "jobs" => {
                let fate = self.fate();
                self.jobs.set(self.jobs.get() + 1);
                spawn_local(async move { server.run_job(&name, fate).await });
            }
            _ => {}
        }
    }

    /// Deletes a pod for a client: marks the pod as deleted at once, and removes it a little later.
    pub(crate) fn deleted(
        &self,
        server: &FakeApiServer,
        name: &str,
        grace_s: u64,
    ) -> Result<Value, ApiRefusal> {
        let pod = server.0.store.borrow_mut().condemn("pods", name, grace_s)?;
        let lingering = self.lingering.get();
        let (server, name) = (server.clone(), name.to_owned());
        spawn_local(async move {
            sleep(STEP + lingering).await;
            server.0.kubelet.running.borrow_mut().remove(&name);
            // An earlier deletion may have removed the pod already, so ignore the error.
            let _ = server.0.store.borrow_mut().remove("pods", &name);
            server.0.changed.notify_waiters();
        });
        Ok(pod)
    }

    /// Deletes the pods of a deleted Job, as the garbage collector of Kubernetes does.
    pub(crate) fn collect(&self, server: &FakeApiServer, job: &str) {
        let (server, job) = (server.clone(), job.to_owned());
        spawn_local(async move {
            sleep(STEP).await;
            for pod in server.pods_of_job(&job) {
                let _ = server.0.kubelet.deleted(&server, &pod, 30);
            }
            server.0.changed.notify_waiters();
        });
    }
}

impl FakeApiServer {
    pub fn kubelet(&self) -> &Kubelet {
        &self.0.kubelet
    }

    pub fn pods_of_job(&self, job: &str) -> Vec<String> {
        let store = self.0.store.borrow();
        let all = store.all("pods").into_iter();
        let of = all.filter(|pod| pod["metadata"]["labels"]["job-name"] == job);
        of.map(|pod| name_of(pod).to_owned()).collect()
    }

    fn set_status(&self, pod: &str, status: &Value) {
        let status = status.as_object().expect("an object");
        self.0.store.borrow_mut().edit("pods", pod, |object| {
            for (name, value) in status {
                object["status"][name] = value.clone();
            }
        });
        self.0.changed.notify_waiters();
    }

    async fn run(&self, pod: &str, fate: Fate) {
        sleep(STEP).await;
        if let Fate::Nothing = fate {
            return;
        }
        if let Fate::Unschedulable(message) = fate {
            let condition = json!({"type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": message});
            return self.set_status(pod, &json!({"phase": "Pending", "conditions": [condition]}));
        }
        let condition = json!({"type": "PodScheduled", "status": "True"});
        self.set_status(pod, &json!({"phase": "Pending", "conditions": [condition]}));
        sleep(STEP).await;
        match fate {
            Fate::Waits(reason, message) => self.waits(pod, reason, message),
            fate => self.runs(pod, matches!(fate, Fate::Runs)).await,
        }
    }

    pub fn waits(&self, pod: &str, reason: &str, message: &str) {
        let waiting = json!({"waiting": {"reason": reason, "message": message}});
        self.set_status(pod, &json!({"containerStatuses": container(&waiting)}));
    }

    /// Makes the pod run now. It answers requests only if `answers` is true.
    pub async fn runs(&self, pod: &str, answers: bool) {
        let (address, listener) = own_address().await;
        let health = Rc::new(Cell::new(self.0.kubelet.health.get()));
        let listening = if answers {
            let path = self.0.kubelet.health_path.borrow().clone();
            spawn_local(answer_health(listener, path, health.clone()))
        } else {
            // No task accepts connections; the listener only keeps the address in use.
            spawn_local(async move {
                let _kept = listener;
                std::future::pending().await
            })
        };
        let running = RunningPod { health, listening };
        let mut all = self.0.kubelet.running.borrow_mut();
        all.insert(pod.to_owned(), running);
        let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let status = json!({"phase": "Running", "podIP": address.to_string(),
            "containerStatuses": container(&state)});
        drop(all);
        self.set_status(pod, &status);
    }

    /// Makes a pod's `/health` answer 200 or 503.
    pub fn set_well(&self, pod: &str, is_well: bool) {
        self.set_health(pod, if is_well { 200 } else { 503 });
    }

    /// Makes a pod busy or idle; a busy pod does not answer its `/health`.
    pub fn set_busy(&self, pod: &str, is_busy: bool) {
        self.set_health(pod, if is_busy { BUSY } else { 200 });
    }

    /// Sets the status that a pod's `/health` answers.
    pub fn set_health(&self, pod: &str, status: u16) {
        self.0.kubelet.running.borrow()[pod].health.set(status);
    }

    pub fn address(&self, pod: &str) -> String {
        let pod = self.get("pods", pod).expect("a pod");
        pod["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    pub fn end(&self, pod: &str, exit: i32, reason: &str, words: &str) {
        self.0.kubelet.running.borrow_mut().remove(pod);
        let state = json!({"terminated": {"exitCode": exit, "reason": reason, "message": words,
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z"}});
        let phase = if exit == 0 { "Succeeded" } else { "Failed" };
        let status = json!({"phase": phase, "containerStatuses": container(&state)});
        self.set_status(pod, &status);
    }

    pub fn evict(&self, pod: &str) {
        self.0.kubelet.running.borrow_mut().remove(pod);
        let why = "The node was low on resource: memory.";
        let status = json!({"phase": "Failed", "reason": "Evicted", "message": why});
        self.set_status(pod, &status);
    }

    /// Deletes a pod, as a user does with `kubectl`.
    pub fn delete_pod(&self, pod: &str) {
        let deleted = self.0.kubelet.deleted(self, pod, 30);
        assert!(deleted.is_ok(), "there is no {pod}");
        self.0.changed.notify_waiters();
    }

    async fn run_job(&self, job: &str, fate: Fate) {
        sleep(STEP).await;
        // A client may have deleted the Job by now.
        let Some(object) = self.get("jobs", job) else {
            return;
        };
        if let Fate::Refused(words) = fate {
            let event = json!({"metadata": {"name": format!("{job}.1")}, "type": "Warning",
                "reason": "FailedCreate", "message": words,
                "involvedObject": {"kind": "Job", "name": job}});
            self.create("events", event);
            return;
        }
        let mut pod = object["spec"]["template"].clone();
        let number = self.0.kubelet.jobs.get();
        let name = format!("{job}-{number:05}");
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["labels"]["job-name"] = json!(job);
        self.create("pods", pod);
        self.run(&name, fate).await;
    }
}
