//! Computes the hash that shows whether a running pod still fits its function's spec. A pod keeps its hash
//! when another build of the control plane takes over, so the same fields must always have the same hash. The
//! hash, FNV-1a with 64 bits, is therefore written here, where no library can change it.

use std::collections::BTreeMap;

use super::json::{Json, JsonObject};
use super::{Platform, SpecFields};

/// Hashes the fields that shape a pod on `platform`, and nothing else.
pub(super) fn hash(spec: &SpecFields, platform: Platform) -> u64 {
    let mut shape = Fnv::new();
    shape.texts("command", &spec.command);
    shape.map("env", &spec.env);
    shape.text("runtimeMode", spec.runtime_mode.as_str());
    shape.option("runtimeCommand", spec.runtime_command.as_deref());
    shape.number("grace", u64::from(spec.grace_s()));
    shape.number("timeoutMs", u64::from(spec.timeout_ms));
    shape.text("healthPath", &spec.health_path);
    match platform {
        Platform::Kubernetes => {
            shape.option("image", spec.image.as_deref());
            shape.texts("imagePullSecrets", &spec.image_pull_secrets);
            shape.option(
                "cpu",
                spec.resources.cpu.as_ref().map(super::Quantity::as_str),
            );
            shape.option(
                "memory",
                spec.resources.memory.as_ref().map(super::Quantity::as_str),
            );
            if let Some(template) = &spec.pod_template {
                shape.text("podTemplate", "");
                shape.object(template);
            }
            shape.text("podSecurity", spec.pod_security.as_str());
        }
        Platform::Local => {
            shape.texts("local.command", &spec.local.command);
            shape.map("local.env", &spec.local.env);
            shape.option("local.build", spec.local.build.as_deref());
            shape.option("local.directory", spec.local.directory.as_deref());
        }
        Platform::None => {}
    }
    shape.0
}

/// Returns the hash of the default template, which is merged into pods together with a function's own fields.
pub fn template_hash(template: &JsonObject) -> u64 {
    let mut hash = Fnv::new();
    hash.object(template);
    hash.0
}

struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn raw(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Adds the length before the bytes, so that two different lists of texts never become the same bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.raw(&(bytes.len() as u64).to_le_bytes());
        self.raw(bytes);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.bytes(name.as_bytes());
        self.raw(&value.to_le_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.bytes(name.as_bytes());
        self.bytes(text.as_bytes());
    }

    fn option(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn texts(&mut self, name: &str, texts: &[String]) {
        self.number(name, texts.len() as u64);
        for text in texts {
            self.bytes(text.as_bytes());
        }
    }

    fn map(&mut self, name: &str, entries: &BTreeMap<String, String>) {
        self.number(name, entries.len() as u64);
        for (key, value) in entries {
            self.text(key, value);
        }
    }

    fn object(&mut self, fields: &BTreeMap<String, Json>) {
        self.raw(&(fields.len() as u64).to_le_bytes());
        for (name, value) in fields {
            self.bytes(name.as_bytes());
            self.json(value);
        }
    }

    fn json(&mut self, value: &Json) {
        match value {
            Json::Null => self.raw(b"0"),
            Json::Bool(value) => self.raw(if *value { b"t" } else { b"f" }),
            Json::Unsigned(value) => self.tagged(b"u", value.to_le_bytes()),
            Json::Signed(value) => self.tagged(b"i", value.to_le_bytes()),
            Json::Float(value) => self.tagged(b"d", value.to_bits().to_le_bytes()),
            Json::Text(text) => {
                self.raw(b"s");
                self.bytes(text.as_bytes());
            }
            Json::List(items) => {
                self.tagged(b"l", (items.len() as u64).to_le_bytes());
                for item in items {
                    self.json(item);
                }
            }
            Json::Object(fields) => {
                self.raw(b"o");
                self.object(fields);
            }
        }
    }

    fn tagged(&mut self, tag: &[u8], bytes: [u8; 8]) {
        self.raw(tag);
        self.raw(&bytes);
    }
}
