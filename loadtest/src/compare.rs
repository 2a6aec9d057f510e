//! A comparison: contenders take turns, round by round, on the same cores under the same load. A
//! turn in which the machine was disturbed is tried again, and a round is dropped where that fails.
//! It shows nothing but progress; `comparison` makes sense of the rounds.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nanofaas_plot::show;

use crate::comparison::{Comparison, Dropped, Part, Round, Taker};
use crate::contender::Contender;
use crate::cpu::{Counter, Cpu};
use crate::figures::{self, Growth};
use crate::load::Arrivals;
use crate::report::Report;
use crate::run::{self, Setting};
use crate::scenario::{Capacity, Entry, Measure, Scenario};
use crate::speed::{self, Around, WorkNs};
use crate::stage::{Places, Stage};
use crate::{cores, first, tally};

/// How a comparison is made, beside what its file says.
#[derive(Clone, Debug)]
pub(crate) struct Conduct {
    pub(crate) places: Places,
    pub(crate) quiet: bool,
    /// Keeps disturbed rounds: for trying a scenario out, not for figures.
    pub(crate) keep_disturbed: bool,
}

/// An entry with its contender's file read.
struct Player<'a> {
    entry: &'a Entry,
    contender: Contender,
    /// Over all kept rounds.
    latency: Histogram<u64>,
}

/// One contender in one round.
struct Turn {
    part: Part,
    latency: Histogram<u64>,
    cpu: Cpu,
}

pub(crate) fn compare(
    scenario: &Scenario,
    home: &Path,
    conduct: &Conduct,
) -> Result<Comparison, String> {
    let mut players = Vec::new();
    for entry in &scenario.contenders {
        let contender = Contender::read(&home.join(&entry.file))?;
        players.push(Player {
            entry,
            contender,
            latency: tally::histogram(),
        });
    }
    let mut theatre = Theatre {
        scenario: scenario.clone(),
        conduct,
    };
    let mut capacity_per_s = None;
    if let Some(capacity) = &scenario.capacity {
        let per_s = theatre.measure(capacity, &players)?;
        theatre
            .scenario
            .offer(&Arrivals::Poisson(per_s * capacity.share))?;
        capacity_per_s = Some(per_s);
    }
    if scenario.measure == Measure::FirstAnswer {
        // What one start leaves to the next, such as compiled byte code, is there for all rounds.
        for player in &players {
            theatre.turn(0, player)?;
        }
    }
    let mut comparison = Comparison::begin(&theatre.scenario, capacity_per_s, &conduct.places.root);
    while comparison.rounds.len() < scenario.rounds {
        let number = comparison.rounds.len();
        match theatre.round(number, &mut players)? {
            Ok(round) => comparison.rounds.push(round),
            Err(dropped) => {
                theatre.say(&format!("round {} dropped: {}", number + 1, dropped.reason));
                comparison.dropped.push(dropped);
                if comparison.dropped.len() > scenario.disturbance.repeats {
                    break;
                }
            }
        }
    }
    comparison.takers = players
        .iter()
        .map(|player| Taker::new(player.entry, &player.contender, &player.latency))
        .collect();
    comparison.conclude();
    Ok(comparison)
}

struct Theatre<'a> {
    /// With the rate that was found.
    scenario: Scenario,
    conduct: &'a Conduct,
}

