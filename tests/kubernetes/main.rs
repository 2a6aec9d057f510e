//! These tests use the platform on a real cluster, installed from `k8s/` as a user installs it. They remove
//! an existing installation, so they run only with two variables: KUBECONFIG, and NANOFAAS_TEST_CLUSTER,
//! which `./ci kubernetes` sets. Without these variables they only print a message. The tests leave nothing
//! in the cluster but their images. They kill only processes of function pods and planes, and the API server
//! if it runs on this machine.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

mod tally;
mod cluster;
mod node;
mod plane;
mod outside;
mod load;

mod install;
mod registry;
mod status;
mod tokens;
mod jobs;
mod job_failures;
mod starts;
mod security;
mod warm;
mod updates;
mod successor;
mod outage;
mod overhead;

use std::process::ExitCode;
use std::time::Instant;

use tally::{Test, TestTally, Verdict};

/// Lists each test by the name `module::name`, with its function.
macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name),)*)*]
    };
}

/// The tests of features that other tests use come first, and tests that stop the API server come last.
const TESTS: &[Test] = tests! {
    install:
        an_example_answers_the_node_and_a_pod
        kubectl_shows_mode_readiness_and_pods;
    registry:
        an_invalid_function_says_why_in_its_condition
        an_invalid_edit_keeps_the_accepted_spec
        what_the_schema_refuses_is_refused_at_once
        kubectl_sees_what_the_api_does
        a_senseless_status_hides_no_function
        what_kubectl_does_is_seen_by_the_api;
    status:
        kubectl_waits_for_each_specs_readiness
        an_unpullable_image_shows_in_status_and_event
        crash_loop_and_missing_secret_have_their_reasons
        an_unschedulable_pod_is_reported_while_it_waits
        kubectl_scales_a_function
        kubectl_scales_a_function_that_names_no_floor
        kubectl_explains_every_field;
    tokens:
        its_own_token_completes_an_attempt_once
        an_older_attempt_cannot_complete;
    jobs:
        a_jobs_status_shows_how_it_started
        a_handler_error_is_the_functions_own
        a_mebibyte_in_and_a_picture_out
        fifty_parallel_calls_all_succeed
        a_deadline_ends_the_call_and_its_job
        a_cancelled_calls_job_goes_soon
        no_job_and_no_job_pod_is_left;
    job_failures:
        a_crash_before_the_callback_reports_its_output
        a_workers_out_of_memory_is_not_retried
        a_containers_out_of_memory_is_not_retried
        a_lost_pod_is_retried_once;
    starts:
        an_unavailable_image_is_reported_early
        a_late_image_is_pulled_in_time
        a_start_hold_up_is_named_finally
        a_missing_secret_is_told_early
        a_quota_is_told_early
        an_unschedulable_pod_fails_at_the_start_deadline;
    security:
        any_image_runs_restricted_in_both_modes
        root_runs_only_where_baseline_is_enforced
        a_template_against_restricted_says_what_to_do
        only_the_planes_account_is_refused
        a_default_template_goes_below_the_functions_own
        an_invalid_template_file_stops_the_start;
    warm:
        it_scales_from_zero_to_four_and_back
        a_dead_pod_is_noticed_at_once
        a_warm_containers_oom_is_not_retried;
    updates:
        rolling_updates_and_scale_downs_fail_no_call
        deleted_pods_fail_no_call
        a_node_drain_fails_no_retriable_call
        killed_pods_fail_no_retriable_call
        killed_pods_fail_only_the_calls_in_them;
    successor:
        a_deleted_planes_successor_keeps_the_pods
        a_killed_plane_returns_to_its_pods
        a_pod_with_a_predecessors_call_is_kept
        only_one_of_two_planes_acts;
    outage:
        a_stopped_api_server_fails_no_warm_call
        a_killed_api_server_fails_no_warm_call;
};

/// Measurements check nothing and run only with `--ignored`.
const MEASUREMENTS: &[Test] = tests! {
    overhead:
        a_job_call_against_a_bare_job
        a_cold_call_against_a_bare_pod;
};

/// Returns the tests that the arguments of `cargo test` select.
fn chosen() -> Vec<Test> {
    let (mut filters, mut all, mut skip_next) = (Vec::new(), TESTS, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--ignored" => all = MEASUREMENTS,
            "--test-threads" | "--format" | "--color" => skip_next = true,
            _ if std::mem::take(&mut skip_next) || argument.starts_with('-') => {}
            _ => filters.push(argument),
        }
    }
    let is_chosen = |(name, _): &&Test| {
        filters.is_empty() || filters.iter().any(|part| name.contains(part.as_str()))
    };
    all.iter().filter(is_chosen).copied().collect()
}

fn main() -> ExitCode {
    let chosen = chosen();
    if std::env::args().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    for needed in ["KUBECONFIG", "NANOFAAS_TEST_CLUSTER"] {
        if std::env::var_os(needed).is_none() {
            let why = format!("{needed} is not set");
            println!("the tests on a cluster do not run: {why}");
            let mut tally = TestTally::default();
            chosen.iter().for_each(|(name, _)| tally.skip(name, &why));
            // On machines without a cluster, Cargo runs this program, too, together with all other tests. A
            // missing cluster is therefore no failure.
            return tally.print(Instant::now());
        }
    }
    if chosen.is_empty() {
        println!("no test has such a name; ./ci kubernetes --list shows all");
        return ExitCode::FAILURE;
    }
    println!("\nrunning {} tests", chosen.len());
    let begun = Instant::now();
    let mut tally = TestTally::default();
    let install: Test = ("install", plane::install);
    if tally.run(install) == Verdict::Failed {
        println!("the platform cannot be installed, so nothing is tested");
        let why = "the platform is not installed";
        chosen.iter().for_each(|(name, _)| tally.skip(name, why));
    } else {
        for test in chosen {
            let begun = Instant::now();
            if tally.run(test) == Verdict::Failed {
                plane::show_log(begun);
            }
            plane::clean();
        }
    }
    tally.run(("uninstall", plane::uninstall));
    cluster::close();
    tally.print(begun)
}
