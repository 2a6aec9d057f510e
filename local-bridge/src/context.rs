//! All tasks of the bridge share this data: the settings, the link to the guard, the announcer (which sends
//! the events of pods and Jobs), and the state of all processes. A task knows neither the bridge nor another
//! task.

pub(crate) mod config;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use nanofaas_backend::announcer::Announcer;
use nanofaas_core::work_queue::WorkQueue;

use crate::context::config::LocalConfig;
use crate::guard::link::Link;
use crate::process::oom::OomWatch;
use crate::process::ports::Ports;
use crate::process::run_dir::RunDir;

pub(crate) struct LocalContext {
    pub(crate) config: LocalConfig,
    pub(crate) link: Rc<Link>,
    pub(crate) oom: OomWatch,
    pub(crate) run_dir: RunDir,
    pub(crate) ports: Rc<Ports>,
    pub(crate) is_stopping: Cell<bool>,
    pub(crate) announcer: Announcer,
}

impl LocalContext {
    pub(crate) fn new(
        config: LocalConfig,
        run_dir: RunDir,
        work_queue: Rc<RefCell<WorkQueue>>,
    ) -> Self {
        Self {
            link: Rc::new(Link::new(config.guard.clone())),
            announcer: Announcer::new(work_queue, config.origin),
            config,
            oom: OomWatch::new(),
            run_dir,
            ports: Ports::new(),
            is_stopping: Cell::new(false),
        }
    }
}
