//! Reads the default `podTemplate` from a file that a ConfigMap fills. The file is read at the start and
//! regularly after that, because a kubelet changes it when the ConfigMap changes. A text that is invalid at
//! the start stops the start. A later invalid text is logged, and the last template stays in force. `podspec`
//! merges the templates.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use nanofaas_core::spec::{Json, check_account, template_hash};
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::{SnippetMode, UserMessageFormatter};

/// The size limit of the file, in bytes: that of a ConfigMap.
const LEN_MAX: u64 = 1024 * 1024;
const FIELDS: [&str; 2] = ["metadata", "spec"];
const NO_TEMPLATE: &str = "must be a podTemplate: an object with metadata and spec alone";

pub(crate) struct DefaultPodTemplate {
    pub(crate) value: Value,
    /// A part of the shape of pods that are made with this template.
    pub(crate) hash: u64,
}

/// The last contents of the file, and the template in force.
#[derive(Default)]
pub(crate) struct LastRead {
    /// None before the first read.
    contents: Option<FileContents>,
    template: Option<Rc<DefaultPodTemplate>>,
}

/// The file's text, none if there is no file, or why it could not be read.
type FileContents = Result<Option<String>, String>;

impl LastRead {
    pub(crate) fn template(&self) -> Option<&Rc<DefaultPodTemplate>> {
        self.template.as_ref()
    }

    /// Reads the file; returns whether another template is in force now. An error leaves the template in
    /// force, and is returned one time for each text.
    pub(crate) fn read(&mut self, path: &Path, own_account: Option<&str>) -> Result<bool, String> {
        let contents = contents(path);
        if self.contents.as_ref() == Some(&contents) {
            return Ok(false);
        }
        self.contents = Some(contents.clone());
        let template = match contents? {
            None => None,
            Some(text) => parse(&text, own_account)?.map(Rc::new),
        };
        let hash =
            |template: &Option<Rc<DefaultPodTemplate>>| template.as_ref().map(|one| one.hash);
        let is_another = hash(&template) != hash(&self.template);
        self.template = template;
        Ok(is_another)
    }

    /// Returns whether this bridge or an earlier bridge of this process has read the file.
    pub(crate) const fn is_known(&self) -> bool {
        self.contents.is_some()
    }
}

fn contents(path: &Path) -> FileContents {
    // Opening a named pipe would block the bridge until another process opens it.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err("is no file".to_owned());
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LEN_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(_) if text.len() as u64 > LEN_MAX => Err("is longer than 1 MiB".to_owned()),
        Ok(_) => Ok(Some(text)),
        // An optional ConfigMap that does not exist leaves an empty folder, which means no template.
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_folder(path) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("is in a folder that is not there".to_owned())
        }
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn has_folder(path: &Path) -> bool {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new(".")).is_dir()
}

fn parse(text: &str, own_account: Option<&str>) -> Result<Option<DefaultPodTemplate>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let object = match serde_saphyr::from_str(text) {
        // A text that has only comments is no template.
        Ok(Json::Null) => return Ok(None),
        Ok(Json::Object(object)) => object,
        Ok(_) => return Err(NO_TEMPLATE.to_owned()),
        Err(error) => {
            let options = serde_saphyr::render_options! {
                formatter: &UserMessageFormatter,
                snippets: SnippetMode::Off,
            };
            let why = error.render_with_options(options);
            return Err(format!("must be one document of YAML or JSON: {why}"));
        }
    };
    let value = serde_json::to_value(&object)
        .map_err(|error| format!("is not the template of a pod: {error}"))?;
    check_fields(&value)?;
    if let Some(own) = own_account {
        check_account(&object, own).map_err(|fault| fault.to_string())?;
    }
    let hash = template_hash(&object);
    Ok((!object.is_empty()).then_some(DefaultPodTemplate { value, hash }))
}

/// Checks that every field of a template is a field of a pod, because the API server drops a misspelt field
/// without an error.
pub(crate) fn check_fields(template: &Value) -> Result<(), String> {
    let Value::Object(fields) = template else {
        return Err(NO_TEMPLATE.to_owned());
    };
    if let Some(other) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(format!("{NO_TEMPLATE}; it has {other}"));
    }
    let refused = |error: serde_json::Error| format!("is not the template of a pod: {error}");
    let pod = PodTemplateSpec::deserialize(template).map_err(refused)?;
    let known = serde_json::to_value(pod).map_err(refused)?;
    match unknown(template, &known, String::new()) {
        None => Ok(()),
        Some(path) => Err(format!(
            "is not the template of a pod: no field is called {path}"
        )),
    }
}

