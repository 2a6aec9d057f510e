//! A second reader of envelopes, built on serde_json. It is slow, and was written from the contract
//! and not from the parser.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Collects the members of an object in their order; a repeated name is kept each time.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}

fn members(text: &[u8]) -> Option<Vec<(String, &RawValue)>> {
    serde_json::Deserializer::from_slice(text)
        .deserialize_map(Members)
        .ok()
}

/// Returns `input` and `metadata` of an envelope, or `None` if the text is not an envelope. The text must be
/// valid JSON.
pub(crate) fn envelope(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let members = members(text)?;
    let only = |name: &str| {
        let mut named = members
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, raw)| raw.get());
        let first = named.next();
        (first, named.next().is_none())
    };
    let ((input, one_input), (metadata, one_metadata)) = (only("input"), only("metadata"));
    let metadata = metadata.filter(|&text| text != "null").map(str::as_bytes);
    let are_strings = match metadata {
        None => true,
        Some(text) => self::members(text)?
            .iter()
            .all(|(_, value)| value.get().starts_with('"')),
    };
    (one_input && one_metadata && are_strings).then_some(())?;
    Some((input?.as_bytes(), metadata))
}
