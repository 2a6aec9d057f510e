//! Turns the unchecked draft of a function into a spec that is valid by construction. This module reads no
//! clock, disk or cluster; the platform is an argument. The registry calls `FunctionSpec::resolve` for each
//! draft; all other code reads the resolved spec.

mod account;
pub mod bound;
mod choice;
mod draft;
mod endpoint;
mod json;
mod quantity;
mod reader;
mod rule;
mod scaling;
#[cfg(feature = "schema")]
mod schema;
mod shape;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use serde::Serialize;

pub use account::check_account;
pub use choice::{
    ExecutionMode, GivenMode, ImagePullPolicy, Platform, PodSecurity, RetryOn, RuntimeMode,
};
pub use draft::{API_VERSION, FIELDS, FieldError, FunctionDraft, KIND, RESOLVED_FIELDS};
pub use endpoint::Endpoint;
pub use json::{Json, JsonObject};
pub use quantity::Quantity;
pub use rule::{ENV_RESERVED, check_name};
pub use scaling::ScalingConfig;
#[cfg(feature = "schema")]
pub use schema::schema;
pub use shape::template_hash;

use bound::{
    CONCURRENCY, MAX_RETRIES, MIN_REPLICAS, QUEUE_SIZE, STREAM_IDLE_MS, STREAM_MAX_MS, TIMEOUT_MS,
};
use reader::{Reader, choose, one_of};

/// The default of `healthPath`: the path of the project's runtimes, and of many other servers.
pub const HEALTH_PATH_DEFAULT: &str = "/health";

/// The default of `streamIdleMs`.
pub const STREAM_IDLE_MS_DEFAULT: u32 = 60_000;
/// The default of `streamMaxMs`.
pub const STREAM_MAX_MS_DEFAULT: u32 = 3_600_000;

/// The values of fields that a draft leaves out. Each value is within the field's range in `bound`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    pub timeout_ms: u32,
    pub concurrency: u32,
    pub queue_size: u32,
    pub max_retries: u32,
}

impl Defaults {
    pub const DEFAULT: Self = Self {
        timeout_ms: 30_000,
        concurrency: 4,
        queue_size: 100,
        max_retries: 3,
    };
}

impl Default for Defaults {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A resolved function, whose fields are read through `Deref`. Only `resolve` and `with_min_replicas` make a
/// new one, so no other code has to check the fields again.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct FunctionSpec(SpecFields);

impl Deref for FunctionSpec {
    type Target = SpecFields;

