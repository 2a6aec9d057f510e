//! Loads the functions of `--functions`. `serve` reads, checks and builds them before a thread for calls
//! starts. After the start, `serve` prints a sample call for each of the first functions. The bridge
//! registers the functions.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;

use nanofaas_core::spec::FunctionSpec;

use crate::config::{BackendKind, Config, reachable};
use crate::files::{self, BuildProgress, FilesError, FunctionFile};
use crate::sample::{self, SampleCall};

const SHOWN_MAX: usize = 20;

pub(super) struct Loaded {
    pub(super) file: FunctionFile,
    name: String,
    sample: SampleCall,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct LoadError(String);

/// Reads the files. Returns all faults of the functions together, with file, line and field.
pub(super) fn read(config: &Config) -> Result<Vec<Loaded>, FilesError> {
    let read = files::read(&config.functions)?;
    let mut faults = Vec::new();
    let mut samples: BTreeMap<_, BTreeMap<String, SampleCall>> = BTreeMap::new();
    let mut loaded = Vec::with_capacity(read.len());
    for file in read {
        for line in file.ignored() {
            tracing::warn!("{line}");
        }
        if let Err(found) =
            FunctionSpec::resolve(&file.draft, &config.defaults, super::platform(config))
        {
            faults.extend(found.iter().map(|fault| file.locate(fault)));
            continue;
        }
        let name = file.draft.name().unwrap_or_default().to_owned();
        let in_file = samples
            .entry(file.path.clone())
            .or_insert_with_key(|path| sample::of_file(path));
        let sample = in_file.get(&name).cloned().unwrap_or_default();
        loaded.push(Loaded { file, name, sample });
    }
    if faults.is_empty() {
        Ok(loaded)
    } else {
        Err(FilesError(faults))
    }
}

/// Runs each function's `local.build` if the backend runs functions on this machine.
pub(super) fn build(loaded: &[Loaded], config: &Config) -> Result<(), LoadError> {
    if config.backend != BackendKind::Local {
        return Ok(());
    }
    let mut report = |line: &str| tracing::info!("{line}");
    for one in loaded {
        let mut progress = if BuildProgress::has_terminal() {
            BuildProgress::Spinner
        } else {
            BuildProgress::Lines(&mut report)
        };
        files::build(&one.file.draft, &mut progress).map_err(|why| LoadError(why.to_string()))?;
    }
    Ok(())
}

/// Prints how to call the first `SHOWN_MAX` functions.
pub(super) fn show(listen: SocketAddr, loaded: &[Loaded]) {
    let listen = reachable(listen);
    let mut text = format!("\nnanofaas listens on http://{listen}\n");
    for one in loaded.iter().take(SHOWN_MAX) {
        text.push('\n');
        text.push_str(&sample::curl(listen, &one.name, &one.sample));
        text.push('\n');
    }
    if let Some(more) = loaded.len().checked_sub(SHOWN_MAX).filter(|more| *more > 0) {
        text.push_str(&format!("\n… and {more} more functions: nanofaas list\n"));
    }
    // The process that read our stdout may have closed it.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
