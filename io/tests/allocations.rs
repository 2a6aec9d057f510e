//! Counts the heap allocations of warm calls in the whole process, and fails if there are more than a few.
//! The calls go over sockets to a real io thread with the inline scheduler. The test plays client, bridge and
//! pod, and allocates nothing while it counts. `./ci counts` runs it.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]
#![cfg(target_os = "linux")]

#[path = "allocations/pod.rs"]
mod pod;

#[path = "allocations/plane.rs"]
mod plane;

#[path = "allocations/wire.rs"]
mod wire;

use nanofaas_io::start::DriverChoice;

use plane::ControlPlaneThreads;
use wire::WireClient;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The largest number of allocations that all calls of a case may make together. A few buffers may be
/// allocated when more messages overlap than before. One allocation in each call would make thousands.
const CEILING: u64 = 16;
const CALLS: usize = 2000;
/// The number of calls of a case with the LOCAL function. With io_uring, so many calls take long enough that
/// the watchdog of the io threads (`shard/watchdog.rs`) checks the thread several times.
const LOCAL_CALLS: usize = 50_000;
/// The number of calls before all cases. The circular buffer of records of plain calls has 4096 places, so
/// these calls fill it.
const FIRST_CALLS: usize = 10_000;
/// The calls of a case before the count starts. They cause each allocation that is made only one time. In
/// half of them the pod answers only when all connections' requests are there, so all connections and buffers
/// are in use.
const WARM_UP_CALLS: usize = 1000;

#[test]
fn a_warm_call_allocates_nothing() {
    // All cases are in one test, because the process has only one counter.
    for driver in [DriverChoice::Epoll, DriverChoice::Uring] {
        let Some(plane) = ControlPlaneThreads::start(driver) else {
            eprintln!("no {driver:?} on this machine: not counted");
            continue;
        };
        WireClient::new(plane.listen, "local", 16).call(FIRST_CALLS);
        let ways = [
            ("local", ":invoke"),
            ("tcp", ":invoke"),
            ("unix", ":invoke"),
            ("tcp", "/fn/"),
            ("unix", "/fn/"),
        ];
        for (function, way) in ways {
            for connections in [1, 16] {
                let mut client = match way {
                    ":invoke" => WireClient::new(plane.listen, function, connections),
                    _ => {
                        WireClient::to(plane.listen, &format!("/fn/{function}/invoke"), connections)
                    }
                };
                if function != "local" {
                    pod::MEETING.of(connections);
                    client.call(WARM_UP_CALLS / 2);
                    pod::MEETING.of(1);
                }
                client.call(WARM_UP_CALLS / 2);
                let calls = if function == "local" {
                    LOCAL_CALLS
                } else {
                    CALLS
                };
                let case = format!("{driver:?}, {function} by {way}, {connections} connections");
                count(&case, calls, || client.call(calls));
            }
        }
        plane.stop();
    }
}

fn count(case: &str, calls: usize, call: impl FnOnce()) {
    let profiler = dhat::Profiler::builder()
        .file_name(std::env::temp_dir().join("nanofaas-allocations.json"))
        .testing()
        .build();
    call();
    let blocks = dhat::HeapStats::get().total_blocks;
    println!("{case}: {blocks} allocations in {calls} calls");
    // If this macro of `dhat` fails, it writes the counts into a file.
    dhat::assert_eq!(
        blocks.saturating_sub(CEILING),
        0,
        "{case}: {blocks} allocations in {calls} warm calls, and {CEILING} are allowed. The file \
         named above says where each was made (view it with dh_view.html of valgrind, or search it \
         for nanofaas_io). Take the buffer from Runtime::buffers, or keep it in the connection. If \
         the allocation is worth it, raise CEILING in io/tests/allocations.rs in the same commit \
         and say why."
    );
    drop(profiler);
}