    fn deref(&self) -> &SpecFields {
        &self.0
    }
}

/// The fields of a resolved function, as the API shows them.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct SpecFields {
    pub name: Arc<str>,
    /// The container image that runs the function. The modes JOB and WARM need an image.
    pub image: Option<String>,
    /// The policy by which a node pulls the image: IfNotPresent (the default), Always or Never.
    pub image_pull_policy: ImagePullPolicy,
    /// The names of the Secrets that hold the credentials of the image's registry. The Secrets are in the
    /// function's namespace. The list is empty by default.
    pub image_pull_secrets: Vec<String>,
    /// The program and its arguments, which replace the image's entry point. The list is empty by default,
    /// and the container then runs the image's own entry point.
    pub command: Vec<String>,
    /// The environment variables of the function's container, by name. Variables that the platform sets, such
    /// as PORT, FUNCTION_NAME and TIMEOUT_MS, are refused. `$(NAME)` is not expanded.
    pub env: BTreeMap<String, String>,
    pub resources: Resources,
    /// A pod template (`metadata` and `spec`) that is merged over the platform's pod, for example to add
    /// volumes, node selectors, tolerations or sidecars. Objects are merged field by field, and lists of
    /// named items by name. The function's container is called `function`.
    #[cfg_attr(feature = "schema", schemars(with = "schema::AnyObject"))]
    pub pod_template: Option<JsonObject>,
    /// What the pod may do to its node: restricted (the default), or baseline for an image that needs root.
    /// Without a cluster this field is ignored.
    pub pod_security: PodSecurity,
    /// How calls are run. JOB (the default; alias REMOTE) runs each attempt of a call in a Job of its own.
    /// WARM (alias DEPLOYMENT) keeps pods and reuses them. POOL sends calls to `endpointUrl`. LOCAL is an
    /// echo inside the control plane, for measurements.
    #[serde(rename = "executionMode")]
    pub given_mode: GivenMode,
    /// The mode for which the given name stands.
    #[serde(rename = "effectiveExecutionMode")]
    pub execution_mode: ExecutionMode,
    /// The address to which the calls of a POOL function go: `http://host:port/path` or
    /// `http+unix:///path/to/socket:/path`. A POOL function needs this field. If the address has no path,
    /// calls go to `/invoke`.
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub endpoint_url: Option<Endpoint>,
    /// The time limit of a sync call, its waiting included, and of each attempt of an async call, in
    /// milliseconds. The default is the control plane's `--default-timeout-ms`, which is 30000 if it is not
    /// given.
    pub timeout_ms: u32,
    /// The largest number of the function's calls that run at once. The default is the control plane's
    /// `--default-concurrency`, which is 4 if it is not given.
    pub concurrency: u32,
    /// The largest number of sync calls, and of async calls, that wait for a slot. Further calls are refused
    /// with 429. The default is the control plane's `--default-queue-size`, which is 100 if it is not given.
    pub queue_size: u32,
    /// The largest number of attempts after the first attempt of a call. The default is the control plane's
    /// `--default-max-retries`, which is 3 if it is not given.
    pub max_retries: u32,
    /// The failures after which a call that may have run already is run again: POD (the pod was lost),
    /// TIMEOUT (an attempt of an async call exceeded its time limit), ERROR (the function raised an error, or
    /// answered with an error status). The default is POD. With an empty list such a call is never run again.
    pub retry_on: RetryOn,
    pub scaling_config: ScalingConfig,
    /// How the watchdog of an image passes a call to its program: HTTP (the default), STDIO or FILE.
    pub runtime_mode: RuntimeMode,
    /// The command line of the program that the watchdog of an image runs. By default the image names the
    /// program.
    pub runtime_command: Option<String>,
    /// The path at which the control plane asks a warm pod whether it is ready; `/health` by default. An
    /// answer of 2xx means that the pod is ready. So does a 404 or 405, if the pod has never answered 2xx at
    /// this path.
    pub health_path: String,
    /// Whether the function is also served as an HTTP server, at `/fn/{name}`. The default is true for WARM.
    /// It is false for POOL, because serving the function there opens every path of its endpoint. JOB and
    /// LOCAL functions are never served at this path.
    pub http: bool,
    /// The origins of web pages that may send any request to `/fn/{name}`, for instance
    /// `https://example.org`; `*` stands for every origin. The list is empty by default. Pages of other
    /// origins may only read.
    pub allowed_origins: Vec<String>,
    /// A call of `/fn/{name}` ends if no byte of its body or of its answer moves for this time, in
    /// milliseconds; 60000 by default.
    pub stream_idle_ms: u32,
    /// The time limit of a call of `/fn/{name}`, from its start in a pod to its last byte, in milliseconds;
    /// 3600000 by default. 0 means no limit.
    pub stream_max_ms: u32,
    pub local: LocalRun,
}

/// The CPU and memory that a pod requests from its node. By default a pod requests nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Resources {
    /// The CPU request, for instance `500m` or `2`. A pod has no CPU limit.
    pub cpu: Option<Quantity>,
    /// The memory request, for instance `256Mi`. It is the memory limit, too.
    pub memory: Option<Quantity>,
}

/// How the function runs as processes on this machine. Kubernetes ignores this object.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct LocalRun {
    /// The program and its arguments. They replace the function's `command`.
    pub command: Vec<String>,
    /// Further environment variables, by name. They replace the variables of the same name in the function's
    /// `env`.
    pub env: BTreeMap<String, String>,
    /// A shell line that is run one time in `directory`, before the first process.
    pub build: Option<String>,
    /// The absolute path of the folder in which the program runs.
    pub directory: Option<String>,
}

