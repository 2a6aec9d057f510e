//! Counts the results of the tests: each test passed, failed, or did not run. A test that did not run counts
//! as neither passed nor failed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::time::Instant;

pub(crate) type Test = (&'static str, fn());

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    NotRun,
}

/// Ends a test that cannot run on this machine or this cluster.
pub(crate) fn not_run(why: &str) -> ! {
    // Unlike a panic, `resume_unwind` does not run the panic hook, which would print a message.
    resume_unwind(Box::new(NotRun(why.to_owned())))
}

struct NotRun(String);

#[derive(Default)]
pub(crate) struct TestTally {
    passed: usize,
    failed: Vec<&'static str>,
    /// The names of the tests that did not run, with the reasons.
    not_run: Vec<(&'static str, String)>,
}

/// Steps that are not tests. They are counted only if they fail.
const AROUND: [&str; 2] = ["install", "uninstall"];

impl TestTally {
    pub(crate) fn run(&mut self, (name, test): Test) -> Verdict {
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(test));
        let took = begun.elapsed().as_secs_f64();
        let skipped = result
            .as_ref()
            .err()
            .and_then(|why| why.downcast_ref::<NotRun>());
        if let Some(NotRun(why)) = skipped {
            println!("test {name} ... not run: {why}");
            self.skip(name, why);
            return Verdict::NotRun;
        }
        if result.is_err() {
            println!("test {name} ... FAILED ({took:.1} s)");
            self.failed.push(name);
            return Verdict::Failed;
        }
        println!("test {name} ... ok ({took:.1} s)");
        self.passed += usize::from(!AROUND.contains(&name));
        Verdict::Passed
    }

    pub(crate) fn skip(&mut self, name: &'static str, why: &str) {
        self.not_run.push((name, why.to_owned()));
    }

    /// Prints the last lines. Returns the exit code of the process.
    pub(crate) fn print(self, begun: Instant) -> ExitCode {
        if !self.failed.is_empty() {
            println!("\nfailures:\n    {}", self.failed.join("\n    "));
        }
        for (name, why) in &self.not_run {
            println!("not run: {name}: {why}");
        }
        let verdict = if self.failed.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        let (passed, failed, not_run) = (self.passed, self.failed.len(), self.not_run.len());
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "\ntest result: {verdict}. {passed} passed; {failed} failed; {not_run} not run; finished in \
             {seconds:.2} s\n"
        );
        ExitCode::from(u8::from(failed > 0))
    }
}
