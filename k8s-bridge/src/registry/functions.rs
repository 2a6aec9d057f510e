//! Manages the functions that are stored in the cluster. A client's change is written to the cluster first,
//! and then made in the function table of the work queue. Changes by other clients of the API server are
//! applied to the table, too. This module keeps the state of each object for `status`, and checks a
//! function's `podTemplate`; the registry checks the other fields.

mod write;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use nanofaas_core::message::{BridgeError, Reply, ReplyTo};
use nanofaas_core::registry::Change;
use nanofaas_core::spec::{FieldError, FunctionDraft};
use serde_json::{Map, Value};
use tokio::task::spawn_local;

use crate::api::watch::WatchUpdate;
use crate::podspec::default_template;
use crate::registry::ClusterRegistry;
use crate::registry::object::{FunctionObject, name_of, spec_of};
use crate::registry::starts::{Outlook, StartHistory};
use crate::registry::status::READY;
use write::{register, remove, scale};

/// The verdict of this control plane on an object's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SpecVerdict {
    Accepted,
    /// The spec was rejected, with this message of the HTTP API.
    Rejected(String),
}

/// The state of a `Function` object.
pub(crate) struct ObservedFunction {
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) verdict: SpecVerdict,
    /// The generation whose spec was accepted last.
    pub(crate) accepted: Option<i64>,
    /// The spec of that generation, as JSON.
    pub(crate) accepted_spec: Option<String>,
    pub(crate) starts: StartHistory,
    /// The number of the list in which the object was last seen.
    listing: u64,
    /// The status as it was last seen or written.
    pub(crate) status: Option<crate::registry::object::FunctionStatus>,
}

#[cfg(test)]
impl ObservedFunction {
    pub(crate) fn for_test(
        generation: i64,
        verdict: SpecVerdict,
        status: Option<crate::registry::object::FunctionStatus>,
    ) -> Self {
        let accepted = (verdict == SpecVerdict::Accepted).then_some(generation);
        Self {
            uid: String::new(),
            generation,
            verdict,
            accepted,
            accepted_spec: None,
            starts: StartHistory::default(),
            listing: 0,
            status,
        }
    }
}

/// A change that is being written, and the updates and changes that wait for it.
#[derive(Default)]
struct Writing {
    /// The updates of the watch, in the order in which they came.
    updates: Vec<WatchUpdate<FunctionObject>>,
    next: VecDeque<(Change, ReplyTo)>,
}

#[derive(Default)]
pub(crate) struct ClusterFunctions {
    known: RefCell<HashMap<String, ObservedFunction>>,
    writing: RefCell<HashMap<Arc<str>, Writing>>,
    /// The uids of objects that this control plane deleted, each with the number of the last list before the
    /// deletion. The watch's later updates of these objects are ignored.
    deleted: RefCell<HashMap<String, u64>>,
    listing: Cell<u64>,
    pub(crate) is_listed: Cell<bool>,
    pub(crate) changed: RefCell<HashSet<String>>,
}

impl ClusterFunctions {
    pub(crate) fn mark_changed(&self, name: &str) {
        if self.known.borrow().contains_key(name) {
            self.changed.borrow_mut().insert(name.to_owned());
        }
    }

    /// Forgets failed starts, because pods are made in another way now.
    pub(crate) fn starts_may_work(&self) {
        for (name, known) in self.known.borrow_mut().iter_mut() {
            if let Outlook::Bad(..) = known.starts.outlook {
                known.starts.outlook = Outlook::Good;
                self.changed.borrow_mut().insert(name.clone());
            }
        }
    }

    pub(crate) fn with<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut ObservedFunction) -> T,
    ) -> Option<T> {
        self.known.borrow_mut().get_mut(name).map(act)
    }
}

