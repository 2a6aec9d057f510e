//! Evaluates a comparison: the figures of each round, medians, paired ratios, and whether goals were met.
//! This module measures nothing. A table, a page and JSON show the result.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::contender::Contender;
use crate::figures::{Figure, Figures, Spread};
use crate::goal::{Goal, GoalKind};
use crate::machine;
use crate::page;
use crate::report::{Latency, RunReport};
use crate::scenario::{ContenderEntry, Scenario};
use crate::speed::{Around, Differences, WorkNs};

#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) tool: &'static str,
    pub(crate) scenario: Scenario,
    pub(crate) machine: machine::MachineInfo,
    /// The commit of the repository. Uncommitted changes add `, changed`.
    pub(crate) commit: String,
    pub(crate) at: String,
    /// The measured capacity of the contender that the scenario names, in answers a second.
    pub(crate) capacity_per_s: Option<f64>,
    pub(crate) takers: Vec<ContenderSummary>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) verdicts: Vec<GoalVerdict>,
    /// Differences of the machine's speed in the kept rounds.
    pub(crate) speed: Option<Differences>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ContenderSummary {
    pub(crate) name: String,
    pub(crate) about: String,
    /// The latencies of all kept rounds together.
    pub(crate) latency: Latency,
    pub(crate) figures: BTreeMap<Figure, Spread>,
    /// This contender's figure divided by the baseline's figure of the same round.
    pub(crate) ratios: BTreeMap<Figure, Spread>,
}