/// Returns the path of the first field in `given` that is not a field of a pod.
fn unknown(given: &Value, known: &Value, path: String) -> Option<String> {
    match (given, known) {
        (Value::Object(given), known) => given.iter().find_map(|(name, value)| {
            let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "." });
            match known.get(name) {
                Some(known) => unknown(value, known, path),
                // The serializer leaves empty values out of `known`.
                None => (!is_empty(value)).then_some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            let mut both = given.iter().zip(known).enumerate();
            both.find_map(|(at, (given, known))| unknown(given, known, format!("{path}[{at}]")))
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn refused(text: &str) -> String {
        match parse(text, Some("plane")) {
            Err(why) => why,
            Ok(_) => panic!("{text} is taken"),
        }
    }

    #[test]
    fn yaml_and_json_are_the_same_template() {
        let yaml = "spec:\n  nodeSelector: {disk: ssd}\n  priorityClassName: low\n";
        let json = r#"{"spec": {"priorityClassName": "low", "nodeSelector": {"disk": "ssd"}}}"#;
        let read = |text| parse(text, None).expect("sound").expect("a template");
        let (one, other) = (read(yaml), read(json));
        assert_eq!(one.value["spec"]["nodeSelector"], json!({"disk": "ssd"}));
        assert_eq!((one.value, one.hash), (other.value, other.hash));
        assert_ne!(one.hash, read("spec: {nodeSelector: {disk: hdd}}").hash);
        // A template is valid if all of its fields are fields of a pod. This template has values of many
        // kinds, among them a null and empty objects.
        let all = "metadata: {labels: {a: b}, annotations: {}}\nspec:\n  containers:\n  - name: \
            function\n    volumeMounts: [{name: v, mountPath: /v}]\n    livenessProbe: null\n  \
            volumes: [{name: v, emptyDir: {}}]\n  tolerations: [{key: k, operator: Exists}]\n  \
            runtimeClassName: kata\n  terminationGracePeriodSeconds: 3\n  serviceAccountName: mine\n";
        assert!(matches!(parse(all, Some("plane")), Ok(Some(_))));
    }

    #[test]
    fn a_text_without_a_template_is_none() {
        for text in ["", "\n", "# later\n", "{}", "null"] {
            assert!(matches!(parse(text, None), Ok(None)), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_template_says_what_one_is() {
        for (text, why) in [
            ("spec: [", "must be one document of YAML or JSON"),
            (
                "spec: {}\n---\nspec: {}",
                "must be one document of YAML or JSON",
            ),
            (
                "[]",
                "must be a podTemplate: an object with metadata and spec alone",
            ),
            (
                "podTemplate: {spec: {}}",
                "metadata and spec alone; it has podTemplate",
            ),
            (
                "spec: {nodeSelector: [a]}",
                "is not the template of a pod: invalid type",
            ),
            (
                "spec: {nodeSelectr: {a: b}}",
                "no field is called spec.nodeSelectr",
            ),
            (
                "spec: {containers: [{name: a}, {name: b, imag: c}]}",
                "spec.containers[1].imag",
            ),
            (
                "spec: {serviceAccountName: plane}",
                "spec.serviceAccountName: must not be \"plane\"",
            ),
        ] {
            let message = refused(text);
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let name = format!("default-template-pipe-{}", std::process::id());
        let pipe = std::env::temp_dir().join(name);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()));
        let why = LastRead::default().read(&pipe, None);
        fs::remove_file(&pipe).expect("removed");
        assert_eq!(why, Err("is no file".to_owned()));
    }

    #[test]
    fn a_file_is_followed_unless_it_is_bad() {
        let folder = std::env::temp_dir().join(format!("default-template-{}", std::process::id()));
        let file = folder.join("podTemplate.yaml");
        let mut last = LastRead::default();
        let absent = last.read(&file, None).expect_err("no folder");
        assert!(absent.contains("folder that is not there"), "{absent}");
        fs::create_dir_all(&folder).expect("a folder");
        assert_eq!(last.read(&file, None), Ok(false));
        let mut after = |text: Option<&str>| {
            match text {
                Some(text) => fs::write(&file, text).expect("written"),
                None => fs::remove_file(&file).expect("removed"),
            }
            let read = last.read(&file, None);
            assert_eq!(
                last.read(&file, None),
                Ok(false),
                "a text is looked at once"
            );
            let template = last.template();
            let name = template.map(|one| one.value["spec"]["nodeName"].clone());
            (read, name)
        };
        assert_eq!(
            after(Some("spec: {nodeName: a}")),
            (Ok(true), Some(json!("a")))
        );
        assert_eq!(
            after(Some("spec: {nodeName: \"a\"}")),
            (Ok(false), Some(json!("a")))
        );
        let (read, name) = after(Some("spec: 1"));
        assert!(read.is_err() && name == Some(json!("a")), "{read:?}");
        assert_eq!(
            after(Some("spec: {nodeName: b}")),
            (Ok(true), Some(json!("b")))
        );
        assert_eq!(after(None), (Ok(true), None));
        assert_eq!(
            after(Some(&"x".repeat(2 << 20))).0,
            Err("is longer than 1 MiB".to_owned())
        );
        fs::remove_dir_all(&folder).expect("removed");
    }
}
