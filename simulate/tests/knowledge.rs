//! Compares admission with perfect knowledge, for a thousand calls in each of six patterns. Few admitted
//! calls may fail, and few more calls may succeed with perfect knowledge.

use nanofaas_simulate::patterns::{CALLS, WRONG_MAX, patterns};
use nanofaas_simulate::simulate;

#[test]
fn few_calls_are_admitted_or_refused_wrongly() {
    let mut wrong = Vec::new();
    for pattern in patterns() {
        let summary = simulate(&pattern.setup).summary;
        let (failed, perfect) = (
            summary.let_in_and_failed(),
            summary
                .made_it_with_perfect_knowledge
                .expect("sync calls only"),
        );
        assert_eq!(
            summary.made_it + failed + summary.refused(),
            CALLS,
            "{}",
            pattern.name
        );
        if failed > WRONG_MAX || summary.made_it + WRONG_MAX < perfect {
            wrong.push((pattern.name, summary));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
