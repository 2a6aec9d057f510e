//! A trace says which function was called when, and how long it ran. Traces are read from CSV, or generated
//! like the public Azure Functions traces. A trace names no server. The command `run` replays a trace, and
//! the command `trace` writes one.

use std::collections::HashMap;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution, Exp, LogNormal};

/// The first line of every trace.
const TITLE: [&str; 3] = ["function", "start_ms", "duration_ms"];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TraceRow {
    pub(crate) function: u32,
    pub(crate) start_ms: f64,
    pub(crate) duration_ms: f32,
}

/// The names of the functions, and the rows in the order of their start.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TraceRows {
    pub(crate) names: Vec<String>,
    pub(crate) rows: Vec<TraceRow>,
}

impl TraceRows {
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the trace {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        if reader.headers().is_ok_and(|title| *title != TITLE[..]) {
            return Err(format!("the first line of a trace is {}", TITLE.join(",")));
        }
        let mut trace = Self::default();
        let mut known = HashMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| error.to_string())?;
            let line = record.position().map_or(0, csv::Position::line);
            let (name, start_ms, duration_ms) = record
                .deserialize::<(String, f64, f32)>(None)
                .map_err(|error| format!("line {line}: {error}"))?;
            if name.is_empty() || !(start_ms.is_finite() && start_ms >= 0.0 && duration_ms >= 0.0) {
                return Err(format!(
                    "line {line}: a row is a name and two numbers from 0 on"
                ));
            }
            let function = *known.entry(name).or_insert_with_key(|name| {
                trace.names.push(name.clone());
                trace.names.len() as u32 - 1
            });
            trace.rows.push(TraceRow {
                function,
                start_ms,
                duration_ms,
            });
        }
        trace.rows.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
        if trace.rows.is_empty() {
            return Err("the trace has no rows".to_owned());
        }
        Ok(trace)
    }

    pub(crate) fn write(&self, path: &Path) -> csv::Result<()> {
        let mut writer = csv::Writer::from_path(path)?;
        writer.write_record(TITLE)?;
        for row in &self.rows {
            let [start, duration] =
                [row.start_ms, row.duration_ms.into()].map(|ms| format!("{ms:.3}"));
            writer.write_record([&self.names[row.function as usize], &start, &duration])?;
        }
        Ok(writer.flush()?)
    }
}

/// The parameters of a generated trace.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TraceShape {
    /// The number of functions
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) functions: u32,
    /// The length of the trace, in seconds
    #[arg(long, default_value_t = 60.0)]
    pub(crate) seconds: f64,
    /// Calls a second of all functions together, on average
    #[arg(long, default_value_t = 100.0)]
    pub(crate) rate: f64,
    /// How unequal the functions are: the n-th function is called in proportion to n^-POPULARITY
    #[arg(long, default_value_t = 1.5)]
    pub(crate) popularity: f64,
    /// The share of functions that are called in bursts. Of the others, half have timers and half are called
    /// at random times
    #[arg(long, default_value_t = 0.4)]
    pub(crate) bursty: f64,
    /// The median of all functions' median durations, in milliseconds
    #[arg(long, default_value_t = 100.0)]
    pub(crate) duration_ms: f64,
    /// Another seed gives another trace; the same seed gives the same trace
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// The largest expected number of rows of a generated trace. It is limited because all rows are held in
/// memory.
const ROWS_MAX: f64 = 20_000_000.0;

impl TraceShape {
    /// Generates a trace. Popularity follows a power law. Some functions are called by timers, some
    /// at random times, and some in bursts with pauses. A function's durations are log-normal
    /// around its own median, and these medians are log-normal, too.
    pub(crate) fn make(&self) -> Result<TraceRows, String> {
        let sound = self.seconds > 0.0
            && self.rate > 0.0
            && (0.0..=10.0).contains(&self.popularity)
            && (0.0..=1.0).contains(&self.bursty)
            && self.duration_ms > 0.0;
        if !sound || self.seconds * self.rate > ROWS_MAX {
            return Err(
                "seconds, rate and duration are above 0, popularity 0 to 10, bursty 0 to 1, and a \
                 trace has at most 20 million calls"
                    .to_owned(),
            );
        }
        let mut dice = SmallRng::seed_from_u64(self.seed);
        let weights: Vec<f64> = (1..=self.functions)
            .map(|rank| f64::from(rank).powf(-self.popularity))
            .collect();
        let total: f64 = weights.iter().sum();
        let medians = log_normal(self.duration_ms, 1.5)?;
        let mut rows = Vec::new();
        for (function, weight) in (0_u32..).zip(&weights) {
            let rate = self.rate * weight / total;
            let durations = log_normal(medians.sample(&mut dice).clamp(0.1, 600_000.0), 0.7)?;
            for start_ms in self.starts(rate, &mut dice)? {
                let duration_ms = durations.sample(&mut dice).min(600_000.0) as f32;
                rows.push(TraceRow {
                    function,
                    start_ms,
                    duration_ms,
                });
            }
        }
        rows.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
        let names = (0..self.functions)
            .map(|number| format!("f{number}"))
            .collect();
        Ok(TraceRows { names, rows })
    }