pub(crate) fn apply_update(registry: &ClusterRegistry, update: WatchUpdate<FunctionObject>) {
    let functions = &registry.functions;
    match update {
        WatchUpdate::Listing => functions.listing.set(functions.listing.get() + 1),
        WatchUpdate::There(object) => apply_to_object(registry, WatchUpdate::There(object)),
        WatchUpdate::Gone(object) => apply_to_object(registry, WatchUpdate::Gone(object)),
        WatchUpdate::Listed(names) => {
            let listing = functions.listing.get();
            let known = functions.known.borrow();
            // An object that was written after the list began may be missing from it.
            let is_missing = |name: &str| {
                let last = known.get(name).map_or(0, |known| known.listing);
                last < listing && !names.contains(name)
            };
            // An earlier bridge of this process may have added functions that only the table has.
            let in_table: Vec<String> = registry.context.with_work_queue(|queue| {
                queue.functions().keys().map(ToString::to_string).collect()
            });
            let all: HashSet<String> = known.keys().cloned().chain(in_table).collect();
            let missing: Vec<String> = all.into_iter().filter(|name| is_missing(name)).collect();
            drop(known);
            missing.iter().for_each(|name| forget(registry, name));
            // The watch cannot report an object that was deleted before this list began, so its uid is not
            // needed any more.
            functions
                .deleted
                .borrow_mut()
                .retain(|_, at| *at >= listing);
            functions.is_listed.set(true);
        }
    }
}

fn apply_to_object(registry: &ClusterRegistry, update: WatchUpdate<FunctionObject>) {
    let (WatchUpdate::There(object) | WatchUpdate::Gone(object)) = &update else {
        return;
    };
    if let Some(writing) = registry
        .functions
        .writing
        .borrow_mut()
        .get_mut(object.name())
    {
        writing.updates.push(update);
        return;
    }
    if let WatchUpdate::There(object) = &update
        && !object.is_going()
    {
        take(registry, object);
    } else {
        let uid = object.uid().to_owned();
        registry.functions.deleted.borrow_mut().remove(&uid);
        let is_same = registry
            .functions
            .with(object.name(), |known| known.uid == uid);
        if is_same == Some(true) {
            forget(registry, object.name());
        }
    }
}

fn take(registry: &ClusterRegistry, object: &FunctionObject) {
    let functions = &registry.functions;
    if functions.deleted.borrow().contains_key(object.uid()) {
        return;
    }
    let (name, listing) = (object.name(), functions.listing.get());
    let is_known = functions.with(name, |known| {
        known.listing = listing;
        let is_same = known.uid == object.uid();
        if is_same && known.generation == object.generation() {
            known.status.clone_from(&object.status);
        }
        is_same && known.generation >= object.generation()
    });
    if is_known == Some(true) {
        // Another client may have written the function's status.
        return functions.mark_changed(name);
    }
    let verdict = match judge(registry, object) {
        Ok(draft) => {
            if let Some(draft) = draft {
                let change = Change::Register {
                    draft: Box::new(draft),
                    replace: true,
                };
                registry
                    .context
                    .with_work_queue(|queue| queue.apply(change, None));
            }
            SpecVerdict::Accepted
        }
        Err(refused) => {
            let why = refusal(&refused);
            tracing::warn!(function = name, "the Function is not accepted: {why}");
            restore(registry, object);
            SpecVerdict::Rejected(why)
        }
    };
    note(registry, object, verdict);
}

/// Puts the last accepted spec of a rejected object into force again, if the table has no such function. An
/// earlier control plane accepted that spec and kept it in the status.
fn restore(registry: &ClusterRegistry, object: &FunctionObject) {
    let name = object.name();
    let status = object.status.as_ref();
    let kept = status.and_then(|status| status.accepted_spec.as_deref());
    let Some(kept) = kept.filter(|_| {
        !registry
            .context
            .with_work_queue(|queue| queue.functions().contains_key(name))
    }) else {
        return;
    };
    let accepted = serde_json::from_str(kept).map(|spec| FunctionObject {
        spec,
        ..object.clone()
    });
    let judged = match &accepted {
        Ok(accepted) => judge(registry, accepted).map_err(|refused| refusal(&refused)),
        Err(error) => Err(error.to_string()),
    };
    match judged {
        Ok(Some(draft)) => {
            tracing::info!(function = name, "its last accepted spec stays in force");
            let (draft, replace) = (Box::new(draft), true);
            registry
                .context
                .with_work_queue(|queue| queue.apply(Change::Register { draft, replace }, None));
        }
        Ok(None) => {}
        Err(why) => tracing::warn!(function = name, "nor is its last accepted spec: {why}"),
    }
}

