//! Simulates the six patterns, prints their table, and writes a figure of each into the folder that the
//! argument names: `cargo run --release -p nanofaas-simulate --example patterns -- docs/performance`

#![allow(clippy::print_stdout, reason = "the table is what it is run for")]

use std::path::PathBuf;

use nanofaas_simulate::{figure, patterns, simulate};

fn main() -> std::io::Result<()> {
    let into = std::env::args_os().nth(1).map(PathBuf::from);
    println!("pattern       made it  let in and failed  refused  made it with perfect knowledge");
    for pattern in patterns::patterns() {
        let report = simulate(&pattern.setup);
        let summary = &report.summary;
        println!(
            "{:<13} {:>7} {:>18} {:>8} {:>31}",
            pattern.name,
            summary.made_it,
            summary.let_in_and_failed(),
            summary.refused(),
            summary
                .made_it_with_perfect_knowledge
                .expect("sync calls only")
        );
        if let Some(into) = &into {
            let mut drawn = figure(&report);
            drawn.title = format!("{}: {}", pattern.name, pattern.about);
            drawn.columns = 2;
            let path = into.join(format!("pattern-{}.svg", pattern.name));
            std::fs::write(path, drawn.svg())?;
        }
    }
    Ok(())
}