impl Theatre<'_> {
    /// Every contender once. The first one of a round is the last of the next, so that what drifts
    /// with time meets all alike.
    fn round(
        &self,
        number: usize,
        players: &mut [Player<'_>],
    ) -> Result<Result<Round, Dropped>, String> {
        let mut order: Vec<usize> = (0..players.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        let shift = number / 2 % players.len().max(1);
        order.rotate_left(shift);
        let mut turns: Vec<Option<Turn>> = players.iter().map(|_| None).collect();
        let mut probes = Vec::new();
        let mut repeated = Vec::new();
        self.settle(&mut probes)?;
        for at in order {
            let player = &players[at];
            let turn = self.try_turn(number, player, &mut probes, &mut repeated)?;
            match turn {
                Ok(turn) => turns[at] = Some(turn),
                Err(reason) => {
                    let reason = format!("{}: {reason}", player.entry.name);
                    return Ok(Err(Dropped {
                        round: number + 1,
                        reason,
                    }));
                }
            }
        }
        let mut round = Round {
            repeated,
            ..Round::default()
        };
        for (player, turn) in players.iter_mut().zip(turns.into_iter().flatten()) {
            player.latency += turn.latency;
            round.parts.insert(player.entry.name.clone(), turn.part);
        }
        round.add_what_proxies_add(self.scenario.direct.as_deref());
        Ok(Ok(round))
    }

    /// A turn that nothing disturbed, or what did.
    fn try_turn(
        &self,
        number: usize,
        player: &Player<'_>,
        probes: &mut Vec<WorkNs>,
        repeated: &mut Vec<String>,
    ) -> Result<Result<Turn, String>, String> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut turn = self.turn(number, player)?;
            let after = self.probe()?;
            turn.part.work_ns = Around {
                before: probes.last().cloned().unwrap_or_default(),
                after: after.clone(),
            };
            probes.push(after);
            let Some(reason) = self.disturbance(&turn.cpu, probes) else {
                return Ok(Ok(turn));
            };
            if self.conduct.keep_disturbed {
                return Ok(Ok(turn));
            }
            probes.pop();
            if attempt >= self.scenario.disturbance.tries || !self.settle(probes)? {
                return Ok(Err(reason));
            }
            self.say(&format!("{} again: {reason}", player.entry.name));
            repeated.push(format!("{}: {reason}", player.entry.name));
        }
    }

    /// Waits until the machine is as it was at the round's other probes, and its cores near enough;
    /// whether it is.
    fn settle(&self, probes: &mut Vec<WorkNs>) -> Result<bool, String> {
        let limits = &self.scenario.disturbance;
        let end = Instant::now() + Duration::from_secs_f64(limits.patience_s);
        loop {
            probes.push(self.probe()?);
            let fine = speed::disturbance(probes, limits).is_none();
            let late = Instant::now() > end || self.conduct.keep_disturbed;
            if probes.len() > 1 || !(fine || late) {
                probes.pop();
            }
            if fine || late {
                return Ok(fine);
            }
        }
    }

    fn turn(&self, number: usize, player: &Player<'_>) -> Result<Turn, String> {
        let turn = match self.scenario.measure {
            Measure::Load => self.bear_load(number, player),
            Measure::FirstAnswer => self.answer_first(number, player),
        };
        turn.map_err(|fault| format!("{}: {fault}", player.entry.name))
    }

    fn answer_first(&self, number: usize, player: &Player<'_>) -> Result<Turn, String> {
        let entry = player.entry;
        let begin = Counter::read_all(&[]);
        let stage = self.stage(player)?;
        let load = self.scenario.load(entry, stage.url.clone())?;
        let target = load.targets.into_iter().next().unwrap_or_default();
        let took = first::answer(&stage, target)?;
        let cpu = begin.until(&Counter::read_all(&stage.watched()));
        let took_ns = took.as_nanos() as u64;
        let shown = show::duration(took_ns as f64);
        self.say(&format!("{} {}: {shown}", number + 1, entry.name));
        let mut latency = tally::histogram();
        latency.saturating_record(took_ns);
        Ok(Turn {
            part: Part::of_first_answer(took),
            latency,
            cpu,
        })
    }

    fn bear_load(&self, number: usize, player: &Player<'_>) -> Result<Turn, String> {
        let entry = player.entry;
        let stage = self.stage(player)?;
        let load = self.scenario.load(entry, stage.url.clone())?;
        let before = stage.memory().bytes;
        let setting = Setting {
            quiet: self.conduct.quiet,
            watched: stage.watched(),
            title: format!("{}/{} {}", number + 1, self.scenario.rounds, entry.name),
            ..Setting::default()
        };
        let run = run::run(&load, &setting)?;
        stage.check()?;
        let report = Report::new(&run);
        let memory = Growth {
            before,
            after: stage.memory().bytes,
        };
        let figures = figures::of(&report, stage.measured(), memory);
        self.say(&format!(
            "{} {}: {}/s, p50 {}, p99 {}, errors {}",
            number + 1,
            entry.name,
            show::rate(report.answers_per_s),
            show::duration(report.latency.p50_us * 1e3),
            show::duration(report.latency.p99_us * 1e3),
            report.errors
        ));
        Ok(Turn {
            part: Part::new(figures, &report),
            latency: run.tally.latency,
            cpu: run.cpu,
        })
    }

    /// Starts a contender, and puts this thread, whose client it will be, on the load's cores.
    fn stage(&self, player: &Player<'_>) -> Result<Stage, String> {
        let mut cores = self.scenario.cores.clone();
        cores.extend(player.entry.cores.clone());
        cores::pin(cores.get("load").unwrap_or(&self.conduct.places.cores))?;
        Stage::set_up(
            &player.contender,
            &player.entry.set,
            &cores,
            &self.conduct.places,
        )
    }

    /// What one contender does in a closed loop, a second.
    fn measure(&self, capacity: &Capacity, players: &[Player<'_>]) -> Result<f64, String> {
        let player = players
            .iter()
            .find(|player| player.entry.name == capacity.of)
            .ok_or_else(|| format!("{} is not the name of a contender", capacity.of))?;
        let stage = self.stage(player)?;
        let mut load = self.scenario.load(player.entry, stage.url.clone())?;
        load.arrivals = None;
        load.connections = capacity.connections;
        let title = format!("capacity of {}", capacity.of);
        let setting = Setting {
            quiet: self.conduct.quiet,
            title,
            ..Setting::default()
        };
        let report = Report::new(&run::run(&load, &setting)?);
        if report.answers_per_s < 1.0 || report.errors > 0 {
            return Err(format!("{}: its capacity cannot be measured", capacity.of));
        }
        self.say(&format!(
            "capacity of {}: {}/s",
            capacity.of,
            show::rate(report.answers_per_s)
        ));
        Ok(report.answers_per_s)
    }

    /// How fast the cores are while no contender is there.
    fn probe(&self) -> Result<WorkNs, String> {
        let named = self.scenario.named_cores();
        if named.is_empty() {
            speed::probe(&self.conduct.places.cores)
        } else {
            speed::probe(&named)
        }
    }

    /// In the turn that is over, or since the round began.
    fn disturbance(&self, cpu: &Cpu, probes: &[WorkNs]) -> Option<String> {
        let limits = self.scenario.disturbance;
        let percent = |cpu_s: f64| cpu_s / cpu.length_s.max(1e-9) * 100.0;
        let (steal, foreign) = (percent(cpu.steal_s), percent(cpu.foreign_s()));
        if steal > limits.steal_percent {
            Some(format!("the hypervisor took {steal:.0} % of a core"))
        } else if foreign > limits.foreign_percent {
            Some(format!("other processes used {foreign:.0} % of a core"))
        } else {
            speed::disturbance(probes, &limits)
        }
    }

    fn say(&self, text: &str) {
        if !self.conduct.quiet {
            eprintln!("{text}");
        }
    }
}
