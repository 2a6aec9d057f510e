//! Tests single parts of a function, for example addresses, amounts, hashes and drafts.

use serde_json::{Value, json};

use super::super::{
    Endpoint, ExecutionMode, Json, Platform, Quantity, RetryOn, ScalingConfig, bound,
};
use super::{draft, faults, resolve, sound, sound_with};

#[test]
fn endpoints() {
    let known = [
        ("http://h", "http://h:80/invoke"),
        ("http://h:8080", "http://h:8080/invoke"),
        ("http://h:65535/", "http://h:65535/"),
        ("http://a.b-c_d:1/x/y?z=1", "http://a.b-c_d:1/x/y?z=1"),
        ("http://h?z", "http://h:80/?z"),
        ("http://10.0.0.1:9/i", "http://10.0.0.1:9/i"),
        ("http://[::1]:9/i", "http://[::1]:9/i"),
        ("http://[fe80::1]", "http://[fe80::1]:80/invoke"),
        ("http+unix:///run/a.sock", "http+unix:///run/a.sock:/invoke"),
        (
            "http+unix:///run/a.sock:/x?y",
            "http+unix:///run/a.sock:/x?y",
        ),
    ];
    for (given, shown) in known {
        let endpoint = Endpoint::parse(given).expect(given);
        assert_eq!(endpoint.to_string(), shown);
        assert_eq!(Endpoint::parse(shown), Ok(endpoint), "{shown} reads back");
    }
    let longest = format!("http+unix:///{}", "a".repeat(106));
    assert!(Endpoint::parse(&longest).is_ok());
    let path_too_long = format!("http+unix:///{}", "a".repeat(107));
    let url_too_long = format!("http://h/{}", "a".repeat(2040));
    let unknown = [
        "",
        "h:80",
        "https://h/",
        "http://",
        "http:///x",
        "http://:80/",
        "http://h:0/",
        "http://h:65536/",
        "http://h:/",
        "http://h:+1/",
        "http://h:1:2/",
        "http://u@h/",
        "http://h/a b",
        "http://h/#a",
        "http://h/\r\nX: y",
        "http://ä/",
        "http://::1/",
        "http://[::1/",
        "http://[h]/",
        "http://[::1]x/",
        "http+unix://",
        "http+unix:///",
        "http+unix://run/a.sock",
        "http+unix:///run/",
        path_too_long.as_str(),
        url_too_long.as_str(),
    ];
    for given in unknown {
        assert!(Endpoint::parse(given).is_err(), "{given}");
    }
}

#[test]
fn retry_sets() {
    let set = |words: Value| sound(json!({"retryOn": words})).retry_on;
    assert_eq!(set(json!([])), RetryOn::NONE);
    assert_eq!(set(json!(["POD", "POD"])), RetryOn::POD);
    let all = set(json!(["ERROR", "TIMEOUT", "POD"]));
    assert!(all.contains(RetryOn::POD) && all.contains(RetryOn::TIMEOUT));
    assert!(all.contains(RetryOn::ERROR) && !RetryOn::POD.contains(RetryOn::ERROR));
    assert_eq!(
        serde_json::to_value(all).expect("serialises"),
        json!(["POD", "TIMEOUT", "ERROR"])
    );
    assert_eq!(
        faults(json!({"retryOn": "POD"})),
        ["retryOn: must be a list, is \"POD\""]
    );
    let expected = "retryOn[0]: must be POD, TIMEOUT or ERROR, is \"pod\"";
    assert_eq!(faults(json!({"retryOn": ["pod"]})), [expected]);
}

#[test]
fn a_health_path_can_stand_in_a_request() {
    let longest = format!("/{}", "a".repeat(bound::HEALTH_PATH_LEN_MAX - 1));
    for path in ["/", "/actuator/health?x=1", "/%C3%A4", longest.as_str()] {
        assert_eq!(sound(json!({"healthPath": path})).health_path, path);
    }
    let too_long = format!("{longest}a");
    for path in [
        "health",
        "",
        "http://a/",
        "/a b",
        "/a\r\nX: y",
        "/ä",
        "/#a",
        too_long.as_str(),
    ] {
        let given = faults(json!({"healthPath": path}));
        assert!(
            given.len() == 1 && given[0].starts_with("healthPath: "),
            "{given:?}"
        );
    }
    assert_eq!(faults(json!({"healthPath": 5})).len(), 1);
}

#[test]
fn quantities() {
    for text in [
        "1", "0.5", ".5", "5.", "500m", "1Ki", "2Mi", "3Gi", "1e3", "1E-2", "+1", "12E", "100k",
        "1n", "1u",
    ] {
        let changes = json!({"resources": {"cpu": text, "memory": text}});
        assert_eq!(
            sound(changes).resources.cpu.as_ref().map(Quantity::as_str),
            Some(text)
        );
    }
    for text in [
        "0", "0.0", "-1", "1 Gi", "1gi", "1KB", "Mi", ".", "1.2.3", "1e", "1e+", "1e300", "1m5",
        "0x1",
    ] {
        assert_eq!(
            faults(json!({"resources": {"memory": text}})).len(),
            1,
            "{text}"
        );
    }
    let cpu = |value: Value| {
        sound(json!({"resources": {"cpu": value}}))
            .resources
            .cpu
            .clone()
    };
    assert_eq!(cpu(json!(2)).as_ref().map(Quantity::as_str), Some("2"));
    assert_eq!(cpu(json!(0.5)).as_ref().map(Quantity::as_str), Some("0.5"));
    assert_eq!(faults(json!({"resources": {"cpu": -1}})).len(), 1);
    assert_eq!(faults(json!({"resources": {"cpu": true}})).len(), 1);
}