impl SpecFields {
    /// Returns the program and its arguments on this machine; empty only if the function needs no process.
    pub fn local_command(&self) -> &[String] {
        if self.local.command.is_empty() {
            &self.command
        } else {
            &self.local.command
        }
    }

    /// Returns the environment variables that the spec sets on this machine. A variable of `local` replaces
    /// the function's variable of the same name.
    pub fn local_env(&self) -> BTreeMap<&str, &str> {
        let both = self.env.iter().chain(&self.local.env);
        both.map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    /// Returns how long a pod may take to end after it was asked to end, in seconds.
    pub fn grace_s(&self) -> u32 {
        self.timeout_ms / 1000 + bound::GRACE_EXTRA_S
    }

    /// Returns the hash of all fields that shape a pod on `platform`. A pod with another hash has to be
    /// replaced.
    pub fn shape_hash(&self, platform: Platform) -> u64 {
        shape::hash(self, platform)
    }
}

impl FunctionSpec {
    /// Checks every field of a draft and fills in the missing fields. All faults are returned together.
    pub fn resolve(
        draft: &FunctionDraft,
        defaults: &Defaults,
        platform: Platform,
    ) -> Result<Self, Vec<FieldError>> {
        let mut faults = draft.faults().to_vec();
        let mut read = Reader::new(draft.fields(), &mut faults);
        let name = read_name(&mut read, platform);
        let concurrency = read
            .number("concurrency", &CONCURRENCY)
            .unwrap_or(defaults.concurrency);
        let mode = read
            .choice("executionMode", &GivenMode::NAMES)
            .unwrap_or_default();
        let fields = SpecFields {
            name: name.into(),
            image: read.checked("image", rule::check_image),
            image_pull_policy: read
                .choice("imagePullPolicy", &ImagePullPolicy::NAMES)
                .unwrap_or_default(),
            image_pull_secrets: read_secrets(&mut read),
            command: read_command(&mut read),
            env: read_env(&mut read),
            resources: read_resources(&mut read),
            pod_template: read.any_object("podTemplate").cloned(),
            pod_security: read
                .choice("podSecurity", &PodSecurity::NAMES)
                .unwrap_or_default(),
            given_mode: mode,
            execution_mode: mode.mode,
            endpoint_url: read.checked("endpointUrl", Endpoint::parse),
            timeout_ms: read
                .number("timeoutMs", &TIMEOUT_MS)
                .unwrap_or(defaults.timeout_ms),
            concurrency,
            queue_size: read
                .number("queueSize", &QUEUE_SIZE)
                .unwrap_or(defaults.queue_size),
            max_retries: read
                .number("maxRetries", &MAX_RETRIES)
                .unwrap_or(defaults.max_retries),
            retry_on: read_retry_on(&mut read),
            scaling_config: ScalingConfig::read(&mut read, concurrency),
            runtime_mode: read
                .choice("runtimeMode", &RuntimeMode::NAMES)
                .unwrap_or_default(),
            runtime_command: read.text("runtimeCommand").map(str::to_owned),
            health_path: read
                .checked("healthPath", rule::check_health_path)
                .unwrap_or_else(|| HEALTH_PATH_DEFAULT.to_owned()),
            http: read
                .flag("http")
                .unwrap_or(mode.mode == ExecutionMode::Warm),
            allowed_origins: read_origins(&mut read),
            stream_idle_ms: read
                .number("streamIdleMs", &STREAM_IDLE_MS)
                .unwrap_or(STREAM_IDLE_MS_DEFAULT),
            stream_max_ms: read
                .number("streamMaxMs", &STREAM_MAX_MS)
                .unwrap_or(STREAM_MAX_MS_DEFAULT),
            local: read_local(&mut read, platform),
        };
        rule::check_across(&fields, draft, platform, &mut faults);
        if faults.is_empty() {
            Ok(Self(fields))
        } else {
            Err(faults)
        }
    }

