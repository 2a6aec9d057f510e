//! Checks the reader of function files (`src/files/node.rs`, and the specs of `nanofaas_core`). An accepted
//! function is written anew, and the new text must be accepted as the same function.

use nanofaas_core::spec::{Defaults, FunctionDraft, FunctionSpec, Platform};

use crate::rng::Rng;

#[allow(dead_code, reason = "lines are for messages")]
#[path = "../../src/files/node.rs"]
mod node;

const PLATFORMS: [Platform; 3] = [Platform::Local, Platform::Kubernetes, Platform::None];

pub(crate) fn function_file(_: &mut Rng, bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    let documents = match node::documents(text) {
        Ok(documents) => documents,
        Err((line, message)) => {
            assert!(!message.is_empty(), "line {line}");
            return false;
        }
    };
    let mut taken = false;
    for document in documents {
        let Ok(draft) = FunctionDraft::from_json(document.json) else {
            continue;
        };
        for platform in PLATFORMS {
            match FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform) {
                Ok(spec) => {
                    reads_back(&spec, platform);
                    taken = true;
                }
                Err(faults) => assert!(!faults.is_empty(), "refused without a reason"),
            }
        }
    }
    taken
}

fn reads_back(spec: &FunctionSpec, platform: Platform) {
    let shown = serde_json::to_string(spec).expect("a spec is JSON");
    let draft: FunctionDraft = serde_json::from_str(&shown).expect("it is an object");
    let again = FunctionSpec::resolve(&draft, &Defaults::DEFAULT, platform);
    assert_eq!(again.as_ref(), Ok(spec), "{shown}");
}
