//! Reads and sets the cores on which a thread may run. Threads and processes that a thread starts inherit its
//! cores. This module pins only the calling thread.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Pins the calling thread, and everything that it starts from now on, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<(), String> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)
            .map_err(|_| format!("core {core}: Linux knows no such number"))?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).map_err(|error| {
        format!(
            "cannot run on cores {cores:?} ({error}); this process may use {:?}",
            allowed()
        )
    })
}

/// Returns the cores that the calling thread may use.
pub(crate) fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .collect()
}

/// Parses a list of cores, like `0`, `0,2` or `0-3`.
pub(crate) fn parse(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || format!("{text:?} names no cores; write them like 0, or 0,2, or 0-3");
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= CpuSet::count() {
            return Err(wrong());
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_read() {
        assert_eq!(parse("0,2-4"), Ok(vec![0, 2, 3, 4]));
        for text in ["", "a", "3-1", "0,,1", "100000"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_thread_stays_where_it_is_put() {
        let first = allowed()[0];
        std::thread::spawn(move || {
            pin(&[first]).expect("an allowed core");
            assert_eq!(allowed(), [first]);
        })
        .join()
        .expect("the thread ends well");
    }
}
