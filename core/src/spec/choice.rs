//! Defines the types of the fields whose values are names from a fixed list. The types are small and `Copy`,
//! because calls read them often. Each value is written as its canonical name; an execution mode is written a
//! second time, as it was given.

use std::fmt;

use serde::{Serialize, Serializer};

/// How a function's calls are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExecutionMode {
    /// A pod or process of its own for each attempt of a call.
    #[default]
    Job,
    /// Pods that the platform keeps and reuses.
    Warm,
    /// An endpoint that runs outside the platform.
    Pool,
    /// An echo inside the control plane.
    Local,
}

impl ExecutionMode {
    /// All accepted names: the canonical names first, then the aliases.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("JOB", Self::Job),
        ("WARM", Self::Warm),
        ("POOL", Self::Pool),
        ("LOCAL", Self::Local),
        ("REMOTE", Self::Job),
        ("DEPLOYMENT", Self::Warm),
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Job => "JOB",
            Self::Warm => "WARM",
            Self::Pool => "POOL",
            Self::Local => "LOCAL",
        }
    }

    /// Returns whether a bridge has to run pods or processes for this mode.
    pub const fn has_pods(self) -> bool {
        matches!(self, Self::Job | Self::Warm)
    }
}

/// An execution mode with the name that the client gave, which may be an alias. The client reads back the
/// name that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenMode {
    name: &'static str,
    pub mode: ExecutionMode,
}

impl GivenMode {
    /// The same names as `ExecutionMode::NAMES`.
    pub const NAMES: [(&'static str, Self); ExecutionMode::NAMES.len()] = {
        let mut names = [("", Self::new("JOB", ExecutionMode::Job)); ExecutionMode::NAMES.len()];
        let mut at = 0;
        while at < names.len() {
            let (name, mode) = ExecutionMode::NAMES[at];
            names[at] = (name, Self::new(name, mode));
            at += 1;
        }
        names
    };

    const fn new(name: &'static str, mode: ExecutionMode) -> Self {
        Self { name, mode }
    }
}

impl Default for GivenMode {
    fn default() -> Self {
        let mode = ExecutionMode::default();
        Self::new(mode.as_str(), mode)
    }
}

impl Serialize for GivenMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl fmt::Display for ExecutionMode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// How a pod's watchdog passes calls to its program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RuntimeMode {
    #[default]
    Http,
    Stdio,
    /// The program reads its input from one file and writes its output to another.
    File,
}

impl RuntimeMode {
    pub const NAMES: [(&'static str, Self); 3] = [
        ("HTTP", Self::Http),
        ("STDIO", Self::Stdio),
        ("FILE", Self::File),
    ];

    /// Returns the value of the variable `EXECUTION_MODE` in a pod.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Stdio => "STDIO",
            Self::File => "FILE",
        }
    }
}

/// When a node pulls a function's image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum ImagePullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    pub const NAMES: [(&'static str, Self); 3] = [
        ("IfNotPresent", Self::IfNotPresent),
        ("Always", Self::Always),
        ("Never", Self::Never),
    ];
}

/// What a function's pods may do to their node, in the terms of Kubernetes' Pod Security Standards. A process
/// of the local backend always has the rights of the control plane's user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PodSecurity {
    /// The pod does not run as root, has no capabilities, and cannot gain rights.
    #[default]
    Restricted,
    /// The pod runs as the image's user, even as root, with the capabilities that the container runtime
    /// gives.
    Baseline,
}

impl PodSecurity {
    pub const NAMES: [(&'static str, Self); 2] = [
        ("restricted", Self::Restricted),
        ("baseline", Self::Baseline),
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restricted => "restricted",
            Self::Baseline => "baseline",
        }
    }
}

/// The failures after which a call may run again although it may have run already. The set takes one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetryOn(u8);

impl RetryOn {
    pub const NONE: Self = Self(0);
    /// The pod was lost while the call ran.
    pub const POD: Self = Self(1);
    /// The attempt's time limit passed.
    pub const TIMEOUT: Self = Self(2);
    /// The function raised an error, or answered with a status other than 2xx.
    pub const ERROR: Self = Self(4);

    pub const NAMES: [(&'static str, Self); 3] = [
        ("POD", Self::POD),
        ("TIMEOUT", Self::TIMEOUT),
        ("ERROR", Self::ERROR),
    ];

    /// Returns whether this set contains all of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Default for RetryOn {
    fn default() -> Self {
        Self::POD
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let names = Self::NAMES.iter().filter(|(_, one)| self.contains(*one));
        serializer.collect_seq(names.map(|(name, _)| name))
    }
}

/// What runs the pods. The platform determines which fields a function needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Processes on this machine.
    Local,
    Kubernetes,
    /// Nothing runs pods, so only POOL and LOCAL functions are possible.
    None,
}