#[test]
fn a_hash_changes_only_with_the_pods_shape() {
    let kubernetes = |changes: Value| {
        let spec = resolve(&sound_with(changes), Platform::Kubernetes).expect("sound");
        spec.shape_hash(Platform::Kubernetes)
    };
    let local = |changes: Value| sound(changes).shape_hash(Platform::Local);
    let base = kubernetes(json!({}));
    // This hash must stay the same in every build, because a new control plane replaces each pod whose hash
    // differs from the one that it computes.
    assert_eq!(base, 8_316_861_864_895_607_808);
    let shaping = [
        json!({"image": "img:2"}),
        json!({"command": ["./g"]}),
        json!({"command": ["./", "f"]}),
        json!({"env": {"A": "1"}}),
        json!({"resources": {"cpu": "1"}}),
        json!({"resources": {"memory": "1"}}),
        json!({"imagePullSecrets": ["s"]}),
        json!({"podTemplate": {}}),
        json!({"podSecurity": "baseline"}),
        json!({"podTemplate": {"a": [1, -1, 1.5, null, true, "x"]}}),
        json!({"runtimeMode": "STDIO"}),
        json!({"runtimeCommand": "x"}),
        json!({"timeoutMs": 31_000}),
        json!({"timeoutMs": 30_001}),
        json!({"healthPath": "/up"}),
    ];
    let mut seen = vec![base];
    for changes in shaping {
        let hash = kubernetes(changes.clone());
        assert!(!seen.contains(&hash), "{changes}");
        seen.push(hash);
    }
    let others = [
        json!({"concurrency": 9}),
        json!({"queueSize": 9}),
        json!({"maxRetries": 9}),
        json!({"retryOn": []}),
        json!({"scalingConfig": {"minReplicas": 2}}),
        json!({"name": "g"}),
        json!({"imagePullPolicy": "Always"}),
        json!({"executionMode": "DEPLOYMENT"}),
        json!({"local": {"command": ["x"]}}),
    ];
    for changes in others {
        assert_eq!(kubernetes(changes.clone()), base, "{changes}");
    }
    let base = local(json!({}));
    for changes in [
        json!({"command": ["x"]}),
        json!({"command": ["./f"]}),
        json!({"env": {"A": ""}}),
        json!({"build": "make"}),
        json!({"directory": "/srv"}),
    ] {
        assert_ne!(local(json!({"local": changes})), base);
    }
    assert_eq!(local(json!({"image": "img:2"})), base);
}

#[test]
fn json_is_bounded_and_unambiguous() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(serde_json::from_str::<Json>(&nested(64)).is_ok());
    let error = serde_json::from_str::<Json>(&nested(65))
        .expect_err("deep")
        .to_string();
    assert!(error.contains("nested over 64 levels"), "{error}");
    let error = serde_json::from_str::<Json>(r#"{"a":1,"a":2}"#)
        .expect_err("twice")
        .to_string();
    assert!(error.contains("the field \"a\" is repeated"), "{error}");
}

#[test]
fn a_draft_is_changed_by_path() {
    let mut draft = draft(json!({"name": "f", "local": null, "env": "x"}));
    draft.set("local.directory", Json::from("/srv"));
    draft.set("env.A", Json::from("y"));
    assert_eq!(draft.get("local.directory"), Some(&Json::from("/srv")));
    assert_eq!(
        draft.get("env"),
        Some(&Json::from("x")),
        "a wrong type stays, to be named"
    );
    assert_eq!(draft.get("local.command"), None);
    let shown = serde_json::to_value(&draft).expect("serialises");
    assert_eq!(
        shown,
        json!({"name": "f", "local": {"directory": "/srv"}, "env": "x"})
    );
}

#[test]
fn a_name_in_the_path_is_the_name() {
    let mut unnamed = draft(json!({"command": ["x"]}));
    unnamed.name_by_path("f");
    assert_eq!(
        resolve(&unnamed, Platform::Local)
            .expect("sound")
            .name
            .as_ref(),
        "f"
    );
    let mut same = sound_with(json!({}));
    same.name_by_path("f");
    assert!(resolve(&same, Platform::Local).is_ok());
    let mut other = sound_with(json!({}));
    other.name_by_path("g");
    let given = resolve(&other, Platform::Local).expect_err("two names");
    assert_eq!(given, ["name: must be \"g\" as in the path, is \"f\""]);
    let mut object = draft(json!({
        "apiVersion": "nanofaas.io/v1", "kind": "Function", "spec": {"command": ["x"]},
    }));
    object.name_by_path("f");
    assert!(resolve(&object, Platform::Local).is_ok());
}

#[test]
fn what_the_calls_path_copies_is_small() {
    assert_eq!(size_of::<ExecutionMode>(), 1);
    assert_eq!(size_of::<RetryOn>(), 1);
    assert_eq!(size_of::<ScalingConfig>(), 16);
}
