//! What a contender takes before anybody calls it: time to ready, idle memory, memory for each idle
//! connection.
//! It makes no load. The command line calls it.

use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use crate::address::Place;
use crate::ask::{self, Line};
use crate::contender::Contender;
use crate::figures::Spread;
use crate::load::Target;
use crate::run::raise_descriptor_limit;
use crate::show;
use crate::stage::{Places, Stage};
use crate::table::table;

#[derive(Debug, Serialize)]
pub(crate) struct Footprint {
    about: String,
    connections: usize,
    /// Of the measured processes, from the start of the program until its health check answers.
    ready_ms: Spread,
    idle_mib: Spread,
    connection_bytes: Spread,
}

/// How long a process may settle before its memory is read.
const SETTLE: Duration = Duration::from_secs(1);

/// Each of `times` starts is a process of its own. An idle connection is one that has had an answer.
pub(crate) fn measure(
    contender: &Contender,
    places: &Places,
    times: usize,
    connections: usize,
) -> Result<Footprint, String> {
    raise_descriptor_limit();
    let (mut ready_ms, mut idle_mib, mut connection_bytes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        let stage = Stage::set_up(contender, &Default::default(), &Default::default(), places)?;
        let ready = stage.ready_after.iter().zip(stage.measured());
        let ready: Duration = ready
            .filter(|(_, own)| **own)
            .map(|(after, _)| *after)
            .sum();
        ready_ms.push(ready.as_secs_f64() * 1e3);
        sleep(SETTLE);
        let idle = stage.memory_bytes();
        idle_mib.push(idle as f64 / 1024.0 / 1024.0);
        let target = Target {
            url: stage.url.clone(),
            body_bytes: Some(64),
            ..Target::default()
        };
        let address = Place::parse(&stage.url, false)?.address;
        let (_, request) = ask::request(target)?;
        let mut lines = Vec::with_capacity(connections);
        for number in 0..connections {
            let asked = Line::open(&address)
                .and_then(|mut line| line.ask(&request, false).map(|answer| (line, answer)));
            let (line, (status, _)) =
                asked.map_err(|fault| format!("connection {}: {fault}", number + 1))?;
            if !(200..300).contains(&status) {
                return Err(format!("connection {}: status {status}", number + 1));
            }
            lines.push(line);
        }
        sleep(SETTLE);
        let more = stage.memory_bytes().saturating_sub(idle);
        connection_bytes.push(more as f64 / connections as f64);
    }
    let spread = |values: Vec<f64>| {
        Spread::of(values.into_iter()).ok_or("measure it at least once, with a connection")
    };
    Ok(Footprint {
        about: contender.about.clone(),
        connections,
        ready_ms: spread(ready_ms)?,
        idle_mib: spread(idle_mib)?,
        connection_bytes: spread(connection_bytes)?,
    })
}

impl Footprint {
    pub(crate) fn print(&self) {
        println!("{}", self.about);
        let mut shown = table(&["", "median", "lowest", "highest"]);
        let connection = format!("memory for each of {} idle connections", self.connections);
        let rows: [(&str, &Spread, fn(f64) -> String); 3] = [
            ("start to ready", &self.ready_ms, |ms| {
                show::duration(ms * 1e6)
            }),
            ("idle memory", &self.idle_mib, |mib| {
                show::bytes(mib * 1024.0 * 1024.0)
            }),
            (&connection, &self.connection_bytes, show::bytes),
        ];
        for (name, spread, unit) in rows {
            shown.add_row([
                name.to_owned(),
                unit(spread.median),
                unit(spread.min),
                unit(spread.max),
            ]);
        }
        println!("{shown}");
    }
}
