//! Reads YAML documents as values with the line of each field. JSON documents are YAML documents, too. Of
//! functions, this module knows only where the Kubernetes form keeps their fields.

use std::collections::BTreeMap;
use std::fmt;

use nanofaas_core::spec::{Json, JsonObject};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{SnippetMode, Spanned, UserMessageFormatter};

pub(super) struct Located {
    /// The line of the document's first node, counted from 1.
    pub line: u32,
    pub json: Json,
    /// The line of each field, by the field's path in a `FieldError`.
    pub lines: BTreeMap<String, u32>,
}

/// Returns the documents of a text, except empty ones. An error comes with its line.
pub(super) fn documents(text: &str) -> Result<Vec<Located>, (u64, String)> {
    let nodes: Vec<Node> = serde_saphyr::from_multiple(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let options = serde_saphyr::render_options! {
            formatter: &UserMessageFormatter,
            snippets: SnippetMode::Off,
        };
        (line, error.render_with_options(options))
    })?;
    let locate = |node: Node| {
        let mut lines = BTreeMap::new();
        let line = node.line;
        let json = node.take(String::new(), &mut lines);
        Located { line, json, lines }
    };
    Ok(nodes.into_iter().map(locate).collect())
}

struct Node {
    line: u32,
    value: Value,
}

enum Value {
    Leaf(Json),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Node {
    /// Separates the values from their lines. A field has the line of its name, because the value of a block
    /// begins one line later.
    fn take(self, path: String, lines: &mut BTreeMap<String, u32>) -> Json {
        match self.value {
            Value::Leaf(json) => json,
            Value::List(items) => {
                let take = |(at, item): (usize, Self)| {
                    let path = format!("{path}[{at}]");
                    lines.insert(path.clone(), item.line);
                    item.take(path, lines)
                };
                Json::List(items.into_iter().enumerate().map(take).collect())
            }
            Value::Map(entries) => {
                let mut fields = JsonObject::new();
                for (name, node) in entries {
                    let path = below(&path, &name.value);
                    lines.insert(path.clone(), line(&name));
                    fields.insert(name.value, node.take(path, lines));
                }
                Json::Object(fields)
            }
        }
    }
}

/// Returns the path of a field. In the Kubernetes form, a function's fields are below `spec`.
fn below(path: &str, name: &str) -> String {
    match path {
        "" | "spec" => name.to_owned(),
        "metadata" if name == "name" => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

fn line<T>(spanned: &Spanned<T>) -> u32 {
    u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self {
            line: line(&spanned),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value that JSON has too")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Leaf(Json::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Leaf(Json::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Leaf(Json::Bool(value)))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Leaf(Json::Unsigned(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Leaf(Json::from(value)))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() {
            Ok(Value::Leaf(Json::Float(value)))
        } else {
            Err(E::custom(format_args!(
                "{value} is not a number that JSON has"
            )))
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Leaf(Json::from(text)))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Leaf(Json::Text(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}
