//! What every task of the bridge is given: the settings, the guard, the desk, the clock, and what
//! all processes share. A task knows neither the bridge nor other tasks.

pub(crate) mod config;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nanofaas_core::cold_start::Phase;
use nanofaas_core::desk::Desk;
use nanofaas_core::function::Function;
use nanofaas_core::message::PodEnd;
use nanofaas_core::ticket::PodRef;
use nanofaas_core::time::Uptime;

use crate::context::config::LocalConfig;
use crate::guard::link::Link;
use crate::process::oom::OomWatch;
use crate::process::ports::Ports;
use crate::process::run_dir::RunDir;

/// What every task is given.
pub(crate) struct LocalContext {
    pub(crate) config: LocalConfig,
    pub(crate) link: Rc<Link>,
    pub(crate) oom: OomWatch,
    pub(crate) run_dir: RunDir,
    pub(crate) ports: Rc<Ports>,
    pub(crate) is_stopping: Cell<bool>,
    desk: Rc<RefCell<Desk>>,
}

impl LocalContext {
    pub(crate) fn new(config: LocalConfig, run_dir: RunDir, desk: Rc<RefCell<Desk>>) -> Self {
        Self {
            link: Rc::new(Link::new(config.guard.clone())),
            config,
            oom: OomWatch::new(),
            run_dir,
            ports: Ports::new(),
            is_stopping: Cell::new(false),
            desk,
        }
    }

    /// Reads the process's clock.
    pub(crate) fn now(&self) -> Uptime {
        Uptime::ZERO + self.config.origin.elapsed().into()
    }

    /// Runs `something` with the desk borrowed.
    pub(crate) fn say<T>(&self, something: impl FnOnce(&mut Desk) -> T) -> T {
        something(&mut self.desk.borrow_mut())
    }

    /// Records that a start reached a phase.
    pub(crate) fn reached(&self, function: &Function, pod: &str, phase: Phase) {
        let at = self.now();
        self.say(|desk| desk.starts.reached(function.name(), pod, phase, at));
    }

    /// Reports the end of a pod.
    pub(crate) fn gone(&self, pod: PodRef, end: &PodEnd) {
        self.say(|desk| desk.gone(pod, end));
    }

    /// Reports the end of a pod that has no task here. It may have been reported before, or belong
    /// to an earlier bridge; a second report does no harm.
    pub(crate) fn is_unknown(&self, pod: PodRef) {
        let end = PodEnd {
            oom: false,
            message: "it was gone already".into(),
        };
        self.gone(pod, &end);
    }
}
