//! Compares contenders in rounds, on the cores and under the load of the scenario. In each round every
//! contender runs once; such a run is called a turn here. A turn in which the machine was disturbed is
//! repeated. If every repetition is disturbed too, the round is dropped. This module prints only progress;
//! `comparison` evaluates the rounds.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nanofaas_plot::show;

use crate::comparison::{Comparison, ContenderSummary, Dropped, Part, Round};
use crate::contender::Contender;
use crate::cpu::{CpuReading, CpuUsage};
use crate::figures::{self, Growth};
use crate::load::ArrivalPattern;
use crate::report::RunReport;
use crate::run::{self, Setting};
use crate::running::{Installation, RunningContender};
use crate::scenario::{CapacityShare, ContenderEntry, Measure, Scenario};
use crate::speed::{self, Around, WorkNs};
use crate::{cores, first, tally};

#[derive(Clone, Debug)]
pub(crate) struct CompareOptions {
    pub(crate) installation: Installation,
    pub(crate) quiet: bool,
    /// Whether disturbed rounds are kept. This is useful to try a scenario out, but not for published
    /// figures.
    pub(crate) keep_disturbed: bool,
}

struct Participant<'a> {
    entry: &'a ContenderEntry,
    contender: Contender,
    /// The latencies of all kept rounds.
    latency: Histogram<u64>,
}

/// The result of one contender in one round.
struct ContenderTurn {
    part: Part,
    latency: Histogram<u64>,
    cpu: CpuUsage,
}

pub(crate) fn compare(
    scenario: &Scenario,
    home: &Path,
    options: &CompareOptions,
) -> Result<Comparison, String> {
    let mut participants = Vec::new();
    for entry in &scenario.contenders {
        let contender = Contender::read(&home.join(&entry.file))?;
        participants.push(Participant {
            entry,
            contender,
            latency: tally::histogram(),
        });
    }
    let mut comparer = Comparer {
        scenario: scenario.clone(),
        options,
    };
    let mut capacity_per_s = None;
    if let Some(capacity) = &scenario.capacity {
        let per_s = comparer.measure(capacity, &participants)?;
        comparer
            .scenario
            .offer(&ArrivalPattern::Poisson(per_s * capacity.share))?;
        capacity_per_s = Some(per_s);
    }
    if scenario.measure == Measure::FirstAnswer {
        // Each contender first takes one unmeasured turn, because a first start leaves state behind, such as
        // compiled byte code. All rounds then begin with that state.
        for participant in &participants {
            comparer.turn(0, participant)?;
        }
    }
    let mut comparison = Comparison::begin(
        &comparer.scenario,
        capacity_per_s,
        &options.installation.root,
    );
    while comparison.rounds.len() < scenario.rounds {
        let number = comparison.rounds.len();
        match comparer.round(number, &mut participants)? {
            Ok(round) => comparison.rounds.push(round),
            Err(dropped) => {
                comparer.report_progress(&format!(
                    "round {} dropped: {}",
                    number + 1,
                    dropped.reason
                ));
                comparison.dropped.push(dropped);
                if comparison.dropped.len() > scenario.disturbance.repeats {
                    break;
                }
            }
        }
    }
    comparison.takers = participants
        .iter()
        .map(|participant| {
            ContenderSummary::new(
                participant.entry,
                &participant.contender,
                &participant.latency,
            )
        })
        .collect();
    comparison.conclude();
    Ok(comparison)
}

struct Comparer<'a> {
    /// The scenario that is compared. If it names a capacity share, `compare` adds the rate that follows from
    /// the measured capacity.
    scenario: Scenario,
    options: &'a CompareOptions,
}