fn note(registry: &ClusterRegistry, object: &FunctionObject, verdict: SpecVerdict) {
    // A new object does not inherit the state of an old one with the same name.
    let before = registry.functions.with(object.name(), |known| {
        let kept = (known.accepted, known.accepted_spec.clone());
        (known.uid == object.uid()).then(|| (kept, known.starts.clone()))
    });
    let ((accepted, accepted_spec), starts) = before.flatten().unwrap_or_else(|| {
        let status = object.status.clone().unwrap_or_default();
        let ready = status.condition(READY);
        let accepted = ready.and_then(|ready| ready.observed_generation);
        let accepted = accepted.filter(|_| status.accepted_spec.is_some());
        let starts = StartHistory::after(status.last_failed_start);
        ((accepted, status.accepted_spec), starts)
    });
    let is_accepted = verdict == SpecVerdict::Accepted;
    let known = ObservedFunction {
        uid: object.uid().to_owned(),
        generation: object.generation(),
        accepted: if is_accepted {
            Some(object.generation())
        } else {
            accepted
        },
        accepted_spec: if is_accepted {
            serde_json::to_string(&object.spec).ok()
        } else {
            accepted_spec
        },
        verdict,
        starts,
        listing: registry.functions.listing.get(),
        status: object.status.clone(),
    };
    let name = object.name().to_owned();
    registry.functions.known.borrow_mut().insert(name, known);
    registry.functions.mark_changed(object.name());
}

/// Returns the draft to register, or none if the table has this function already.
fn judge(
    registry: &ClusterRegistry,
    object: &FunctionObject,
) -> Result<Option<FunctionDraft>, BridgeError> {
    let draft = object
        .draft()
        .map_err(|fault| BridgeError::Invalid(vec![fault]))?;
    check_template(&object.spec)?;
    let differs = registry
        .context
        .with_work_queue(|queue| queue.differs(&draft))?;
    Ok(differs.then_some(draft))
}

fn check_template(spec: &Map<String, Value>) -> Result<(), BridgeError> {
    let template = spec.get("podTemplate").filter(|value| !value.is_null());
    let checked = template.map_or(Ok(()), default_template::check_fields);
    checked.map_err(|why| BridgeError::Invalid(vec![FieldError::new("podTemplate", why)]))
}

fn forget(registry: &ClusterRegistry, name: &str) {
    registry.functions.known.borrow_mut().remove(name);
    registry.functions.changed.borrow_mut().remove(name);
    let name: Arc<str> = name.into();
    registry.context.with_work_queue(|queue| {
        if queue.functions().contains_key(&name) {
            queue.apply(Change::Remove { name }, None);
        }
    });
}

fn refusal(refused: &BridgeError) -> String {
    match refused {
        BridgeError::Invalid(faults) => {
            let faults = faults.iter().map(ToString::to_string);
            faults.collect::<Vec<_>>().join("; ")
        }
        BridgeError::TooMany => "the table of functions is full".to_owned(),
        BridgeError::Unavailable(why) => why.clone(),
        BridgeError::NotFound
        | BridgeError::Exists
        | BridgeError::Forbidden
        | BridgeError::NotWarm(_) => "it was refused".to_owned(),
    }
}

/// Makes a client's change. Changes of one function are made one after the other.
pub(crate) fn change(registry: &Rc<ClusterRegistry>, change: Change, reply: ReplyTo) {
    let name = match &change {
        Change::Register { draft, .. } => name_of(draft),
        Change::Remove { name } | Change::Scale { name, .. } => name.clone(),
    };
    let mut writing = registry.functions.writing.borrow_mut();
    if let Some(writing) = writing.get_mut(&name) {
        writing.next.push_back((change, reply));
        return;
    }
    writing.insert(name.clone(), Writing::default());
    let registry = registry.clone();
    spawn_local(async move { write_all(&registry, name, change, reply).await });
}