    /// Draws the times of the calls of one function, in milliseconds.
    fn starts(&self, rate: f64, dice: &mut SmallRng) -> Result<Vec<f64>, String> {
        let end_ms = self.seconds * 1000.0;
        let exponential = |mean_ms: f64| Exp::new(1.0 / mean_ms).map_err(|error| error.to_string());
        let mut starts = Vec::new();
        let kind: f64 = dice.random();
        if kind < self.bursty {
            // On average a burst lasts 2 s and the pause after it 18 s, so the rate during a burst
            // is ten times the mean.
            let (on, off) = (exponential(2_000.0)?, exponential(18_000.0)?);
            let gap = exponential(100.0 / rate)?;
            let mut at = if dice.random::<f64>() < 0.1 {
                0.0
            } else {
                off.sample(dice)
            };
            while at < end_ms {
                let stop = at + on.sample(dice);
                let mut call = at + gap.sample(dice);
                while call < stop.min(end_ms) {
                    starts.push(call);
                    call += gap.sample(dice);
                }
                at = stop + off.sample(dice);
            }
        } else if kind < self.bursty + (1.0 - self.bursty) / 2.0 {
            // A timer calls the function at equal gaps from a random phase.
            let gap = 1000.0 / rate;
            let mut at = dice.random::<f64>() * gap;
            while at < end_ms {
                starts.push(at);
                at += gap;
            }
        } else {
            let gap = exponential(1000.0 / rate)?;
            let mut at = gap.sample(dice);
            while at < end_ms {
                starts.push(at);
                at += gap.sample(dice);
            }
        }
        Ok(starts)
    }
}

fn log_normal(median: f64, sigma: f64) -> Result<impl Distribution<f64>, String> {
    LogNormal::new(median.ln(), sigma).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> TraceShape {
        TraceShape {
            functions: 200,
            seconds: 600.0,
            rate: 50.0,
            popularity: 1.5,
            bursty: 0.4,
            duration_ms: 100.0,
            seed: 7,
        }
    }

    #[test]
    fn a_trace_survives_its_file() {
        let made = shape().make().expect("a trace");
        let file = std::env::temp_dir().join(format!("lt-trace-{}.csv", std::process::id()));
        made.write(&file).expect("it can be written");
        let read = TraceRows::read(&file).expect("a trace");
        std::fs::remove_file(file).expect("it is there");
        assert_eq!(read.rows.len(), made.rows.len());
        let name =
            |rows: &TraceRows, at: usize| rows.names[rows.rows[at].function as usize].clone();
        assert_eq!(name(&read, 100), name(&made, 100));
        assert!(read.rows.is_sorted_by(|a, b| a.start_ms <= b.start_ms));
    }

    #[test]
    fn seeds_decide_and_the_tail_is_heavy() {
        let made = shape().make().expect("a trace");
        assert_eq!(made, shape().make().expect("a trace"));
        assert_ne!(
            made,
            TraceShape { seed: 8, ..shape() }.make().expect("a trace")
        );
        let calls = made.rows.len() as f64;
        assert!((12_000.0..60_000.0).contains(&calls), "{calls}");
        let top = made.rows.iter().filter(|row| row.function < 10).count() as f64;
        assert!(
            top / calls > 0.6,
            "the ten most popular make {top} of {calls}"
        );
        let mut durations: Vec<f32> = made.rows.iter().map(|row| row.duration_ms).collect();
        durations.sort_by(f32::total_cmp);
        let (median, high) = (
            durations[durations.len() / 2],
            durations[durations.len() * 99 / 100],
        );
        assert!(high > 5.0 * median, "{median} {high}");
    }

    #[test]
    fn bursts_are_bursts() {
        let one = TraceShape {
            functions: 1,
            ..shape()
        };
        // The variance of the number of calls per second, divided by its mean, is 1 for a Poisson process and
        // far above 1 with bursts.
        let dispersion = |shape: &TraceShape| {
            let rows = shape.make().expect("a trace").rows;
            let mut seconds = vec![0.0; shape.seconds as usize];
            for row in &rows {
                seconds[(row.start_ms / 1000.0) as usize] += 1.0;
            }
            let mean = seconds.iter().sum::<f64>() / shape.seconds;
            seconds.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / shape.seconds / mean
        };
        let bursty = dispersion(&TraceShape {
            bursty: 1.0,
            ..one.clone()
        });
        let even = dispersion(&TraceShape { bursty: 0.0, ..one });
        assert!(bursty > 20.0 && even < 2.0, "{bursty} {even}");
    }

    #[test]
    fn broken_traces_name_the_line() {
        for text in [
            "",
            "function,start,duration\n",
            "function,start_ms,duration_ms\n",
        ] {
            assert!(TraceRows::parse(text).is_err(), "{text:?}");
        }
        for row in ["f", "f,1", "f,x,1", "f,-1,1", ",1,1", "f,1,1,1", "f,nan,1"] {
            let error =
                TraceRows::parse(&format!("{}\nf,1,1\n{row}\n", TITLE.join(","))).expect_err(row);
            assert!(
                error.contains("line 3") || error.contains("line: 3"),
                "{error}"
            );
        }
    }
}
