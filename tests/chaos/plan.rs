//! Draws the operations of a run from the seed, as endless lists: the changes to functions, and the
//! operations of each client. The plan depends on no clock and no state of the plane, so a seed replays the
//! same operations. `registrar` and `clients` execute the plan. The plan names an execution by an index, such
//! as "the third last execution", and `clients` finds that execution.

use nanofaas_testkit::rng::SeededRng;

/// The largest number of functions. `name` gives their names.
pub(crate) const FUNCTIONS: usize = 8;
/// The longest `timeoutMs` of all functions, and so the longest time that an attempt may take.
pub(crate) const TIMEOUT_MS_MAX: u64 = 1500;
/// The number of idempotency keys that a function's calls use at the same time.
const KEYS: u64 = 6;

pub(crate) fn name(function: usize) -> String {
    format!("chaos-{function}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FunctionMode {
    Warm,
    Job,
    Pool,
    Local,
}

impl FunctionMode {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "WARM",
            Self::Job => "JOB",
            Self::Pool => "POOL",
            Self::Local => "LOCAL",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolEndpoint {
    Tcp,
    Unix,
    /// This endpoint and `RudeUnix` obey `Act::Unasked`: they send answers without a request.
    RudeTcp,
    RudeUnix,
    /// This endpoint refuses connections.
    Closed,
}

#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) mode: FunctionMode,
    pub(crate) endpoint: PoolEndpoint,
    /// True if the program of a WARM or JOB function fails at its start.
    pub(crate) broken: bool,
    pub(crate) concurrency: u64,
    pub(crate) queue_size: u64,
    pub(crate) timeout_ms: u64,
    pub(crate) max_retries: u64,
    pub(crate) retry_on: Vec<&'static str>,
    pub(crate) min_replicas: u64,
    /// A field of the pod's shape. A change of this number replaces the pods.
    pub(crate) shape: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum PlannedChange {
    Register(Spec),
    Replace(Spec),
    Remove,
    Scale(u64),
}

/// What a pod does in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Echo,
    Slow,
    Fail,
    Late,
    Die,
    Reset,
    Half,
    Garbage,
    NotStarted,
    Chunked,
    Close,
    Large,
    Unasked,
}

const ACTS: &[(u64, Act)] = &[
    (30, Act::Echo),
    (20, Act::Slow),
    (16, Act::Fail),
    (2, Act::Late),
    (3, Act::Die),
    (3, Act::Reset),
    (3, Act::Half),
    (3, Act::Garbage),
    (8, Act::NotStarted),
    (6, Act::Chunked),
    (4, Act::Close),
    (6, Act::Large),
    (6, Act::Unasked),
];

impl Act {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Slow => "slow",
            Self::Fail => "fail",
            Self::Late => "late",
            Self::Die => "die",
            Self::Reset => "reset",
            Self::Half => "half",
            Self::Garbage => "garbage",
            Self::NotStarted => "not-started",
            Self::Chunked => "chunked",
            Self::Close => "close",
            Self::Large => "large",
            Self::Unasked => "unasked",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let named = |(_, act): &&(u64, Self)| act.as_str() == text;
        ACTS.iter().find(named).map(|(_, act)| *act)
    }
}

/// The point of a call at which the client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientLeave {
    /// After this percentage of the request's bytes.
    InRequest(u64),
    /// This many milliseconds after the request.
    Waiting(u64),
    /// After the request, which ends with a FIN. The client reads the answer if the plane sends one.
    HalfClosed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Invoke,
    Enqueue,
    /// A call with the idempotency key of this number. If `other` is true, its body differs from that of most
    /// calls with this key.
    Keyed {
        key: u64,
        enqueue: bool,
        other: bool,
    },
    PreferAsync,
    PreferWait,
    Leave(ClientLeave),
}

/// A call of a client, with what the pods do in it.
#[derive(Clone, Debug)]
pub(crate) struct PlannedCall {
    pub(crate) function: usize,
    pub(crate) kind: Kind,
    /// What the pod does in each attempt. The last entry also applies to all further attempts.
    pub(crate) acts: Vec<Act>,
    pub(crate) raw: bool,
    /// The number of additional bytes in the body.
    pub(crate) pad: u64,
    pub(crate) timeout_ms: Option<u64>,
}

/// `back` counts back from the latest known execution.
#[derive(Clone, Debug)]
pub(crate) enum ClientStep {
    Call(PlannedCall),
    Cancel { back: u64 },
    Status { back: u64, wait_ms: u64 },
    Output { back: u64 },
    Show { function: usize },
}