    /// Returns the same function with another `minReplicas`.
    pub fn with_min_replicas(&self, replicas: u32) -> Result<Self, FieldError> {
        let most = self.scaling_config.max_replicas;
        if !MIN_REPLICAS.contains(&replicas) || replicas > most {
            let message = format!("must be 0 to {most}, the function's maxReplicas, is {replicas}");
            return Err(FieldError::new("replicas", message));
        }
        let mut fields = self.0.clone();
        fields.scaling_config.min_replicas = replicas;
        Ok(Self(fields))
    }
}

fn read_name(read: &mut Reader<'_>, platform: Platform) -> String {
    if !read.has("name") {
        read.fault("name", "is required");
    }
    let check = |name: &str| check_name(name, platform).map(|()| name.to_owned());
    read.checked("name", check).unwrap_or_default()
}

fn read_secrets(read: &mut Reader<'_>) -> Vec<String> {
    let names = read.texts("imagePullSecrets").unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        if let Err(message) = rule::check_secret_name(name) {
            read.fault(&format!("imagePullSecrets[{at}]"), message);
        }
    }
    names.into_iter().map(str::to_owned).collect()
}

fn read_origins(read: &mut Reader<'_>) -> Vec<String> {
    let origins = read.texts("allowedOrigins").unwrap_or_default();
    if origins.len() > bound::ORIGINS_MAX {
        let message = format!("must be at most {} origins", bound::ORIGINS_MAX);
        read.fault("allowedOrigins", message);
    }
    for (at, origin) in origins.iter().enumerate() {
        if let Err(message) = rule::check_origin(origin) {
            read.fault(&format!("allowedOrigins[{at}]"), message);
        }
    }
    origins.into_iter().map(str::to_owned).collect()
}

fn read_command(read: &mut Reader<'_>) -> Vec<String> {
    let arguments = read.texts("command").unwrap_or_default();
    if arguments.first().is_some_and(|program| program.is_empty()) {
        read.fault("command[0]", "must name a program, is empty");
    }
    arguments.into_iter().map(str::to_owned).collect()
}

fn read_env(read: &mut Reader<'_>) -> BTreeMap<String, String> {
    let env = read.text_map("env");
    for name in env.keys() {
        if let Err(message) = rule::check_env_name(name) {
            read.fault(&format!("env.{name}"), message);
        }
    }
    env
}

fn read_resources(top: &mut Reader<'_>) -> Resources {
    let mut read = top.object("resources");
    Resources {
        cpu: read.checked_or_number("cpu", Quantity::parse),
        memory: read.checked_or_number("memory", Quantity::parse),
    }
}

fn read_retry_on(read: &mut Reader<'_>) -> RetryOn {
    let Some(names) = read.texts("retryOn") else {
        return RetryOn::default();
    };
    let mut set = RetryOn::NONE;
    for (at, name) in names.into_iter().enumerate() {
        match choose(name, &RetryOn::NAMES) {
            Some(one) => set = set.with(one),
            None => {
                let message = format!("must be {}, is {name:?}", one_of(&RetryOn::NAMES));
                read.fault(&format!("retryOn[{at}]"), message);
            }
        }
    }
    set
}

fn read_local(top: &mut Reader<'_>, platform: Platform) -> LocalRun {
    let mut read = top.object("local");
    let directory = read.text("directory").map(str::to_owned);
    let relative = directory.as_deref().filter(|path| !path.starts_with('/'));
    if let Some(path) = relative.filter(|_| platform == Platform::Local) {
        read.fault(
            "directory",
            format!("must be an absolute path, is {path:?}"),
        );
    }
    LocalRun {
        command: read_command(&mut read),
        env: read_env(&mut read),
        build: read.text("build").map(str::to_owned),
        directory,
    }
}
