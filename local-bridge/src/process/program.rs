//! Makes the program of a pod or a Job from a function's spec: its arguments, environment and directory.
//! `pod` and `job` make one `FunctionProgram` for each start, and `process` starts the program.

use std::path::Path;

use nanofaas_core::function::Function;

pub(crate) struct FunctionProgram {
    pub(crate) pod: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) directory: Option<String>,
}

impl FunctionProgram {
    /// Makes the part of the program that pods and Jobs share. The caller sets the other variables.
    pub(crate) fn of(function: &Function, pod: String) -> Self {
        let spec = &function.spec;
        let directory = spec.local.directory.clone();
        let mut argv = spec.local_command().to_vec();
        if let Some(program) = argv.first_mut() {
            // A relative path with a `/` is resolved in the function's directory.
            if let Some(directory) = &directory
                && program.contains('/')
                && let Some(path) = Path::new(directory).join(&*program).to_str()
            {
                *program = path.to_owned();
            }
        }
        let own = spec.local_env().into_iter();
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut program = Self {
            env: own.collect(),
            argv,
            directory,
            pod,
        };
        let name = program.pod.clone();
        program.set("NANOFAAS_POD", name);
        program.set("FUNCTION_NAME", &**function.name());
        program.set("EXECUTION_MODE", spec.runtime_mode.as_str());
        program.set("NANOFAAS_HEALTH_PATH", &*spec.health_path);
        if let Some(command) = &spec.runtime_command {
            program.set("WATCHDOG_CMD", command);
        }
        program
    }

    /// Sets a variable. It overrides a variable of the same name in the spec, because later entries of the
    /// list win.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.push((name.to_owned(), value.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanofaas_core::queue_stats::QueueStats;
    use nanofaas_core::spec::{Defaults, FunctionSpec, Platform};
    use nanofaas_core::ticket::LaneId;
    use std::sync::Arc;

    fn function(json: &str) -> Function {
        let draft = serde_json::from_str(json).expect("a draft");
        let spec = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, Platform::Local);
        Function {
            spec: spec.expect("a sound spec"),
            lane: LaneId { index: 0, epoch: 1 },
            stats: Arc::new(QueueStats::new(1)),
            version: 1,
        }
    }

    #[test]
    fn a_path_is_relative_to_the_functions_directory() {
        for (command, program) in [
            ("./run", "/srv/a/./run"),
            ("/bin/sh", "/bin/sh"),
            ("sh", "sh"),
        ] {
            let function = function(&format!(
                r#"{{"name":"a","executionMode":"WARM","command":["{command}","x"],
                "local":{{"directory":"/srv/a"}}}}"#
            ));
            let made = FunctionProgram::of(&function, "fn-a-00000".into());
            assert_eq!(made.argv, [program, "x"]);
            assert_eq!(made.directory.as_deref(), Some("/srv/a"));
        }
    }

    #[test]
    fn the_platforms_variables_go_over_the_functions() {
        let function = function(
            r#"{"name":"a","executionMode":"WARM","command":["sh"],"env":{"A":"1","B":"1"},
            "local":{"env":{"B":"2"}},"runtimeMode":"STDIO","runtimeCommand":"wc -w"}"#,
        );
        let made = FunctionProgram::of(&function, "fn-a-00000".into());
        let find = |name: &str| {
            let mut all = made.env.iter().filter(|(key, _)| key == name);
            let found = all.next().map(|(_, value)| value.as_str());
            assert!(all.next().is_none(), "{name} twice");
            found
        };
        assert_eq!(find("A"), Some("1"));
        assert_eq!(find("B"), Some("2"));
        assert_eq!(find("FUNCTION_NAME"), Some("a"));
        assert_eq!(find("EXECUTION_MODE"), Some("STDIO"));
        assert_eq!(find("WATCHDOG_CMD"), Some("wc -w"));
        assert_eq!(find("NANOFAAS_POD"), Some("fn-a-00000"));
    }
}