impl Comparer<'_> {
    /// Runs one turn of each contender. Every second round uses the reverse order, and the order is rotated
    /// by one after every two rounds. Therefore a drift of the machine affects all contenders alike.
    fn round(
        &self,
        number: usize,
        participants: &mut [Participant<'_>],
    ) -> Result<Result<Round, Dropped>, String> {
        let mut order: Vec<usize> = (0..participants.len()).collect();
        if number % 2 == 1 {
            order.reverse();
        }
        let shift = number / 2 % participants.len().max(1);
        order.rotate_left(shift);
        let mut turns: Vec<Option<ContenderTurn>> = participants.iter().map(|_| None).collect();
        let mut probes = Vec::new();
        let mut repeated = Vec::new();
        self.settle(&mut probes)?;
        for at in order {
            let participant = &participants[at];
            let turn = self.try_turn(number, participant, &mut probes, &mut repeated)?;
            match turn {
                Ok(turn) => turns[at] = Some(turn),
                Err(reason) => {
                    let reason = format!("{}: {reason}", participant.entry.name);
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
        for (participant, turn) in participants.iter_mut().zip(turns.into_iter().flatten()) {
            participant.latency += turn.latency;
            round
                .parts
                .insert(participant.entry.name.clone(), turn.part);
        }
        round.add_what_proxies_add(self.scenario.direct.as_deref());
        Ok(Ok(round))
    }

    /// Runs a turn until nothing disturbs it, in at most `tries` attempts. The inner error says what
    /// disturbed the last attempt.
    fn try_turn(
        &self,
        number: usize,
        participant: &Participant<'_>,
        probes: &mut Vec<WorkNs>,
        repeated: &mut Vec<String>,
    ) -> Result<Result<ContenderTurn, String>, String> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut turn = self.turn(number, participant)?;
            let after = self.probe()?;
            turn.part.work_ns = Around {
                before: probes.last().cloned().unwrap_or_default(),
                after: after.clone(),
            };
            probes.push(after);
            let Some(reason) = self.disturbance(&turn.cpu, probes) else {
                return Ok(Ok(turn));
            };
            if self.options.keep_disturbed {
                return Ok(Ok(turn));
            }
            probes.pop();
            if attempt >= self.scenario.disturbance.tries || !self.settle(probes)? {
                return Ok(Err(reason));
            }
            self.report_progress(&format!("{} again: {reason}", participant.entry.name));
            repeated.push(format!("{}: {reason}", participant.entry.name));
        }
    }

    /// Waits at most `patience_s` until the machine is undisturbed, as `speed::disturbance` defines it.
    /// Returns whether it is undisturbed at the end.
    fn settle(&self, probes: &mut Vec<WorkNs>) -> Result<bool, String> {
        let limits = &self.scenario.disturbance;
        let end = Instant::now() + Duration::from_secs_f64(limits.patience_s);
        loop {
            probes.push(self.probe()?);
            let fine = speed::disturbance(probes, limits).is_none();
            let late = Instant::now() > end || self.options.keep_disturbed;
            if probes.len() > 1 || !(fine || late) {
                probes.pop();
            }
            if fine || late {
                return Ok(fine);
            }
        }
    }

    fn turn(&self, number: usize, participant: &Participant<'_>) -> Result<ContenderTurn, String> {
        let turn = match self.scenario.measure {
            Measure::Load => self.bear_load(number, participant),
            Measure::FirstAnswer => self.answer_first(number, participant),
        };
        turn.map_err(|error| format!("{}: {error}", participant.entry.name))
    }

    fn answer_first(
        &self,
        number: usize,
        participant: &Participant<'_>,
    ) -> Result<ContenderTurn, String> {
        let entry = participant.entry;
        let begin = CpuReading::read_all(&[]);
        let running = self.start(participant)?;
        let load = self.scenario.load(entry, running.url.clone())?;
        let target = load.targets.into_iter().next().unwrap_or_default();
        let took = first::answer(&running, target)?;
        let cpu = begin.until(&CpuReading::read_all(&running.watched()));
        let took_ns = took.as_nanos() as u64;
        let shown = show::duration(took_ns as f64);
        self.report_progress(&format!("{} {}: {shown}", number + 1, entry.name));
        let mut latency = tally::histogram();
        latency.saturating_record(took_ns);
        Ok(ContenderTurn {
            part: Part::of_first_answer(took),
            latency,
            cpu,
        })
    }

    fn bear_load(
        &self,
        number: usize,
        participant: &Participant<'_>,
    ) -> Result<ContenderTurn, String> {
        let entry = participant.entry;
        let running = self.start(participant)?;
        let load = self.scenario.load(entry, running.url.clone())?;
        let before = running.memory().bytes;
        let setting = Setting {
            quiet: self.options.quiet,
            watched: running.watched(),
            title: format!("{}/{} {}", number + 1, self.scenario.rounds, entry.name),
            ..Setting::default()
        };
        let run = run::run(&load, &setting)?;
        running.check()?;
        let report = RunReport::new(&run);
        let memory = Growth {
            before,
            after: running.memory().bytes,
        };
        let figures = figures::of(&report, running.measured(), memory);
        self.report_progress(&format!(
            "{} {}: {}/s, p50 {}, p99 {}, errors {}",
            number + 1,
            entry.name,
            show::rate(report.answers_per_s),
            show::duration(report.latency.p50_us * 1e3),
            show::duration(report.latency.p99_us * 1e3),
            report.errors
        ));
        Ok(ContenderTurn {
            part: Part::new(figures, &report),
            latency: run.tally.latency,
            cpu: run.cpu,
        })
    }

    /// Pins this thread, which runs the client, to the load's cores, and starts a contender.
    fn start(&self, participant: &Participant<'_>) -> Result<RunningContender, String> {
        let mut cores = self.scenario.cores.clone();
        cores.extend(participant.entry.cores.clone());
        cores::pin(
            cores
                .get("load")
                .unwrap_or(&self.options.installation.cores),
        )?;
        RunningContender::set_up(
            &participant.contender,
            &participant.entry.set,
            &cores,
            &self.options.installation,
        )
    }

    /// Measures how many answers a second one contender gives in a closed loop.
    fn measure(
        &self,
        capacity: &CapacityShare,
        participants: &[Participant<'_>],
    ) -> Result<f64, String> {
        let participant = participants
            .iter()
            .find(|participant| participant.entry.name == capacity.of)
            .ok_or_else(|| format!("{} is not the name of a contender", capacity.of))?;
        let running = self.start(participant)?;
        let mut load = self.scenario.load(participant.entry, running.url.clone())?;
        load.arrivals = None;
        load.connections = capacity.connections;
        let title = format!("capacity of {}", capacity.of);
        let setting = Setting {
            quiet: self.options.quiet,
            title,
            ..Setting::default()
        };
        let report = RunReport::new(&run::run(&load, &setting)?);
        if report.answers_per_s < 1.0 || report.errors > 0 {
            return Err(format!("{}: its capacity cannot be measured", capacity.of));
        }
        self.report_progress(&format!(
            "capacity of {}: {}/s",
            capacity.of,
            show::rate(report.answers_per_s)
        ));
        Ok(report.answers_per_s)
    }

    /// Measures the speed of the cores that the scenario names, or of all allowed cores if it names none. No
    /// contender may run meanwhile.
    fn probe(&self) -> Result<WorkNs, String> {
        let named = self.scenario.named_cores();
        if named.is_empty() {
            speed::probe(&self.options.installation.cores)
        } else {
            speed::probe(&named)
        }
    }

    /// Returns what disturbed the finished turn: CPU time that others took, or a change of the machine's
    /// speed since the round began.
    fn disturbance(&self, cpu: &CpuUsage, probes: &[WorkNs]) -> Option<String> {
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

    fn report_progress(&self, text: &str) {
        if !self.options.quiet {
            eprintln!("{text}");
        }
    }
}