/// Draws changes, each to one of `functions`.
pub(crate) struct Changes {
    rng: SeededRng,
    functions: Vec<usize>,
}

impl Changes {
    pub(crate) fn new(rng: SeededRng, functions: Vec<usize>) -> Self {
        Self { rng, functions }
    }

    /// Returns a function, the next change to it, and the pause after this change in milliseconds.
    pub(crate) fn next(&mut self) -> (usize, PlannedChange, u64) {
        let rng = &mut self.rng;
        let function = self.functions[rng.below(self.functions.len() as u64) as usize];
        let change = match rng.weighted(&[(30, 0), (35, 1), (22, 2), (13, 3)]) {
            0 => PlannedChange::Register(spec(rng)),
            1 => PlannedChange::Replace(spec(rng)),
            2 => PlannedChange::Remove,
            _ => PlannedChange::Scale(rng.below(4)),
        };
        // With a pause of 0, the next change may follow a removal at once. During the other pauses, calls
        // progress.
        let pause = rng.weighted(&[(40, 0), (28, 20), (20, 100), (10, 400), (2, 2000)]);
        (function, change, pause)
    }
}

fn spec(rng: &mut SeededRng) -> Spec {
    let mode = rng.weighted(&[
        (50, FunctionMode::Pool),
        (25, FunctionMode::Warm),
        (12, FunctionMode::Job),
        (13, FunctionMode::Local),
    ]);
    let endpoint = rng.weighted(&[
        (35, PoolEndpoint::Tcp),
        (25, PoolEndpoint::Unix),
        (15, PoolEndpoint::RudeTcp),
        (10, PoolEndpoint::RudeUnix),
        (15, PoolEndpoint::Closed),
    ]);
    let all = ["POD", "TIMEOUT", "ERROR"];
    let retry_on = all.into_iter().filter(|_| rng.chance(60)).collect();
    Spec {
        mode,
        endpoint,
        broken: rng.chance(15),
        concurrency: rng.weighted(&[(40, 1), (30, 2), (20, 4), (10, 32)]),
        queue_size: rng.weighted(&[(20, 1), (40, 10), (40, 100)]),
        timeout_ms: rng.between(300, TIMEOUT_MS_MAX),
        max_retries: rng.weighted(&[(15, 0), (25, 1), (30, 3), (30, 10)]),
        retry_on,
        min_replicas: rng.below(3),
        shape: rng.below(2),
    }
}

pub(crate) struct Steps {
    rng: SeededRng,
}

impl Steps {
    pub(crate) fn new(rng: SeededRng) -> Self {
        Self { rng }
    }

    pub(crate) fn next(&mut self) -> ClientStep {
        let rng = &mut self.rng;
        match rng.weighted(&[(84, 0), (5, 1), (6, 2), (2, 3), (3, 4)]) {
            0 => ClientStep::Call(call(rng)),
            1 => ClientStep::Cancel {
                back: rng.below(20),
            },
            2 => ClientStep::Status {
                back: rng.below(200),
                wait_ms: rng.weighted(&[(50, 0), (50, 50)]),
            },
            3 => ClientStep::Output {
                back: rng.below(200),
            },
            _ => ClientStep::Show {
                function: rng.below(FUNCTIONS as u64) as usize,
            },
        }
    }
}

fn call(rng: &mut SeededRng) -> PlannedCall {
    let keyed = Kind::Keyed {
        key: rng.below(KEYS),
        enqueue: rng.chance(40),
        other: rng.chance(10),
    };
    let leave = match rng.below(3) {
        0 => ClientLeave::InRequest(rng.below(100)),
        1 => ClientLeave::Waiting(rng.weighted(&[(50, 0), (30, 3), (20, 40)])),
        _ => ClientLeave::HalfClosed,
    };
    let kind = rng.weighted(&[
        (45, Kind::Invoke),
        (22, Kind::Enqueue),
        (12, keyed),
        (5, Kind::PreferAsync),
        (4, Kind::PreferWait),
        (12, Kind::Leave(leave)),
    ]);
    let count = rng.between(1, 4);
    PlannedCall {
        function: rng.below(FUNCTIONS as u64) as usize,
        kind,
        acts: (0..count).map(|_| rng.weighted(ACTS)).collect(),
        raw: rng.chance(10),
        pad: rng.weighted(&[(70, 0), (20, 2000), (8, 20_000), (2, 140_000)]),
        timeout_ms: rng.chance(20).then(|| rng.between(20, 800)),
    }
}