impl ContenderSummary {
    pub(crate) fn new(
        entry: &ContenderEntry,
        contender: &Contender,
        latency: &Histogram<u64>,
    ) -> Self {
        Self {
            name: entry.name.clone(),
            about: contender.about.clone(),
            latency: Latency::new(latency),
            figures: BTreeMap::new(),
            ratios: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Round {
    /// The parts of the round, by the names of the contenders.
    pub(crate) parts: BTreeMap<String, Part>,
    /// The turns that were repeated, each with the reason.
    pub(crate) repeated: Vec<String>,
}

/// The figures of one contender in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) figures: Figures,
    /// The CPU use of each process, of the load generator and of everything else, in cores.
    pub(crate) cpu: BTreeMap<String, f64>,
    pub(crate) statuses: BTreeMap<u16, u64>,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// The machine's speed, measured before and after the turn.
    pub(crate) work_ns: Around,
}

impl Part {
    pub(crate) fn new(figures: Figures, report: &RunReport) -> Self {
        let watched = report.cpu.watched.iter();
        let mut cpu: BTreeMap<String, f64> = watched
            .map(|process| (process.name.clone(), process.cores))
            .collect();
        cpu.insert("load generator".to_owned(), report.cpu.load_cores);
        cpu.insert("everything else".to_owned(), report.cpu.foreign_cores);
        Self {
            figures,
            cpu,
            statuses: report.statuses.clone(),
            faults: report.faults.clone(),
            work_ns: Around::default(),
        }
    }

    /// Makes the part for a turn that measured only the first answer.
    pub(crate) fn of_first_answer(took: Duration) -> Self {
        Self {
            figures: Figures::from([(Figure::FirstAnswerUs, took.as_secs_f64() * 1e6)]),
            cpu: BTreeMap::new(),
            statuses: BTreeMap::new(),
            faults: BTreeMap::new(),
            work_ns: Around::default(),
        }
    }
}

impl Round {
    /// Adds `added_p50_us` to all contenders but the direct one. The figure is the contender's median latency
    /// minus the direct one's in this round.
    pub(crate) fn add_what_proxies_add(&mut self, direct: Option<&str>) {
        let Some(direct) = direct else {
            return;
        };
        let Some(without) = self.figure(direct, Figure::P50Us) else {
            return;
        };
        for (_, part) in self.parts.iter_mut().filter(|(name, _)| *name != direct) {
            if let Some(with) = part.figures.get(&Figure::P50Us).copied() {
                part.figures.insert(Figure::AddedP50Us, with - without);
            }
        }
    }

    fn probes(&self) -> Vec<&WorkNs> {
        let around = self.parts.values().map(|part| &part.work_ns);
        around
            .flat_map(|around| [&around.before, &around.after])
            .collect()
    }

    pub(crate) fn figure(&self, contender: &str, figure: Figure) -> Option<f64> {
        self.parts.get(contender)?.figures.get(&figure).copied()
    }
}

/// A round that is not counted.
#[derive(Debug, Serialize)]
pub(crate) struct Dropped {
    pub(crate) round: usize,
    pub(crate) reason: String,
}

#[derive(Debug, Serialize)]
pub(crate) struct GoalVerdict {
    pub(crate) goal: Goal,
    /// The spread of the value over all rounds; `None` if the figure was not measured.
    pub(crate) found: Option<Spread>,
    /// The value of each round in which the figure was measured.
    pub(crate) rounds: Vec<f64>,
    pub(crate) met: bool,
    pub(crate) reached: bool,
}

impl Comparison {
    pub(crate) fn begin(scenario: &Scenario, capacity_per_s: Option<f64>, root: &Path) -> Self {
        Self {
            tool: concat!("nanofaas-loadtest ", env!("CARGO_PKG_VERSION")),
            scenario: scenario.clone(),
            machine: machine::MachineInfo::read(),
            commit: commit(root),
            at: page::now(),
            capacity_per_s,
            takers: Vec::new(),
            rounds: Vec::new(),
            dropped: Vec::new(),
            verdicts: Vec::new(),
            speed: None,
        }
    }

    /// Computes medians, ratios, verdicts and differences of speed from the rounds.
    pub(crate) fn conclude(&mut self) {
        let rounds = &self.rounds;
        let baseline = &self.scenario.baseline;
        for taker in &mut self.takers {
            let name = taker.name.as_str();
            for figure in rounds.iter().flat_map(|round| {
                let part = round.parts.get(name);
                part.into_iter()
                    .flat_map(|part| part.figures.keys().copied())
            }) {
                let values = rounds.iter().filter_map(|round| round.figure(name, figure));
                taker
                    .figures
                    .extend(Spread::of(values).map(|spread| (figure, spread)));
                let ratios = rounds.iter().filter_map(|round| {
                    Some(round.figure(name, figure)? / round.figure(baseline, figure)?)
                });
                taker
                    .ratios
                    .extend(Spread::of(ratios).map(|spread| (figure, spread)));
            }
        }
        let goals = self.scenario.goals.iter();
        self.verdicts = goals.map(|goal| self.judge(goal)).collect();
        let probes: Vec<_> = self.rounds.iter().map(Round::probes).collect();
        self.speed = Differences::of(&probes);
    }

    fn judge(&self, goal: &Goal) -> GoalVerdict {
        let against = goal.against.as_ref().unwrap_or(&self.scenario.baseline);
        let values = self.rounds.iter().filter_map(|round| {
            let own = round.figure(&goal.contender, goal.figure)?;
            Some(match goal.kind {
                GoalKind::Value => own,
                GoalKind::Ratio => own / round.figure(against, goal.figure)?,
                GoalKind::Difference => own - round.figure(against, goal.figure)?,
            })
        });
        let rounds: Vec<f64> = values.collect();
        let found = Spread::of(rounds.iter().copied());
        let holds =
            |limit: crate::goal::Limit| found.is_some_and(|found| limit.holds(found.median));
        GoalVerdict {
            goal: goal.clone(),
            found,
            rounds,
            met: holds(goal.must),
            reached: goal.reach.is_some_and(holds),
        }
    }

    /// Returns what a reader must know before trusting the figures.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let (kept, wanted) = (self.rounds.len(), self.scenario.rounds);
        if kept < wanted {
            warnings.push(format!(
                "only {kept} of {wanted} rounds count: the machine was disturbed too often"
            ));
        }
        if let Some(last) = self.dropped.last() {
            warnings.push(format!(
                "{} rounds were disturbed and dropped; the last: {}",
                self.dropped.len(),
                last.reason
            ));
        }
        for taker in &self.takers {
            let median = |figure| {
                taker
                    .figures
                    .get(&figure)
                    .map_or(0.0, |spread| spread.median)
            };
            if median(Figure::LoadCores) > 0.9 {
                warnings.push(format!(
                    "{}: the load generator was busy for {:.0} % of a core and may be the limit",
                    taker.name,
                    median(Figure::LoadCores) * 100.0
                ));
            }
            if median(Figure::Errors) > 0.0 {
                warnings.push(format!(
                    "{}: {:.0} requests failed in a round",
                    taker.name,
                    median(Figure::Errors)
                ));
            }
        }
        warnings
    }
}

fn commit(root: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (
        git(&["rev-parse", "--short", "HEAD"]),
        git(&["status", "--porcelain"]),
    ) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit}, changed"),
        _ => "unknown".to_owned(),
    }
}