/// Writes a change, and then the further changes of the same function.
async fn write_all(registry: &Rc<ClusterRegistry>, name: Arc<str>, change: Change, reply: ReplyTo) {
    let mut next = Some((change, reply));
    while let Some((change, reply)) = next {
        match change {
            Change::Register { draft, replace } => {
                let written = match check_template(&spec_of(&draft)) {
                    Ok(()) => register(&registry.context.cluster, &name, &draft, replace).await,
                    Err(refused) => Err(refused),
                };
                registered(registry, written, draft, replace, reply);
            }
            Change::Scale { replicas, .. } => {
                let written = scale(&registry.context.cluster, &name, replicas).await;
                scaled(registry, written, &name, replicas, reply);
            }
            Change::Remove { .. } => match remove(&registry.context.cluster, &name).await {
                Ok(uid) => removed(registry, &name, uid, reply),
                Err(refused) => registry
                    .context
                    .with_work_queue(|queue| queue.reply(reply, Reply::Refused(refused))),
            },
        }
        let mut writing = registry.functions.writing.borrow_mut();
        let waiting = writing.get_mut(&name);
        next = waiting.and_then(|writing| writing.next.pop_front());
    }
    let writing = registry.functions.writing.borrow_mut().remove(&name);
    for update in writing.into_iter().flat_map(|writing| writing.updates) {
        apply_to_object(registry, update);
    }
}

fn registered(
    registry: &ClusterRegistry,
    written: Result<FunctionObject, BridgeError>,
    draft: Box<FunctionDraft>,
    replace: bool,
    reply: ReplyTo,
) {
    // The table may still have a function of this name that the cluster no longer has. Replace it, even if
    // the client asked for a new function.
    let replace = replace || written.is_ok();
    made(
        registry,
        written,
        Change::Register { draft, replace },
        reply,
    );
}

/// Makes a written change in the table, and replies to the client. If the write failed, the table stays.
fn made(
    registry: &ClusterRegistry,
    written: Result<FunctionObject, BridgeError>,
    change: Change,
    reply: ReplyTo,
) {
    match written {
        Ok(object) => {
            registry
                .context
                .with_work_queue(|queue| queue.apply(change, Some(reply)));
            note(registry, &object, SpecVerdict::Accepted);
        }
        Err(refused) => registry
            .context
            .with_work_queue(|queue| queue.reply(reply, Reply::Refused(refused))),
    }
}

/// Makes a written change of `minReplicas` in the table. It examines the written object first, because that
/// object may contain changes of other clients.
fn scaled(
    registry: &ClusterRegistry,
    written: Result<FunctionObject, BridgeError>,
    name: &Arc<str>,
    replicas: u32,
    reply: ReplyTo,
) {
    let judged = written.and_then(|object| {
        take(registry, &object);
        match registry.functions.with(name, |known| known.verdict.clone()) {
            Some(SpecVerdict::Rejected(why)) => {
                Err(BridgeError::Invalid(vec![FieldError::new("function", why)]))
            }
            Some(SpecVerdict::Accepted) | None => Ok(()),
        }
    });
    let name = name.clone();
    registry.context.with_work_queue(|queue| match judged {
        Ok(()) => queue.apply(Change::Scale { name, replicas }, Some(reply)),
        Err(refused) => queue.reply(reply, Reply::Refused(refused)),
    });
}

fn removed(registry: &ClusterRegistry, name: &Arc<str>, uid: Option<String>, reply: ReplyTo) {
    let functions = &registry.functions;
    let known = functions.known.borrow_mut().remove(&**name);
    functions.changed.borrow_mut().remove(&**name);
    let uid = known.map(|known| known.uid).or(uid);
    let listing = functions.listing.get();
    functions
        .deleted
        .borrow_mut()
        .extend(uid.map(|uid| (uid, listing)));
    let name = name.clone();
    registry.context.with_work_queue(|queue| {
        if queue.functions().contains_key(&name) {
            queue.apply(Change::Remove { name }, Some(reply));
        } else {
            // The function was never accepted, so the table does not have it.
            queue.reply(reply, Reply::Removed);
        }
    });
}

/// Creates the functions of the settings in the cluster. A function that the cluster already has stays as it
/// is.
pub(crate) async fn seed(registry: &ClusterRegistry) {
    for draft in &registry.context.config.functions {
        let name = name_of(draft);
        if registry.functions.known.borrow().contains_key(&*name) {
            tracing::info!(function = %name, "the cluster has this function; its file is not read");
            continue;
        }
        match register(&registry.context.cluster, &name, draft, false).await {
            Ok(object) => take(registry, &object),
            Err(BridgeError::Exists) => {}
            Err(refused) => {
                let why = refusal(&refused);
                tracing::error!(function = %name, "it is not registered: {why}");
            }
        }
    }
}
