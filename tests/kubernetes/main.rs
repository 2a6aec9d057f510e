//! Tests of the platform on a real cluster, installed from `k8s/` as a user installs it. Because
//! they remove an existing installation, they run only with two variables: KUBECONFIG, and
//! NANOFAAS_TEST_CLUSTER, which `./ci kubernetes` sets; otherwise they only print a message. They
//! leave nothing in the cluster but their images. They kill only processes of function pods and
//! planes, and the API server if it runs on this machine.

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

use tally::{Tally, Test, Verdict};

/// `module::name` for each name.
macro_rules! tests {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name),)*)*]
    };
}

/// The order matters: tests that the others need come first, tests that stop the API server last.
const TESTS: &[Test] = tests! {
    install:
        an_example_function_answers_the_node_and_a_pod
        kubectl_shows_mode_readiness_and_pods;
    registry:
        a_function_that_is_no_function_says_why_in_its_condition
        an_invalid_edit_leaves_the_last_accepted_spec_in_force
        what_the_schema_refuses_is_refused_at_once
        what_the_api_does_is_seen_by_kubectl_and_faults_are_its_own
        a_status_that_makes_no_sense_hides_no_function
        what_kubectl_does_is_seen_by_the_api;
    status:
        kubectl_waits_for_a_ready_function_and_for_its_next_spec
        an_image_that_cannot_be_pulled_is_in_the_status_and_in_an_event
        a_crash_loop_and_a_missing_secret_have_their_reasons
        a_pod_that_finds_no_node_is_told_while_it_waits
        kubectl_scales_a_function
        kubectl_scales_a_function_that_names_no_floor
        kubectl_explains_every_field;
    tokens:
        only_its_own_token_completes_an_attempt_and_only_once
        an_older_attempt_cannot_complete;
    jobs:
        a_job_succeeds_and_its_status_shows_how_it_started
        a_handler_error_is_the_functions_own
        nearly_a_mebibyte_goes_in_and_a_picture_comes_out
        fifty_parallel_calls_all_succeed
        a_deadline_ends_the_call_and_its_job
        a_cancelled_calls_job_goes_soon
        no_job_and_no_pod_of_one_is_left;
    job_failures:
        a_crash_before_the_callback_has_its_last_words
        out_of_memory_in_the_worker_is_told_and_not_retried
        out_of_memory_of_the_whole_container_is_told_and_not_retried
        a_lost_pod_is_retried_once;
    starts:
        an_image_that_cannot_be_had_is_told_early
        an_image_that_comes_later_is_pulled_within_the_calls_time
        what_holds_a_start_up_is_told_at_the_calls_deadline
        a_missing_secret_is_told_early
        a_quota_is_told_early
        an_unschedulable_pod_is_told_at_the_start_deadline;
    security:
        any_image_runs_restricted_in_both_modes
        root_is_refused_and_runs_where_baseline_is_enforced
        a_template_against_restricted_says_what_to_do
        the_planes_account_is_refused_and_others_are_not
        a_default_template_goes_below_the_functions_own
        a_file_that_is_no_template_stops_the_start;
    warm:
        it_scales_from_zero_to_four_and_back_to_zero
        a_dead_pod_is_noticed_at_once
        out_of_memory_of_a_whole_warm_container_is_told_and_not_retried;
    updates:
        a_rolling_update_and_scale_downs_fail_no_call
        deleted_pods_fail_no_call
        a_drain_of_the_node_fails_no_call_that_may_be_retried
        killed_pods_fail_no_call_that_may_be_retried
        killed_pods_fail_only_the_calls_in_them;
    successor:
        a_deleted_plane_has_a_successor_with_the_same_pods
        a_killed_plane_comes_back_with_the_same_pods
        a_pod_that_is_busy_with_a_call_of_the_plane_before_is_left_alone
        only_one_of_two_planes_acts;
    outage:
        a_stopped_api_server_fails_no_warm_call
        a_killed_api_server_fails_no_warm_call;
};

/// Run only with `--ignored`, because they measure and check nothing.
const MEASUREMENTS: &[Test] = tests! {
    overhead:
        a_job_call_against_a_bare_job
        a_cold_call_against_a_bare_pod;
};

/// The tests that the arguments of `cargo test` select.
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
            let mut tally = Tally::default();
            chosen.iter().for_each(|(name, _)| tally.skip(name, &why));
            // No failure, because Cargo runs this with all other tests, also without a cluster.
            return tally.print(Instant::now());
        }
    }
    if chosen.is_empty() {
        println!("no test has such a name; ./ci kubernetes --list shows all");
        return ExitCode::FAILURE;
    }
    println!("\nrunning {} tests", chosen.len());
    let begun = Instant::now();
    let mut tally = Tally::default();
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
