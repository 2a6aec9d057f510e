//! Reads typed values from a draft's fields and notes every fault under the field's name. An invalid value
//! counts as absent, so that one fault does not hide the faults of the fields after it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::draft::FieldError;
use super::json::{Json, JsonObject};

pub(super) struct Reader<'a> {
    fields: Option<&'a JsonObject>,
    /// The path of the object that is read, which ends with a dot; empty at the top.
    prefix: String,
    faults: &'a mut Vec<FieldError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(fields: &'a JsonObject, faults: &'a mut Vec<FieldError>) -> Self {
        Self {
            fields: Some(fields),
            prefix: String::new(),
            faults,
        }
    }

    pub(super) fn fault(&mut self, field: &str, message: impl Into<String>) {
        self.faults
            .push(FieldError::new(format!("{}{field}", self.prefix), message));
    }

    /// Returns whether the field has a value other than null, valid or not.
    pub(super) fn has(&self, field: &str) -> bool {
        self.raw(field).is_some()
    }

    fn raw(&self, field: &str) -> Option<&'a Json> {
        self.fields?.get(field).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, field: &str, wanted: &str, given: &Json) {
        self.fault(field, format!("must be {wanted}, is {}", given.describe()));
    }

    /// Returns a reader of the object in this field. An absent object counts as empty.
    pub(super) fn object(&mut self, field: &str) -> Reader<'_> {
        let fields = match self.raw(field) {
            None => None,
            Some(Json::Object(fields)) => Some(fields),
            Some(other) => {
                self.wrong(field, "an object", other);
                None
            }
        };
        let prefix = format!("{}{field}.", self.prefix);
        Reader {
            fields,
            prefix,
            faults: self.faults,
        }
    }

    /// Reads an object without checking its fields.
    pub(super) fn any_object(&mut self, field: &str) -> Option<&'a JsonObject> {
        let given = self.raw(field)?;
        let fields = given.as_object();
        if fields.is_none() {
            self.wrong(field, "an object", given);
        }
        fields
    }

    pub(super) fn number(&mut self, field: &str, range: &RangeInclusive<u32>) -> Option<u32> {
        let given = self.raw(field)?;
        let (least, most) = (range.start(), range.end());
        let whole = match given {
            Json::Unsigned(value) => u32::try_from(*value).ok(),
            Json::Float(value) => whole(*value),
            Json::Signed(_) => None,
            _ => {
                self.wrong(
                    field,
                    &format!("a whole number from {least} to {most}"),
                    given,
                );
                return None;
            }
        };
        let value = whole.filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong(field, &format!("{least} to {most}"), given);
        }
        value
    }

    pub(super) fn flag(&mut self, field: &str) -> Option<bool> {
        let given = self.raw(field)?;
        match given {
            Json::Bool(flag) => return Some(*flag),
            _ => self.wrong(field, "true or false", given),
        }
        None
    }

    /// Reads a text that is not empty and contains no NUL, because neither a process nor a pod accepts NUL.
    pub(super) fn text(&mut self, field: &str) -> Option<&'a str> {
        let given = self.raw(field)?;
        match given {
            Json::Text(text) if text.is_empty() => self.fault(field, "must not be empty"),
            Json::Text(text) if text.contains('\0') => self.fault(field, NO_NUL),
            Json::Text(text) => return Some(text),
            _ => self.wrong(field, TEXT, given),
        }
        None
    }

    pub(super) fn checked<T>(
        &mut self,
        field: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(field)?;
        check(text)
            .map_err(|message| self.fault(field, message))
            .ok()
    }

    /// Reads a text that has to pass `check`. A number counts as the text of its digits (`cpu: 2` in YAML).
    pub(super) fn checked_or_number<T>(
        &mut self,
        field: &str,
        check: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let number = match self.raw(field)? {
            Json::Unsigned(value) => value.to_string(),
            Json::Signed(value) => value.to_string(),
            Json::Float(value) => value.to_string(),
            _ => return self.checked(field, check),
        };
        check(&number)
            .map_err(|message| self.fault(field, message))
            .ok()
    }

    pub(super) fn choice<T: Copy>(&mut self, field: &str, names: &[(&str, T)]) -> Option<T> {
        let given = self.raw(field)?;
        let found = given.as_text().and_then(|text| choose(text, names));
        if found.is_none() {
            self.wrong(field, &one_of(names), given);
        }
        found
    }

    /// Reads a list of texts. A fault names the item (`command[1]`).
    pub(super) fn texts(&mut self, field: &str) -> Option<Vec<&'a str>> {
        let given = self.raw(field)?;
        let Json::List(items) = given else {
            self.wrong(field, "a list", given);
            return None;
        };
        let mut texts = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            match item {
                Json::Text(text) if text.contains('\0') => {
                    self.fault(&format!("{field}[{at}]"), NO_NUL);
                }
                Json::Text(text) => texts.push(text.as_str()),
                other => self.wrong(&format!("{field}[{at}]"), TEXT, other),
            }
        }
        Some(texts)
    }

    /// Reads an object whose values are texts. A fault names the entry (`env.HOME`).
    pub(super) fn text_map(&mut self, field: &str) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        let Some(entries) = self.any_object(field) else {
            return texts;
        };
        for (name, value) in entries {
            match value {
                Json::Text(text) if text.contains('\0') => {
                    self.fault(&format!("{field}.{name}"), NO_NUL);
                }
                Json::Text(text) => {
                    texts.insert(name.clone(), text.clone());
                }
                other => self.wrong(&format!("{field}.{name}"), TEXT, other),
            }
        }
        texts
    }
}

const NO_NUL: &str = "must not contain a NUL character";
/// What a field of type text must be. The quotes are named, because YAML reads `yes` and digits without
/// quotes as values of other types.
const TEXT: &str = "a text (in quotes)";

/// Converts a number that is whole and in the range of `u32`. JSON has only one type of number, so `4.0` is
/// as whole as `4`.
fn whole(value: f64) -> Option<u32> {
    let fits = value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    fits.then_some(value as u32)
}

pub(super) fn choose<T: Copy>(text: &str, names: &[(&str, T)]) -> Option<T> {
    names
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value)
}

/// Returns the names as `A, B or C`.
pub(super) fn one_of<T>(names: &[(&str, T)]) -> String {
    let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
    match names.as_slice() {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
