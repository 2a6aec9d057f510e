//! Measures the resources of a contender without load: its time to ready, its idle memory, and its memory for
//! each idle connection. The command line calls this module.

use std::thread::sleep;
use std::time::Duration;

use nanofaas_plot::show;
use serde::Serialize;

use crate::address::ParsedUrl;
use crate::ask::{self, BlockingConnection};
use crate::contender::Contender;
use crate::figures::Spread;
use crate::load::RequestTarget;
use crate::run::raise_descriptor_limit;
use crate::running::{Installation, RunningContender};
use crate::table::ReportTable;

#[derive(Debug, Serialize)]
pub(crate) struct Footprint {
    about: String,
    connections: usize,
    /// The time from the start of a process until its `ready` URL answers, summed over the measured
    /// processes.
    ready_ms: Spread,
    idle_mib: Spread,
    /// The idle memory that belongs to no file. The kernel can drop the pages of files, such as the
    /// program's.
    idle_private_mib: Spread,
    /// Memory for each connection that has never sent a byte.
    silent_bytes: Spread,
    /// Memory for each connection after one answer.
    used_bytes: Spread,
}

/// The pause before the memory of a process is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Starts the contender `times` times and measures each start.
pub(crate) fn measure(
    contender: &Contender,
    installation: &Installation,
    times: usize,
    connections: usize,
) -> Result<Footprint, String> {
    raise_descriptor_limit();
    let mut found: [Vec<f64>; 5] = Default::default();
    for _ in 0..times {
        for (values, value) in found
            .iter_mut()
            .zip(once(contender, installation, connections)?)
        {
            values.push(value);
        }
    }
    let [
        ready_ms,
        idle_mib,
        idle_private_mib,
        silent_bytes,
        used_bytes,
    ] = found.map(|values| Spread::of(values.into_iter()));
    let need = "measure it at least once, with a connection";
    Ok(Footprint {
        about: contender.about.clone(),
        connections,
        ready_ms: ready_ms.ok_or(need)?,
        idle_mib: idle_mib.ok_or(need)?,
        idle_private_mib: idle_private_mib.ok_or(need)?,
        silent_bytes: silent_bytes.ok_or(need)?,
        used_bytes: used_bytes.ok_or(need)?,
    })
}

/// Measures one start. Returns the figures in the order of the fields of `Footprint`.
fn once(
    contender: &Contender,
    installation: &Installation,
    connections: usize,
) -> Result<[f64; 5], String> {
    const MIB: f64 = 1024.0 * 1024.0;
    let running = RunningContender::set_up(
        contender,
        &Default::default(),
        &Default::default(),
        installation,
    )?;
    let ready = running.ready_after.iter().zip(running.measured());
    let ready: Duration = ready
        .filter(|(_, own)| **own)
        .map(|(after, _)| *after)
        .sum();
    sleep(SETTLE);
    let idle = running.memory();
    let target = RequestTarget {
        url: running.url.clone(),
        body_bytes: Some(64),
        ..RequestTarget::default()
    };
    let address = ParsedUrl::parse(&running.url, false)?.address;
    let (_, request) = ask::request(target)?;
    let mut lines = Vec::with_capacity(connections);
    for number in 0..connections {
        let line = BlockingConnection::open(&address);
        lines.push(line.map_err(|error| format!("connection {}: {error}", number + 1))?);
    }
    sleep(SETTLE);
    let silent = running.memory();
    for line in &mut lines {
        let (status, _) = line
            .ask(&request, false)
            .map_err(|error| error.to_string())?;
        if !(200..300).contains(&status) {
            return Err(format!("{}: status {status}", running.url));
        }
    }
    sleep(SETTLE);
    let used = running.memory();
    let each = |now: u64| now.saturating_sub(idle.private_bytes) as f64 / connections as f64;
    Ok([
        ready.as_secs_f64() * 1e3,
        idle.bytes as f64 / MIB,
        idle.private_bytes as f64 / MIB,
        each(silent.private_bytes),
        each(used.private_bytes),
    ])
}

impl Footprint {
    pub(crate) fn print(&self) {
        let row = |name: &str, spread: &Spread, unit: fn(f64) -> String| {
            let values = [spread.median, spread.min, spread.max];
            let mut row = vec![name.to_owned()];
            row.extend(values.map(unit));
            row
        };
        let ms = |ms: f64| show::duration(ms * 1e6);
        let mib = |mib: f64| show::bytes(mib * 1024.0 * 1024.0);
        let rows = ReportTable {
            title: format!("{}; {} connections", self.about, self.connections),
            columns: vec!["", "median", "lowest", "highest"],
            rows: vec![
                row("start to ready", &self.ready_ms, ms),
                row("idle memory (PSS)", &self.idle_mib, mib),
                row("of it private", &self.idle_private_mib, mib),
                row(
                    "a connection that never spoke",
                    &self.silent_bytes,
                    show::bytes,
                ),
                row("the same after one answer", &self.used_bytes, show::bytes),
            ],
        };
        rows.print();
    }
}
