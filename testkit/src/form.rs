//! Reads the form of this test run from variables that `./ci blackbox` sets: the scheduler, the number of io
//! threads and the io driver of its control planes.

use std::net::SocketAddr;

/// Returns true if the scheduler of this test run is `pinned`, and false if it is `inline`.
pub fn is_pinned() -> bool {
    match std::env::var("NANOFAAS_TEST_SCHEDULER").as_deref() {
        Ok("pinned") => true,
        Ok("inline") | Err(_) => false,
        Ok(other) => panic!("NANOFAAS_TEST_SCHEDULER must be inline or pinned, is {other}"),
    }
}

/// Returns the number of io threads of this test run. If the run does not set it, the number is two with a
/// pinned scheduler and one with an inline scheduler.
pub fn io_threads() -> usize {
    let Ok(asked) = std::env::var("NANOFAAS_TEST_IO_THREADS") else {
        return if is_pinned() { 2 } else { 1 };
    };
    let threads = asked.parse().ok();
    let Some(threads) = threads.filter(|threads| *threads == 1 || is_pinned()) else {
        panic!("NANOFAAS_TEST_IO_THREADS must be a number, and 1 where the scheduler is inline");
    };
    threads
}

/// Returns the io driver of this test run: `auto`, `uring` or `epoll`.
pub fn io_driver() -> String {
    std::env::var("NANOFAAS_TEST_IO_DRIVER").unwrap_or_else(|_| "auto".to_owned())
}

/// Returns the flags for free ports and for the form of this test run. A test's own flags follow them.
pub(crate) fn flags() -> Vec<String> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    flags_at(any, any)
}

pub(crate) fn flags_at(listen: SocketAddr, management: SocketAddr) -> Vec<String> {
    let (listen, management) = (listen.to_string(), management.to_string());
    let mut flags = vec!["serve", "--listen", &listen, "--management", &management];
    let scheduler = if is_pinned() { "pinned" } else { "inline" };
    let threads = io_threads().to_string();
    flags.extend(["--io-threads", &threads, "--scheduler", scheduler]);
    let mut flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
    flags.extend(["--io-driver".to_owned(), io_driver()]);
    flags
}
