//! A `Quantity` is an amount of CPU or memory as Kubernetes writes it (`500m`, `256Mi`, `1.5`, `1e3`). The
//! form is checked and the text is kept; nothing calculates with the amount.

use serde::Serialize;

/// A checked amount above zero, as its author wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(String);

impl Quantity {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Parses an amount; the error becomes the message of a `FieldError`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        let at = unsigned.find(|c| !is_number(c)).unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(at);
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        if digits == 0 || number.len() - digits > 1 || !is_suffix(suffix) {
            return Err(format!(
                "must be an amount such as 500m, 2 or 256Mi, is {text:?}"
            ));
        }
        if !number.bytes().any(|byte| matches!(byte, b'1'..=b'9')) {
            return Err(format!("must be more than zero, is {text:?}"));
        }
        Ok(Self(text.to_owned()))
    }
}

fn is_suffix(suffix: &str) -> bool {
    const KNOWN: [&str; 16] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    if KNOWN.contains(&suffix) {
        return true;
    }
    let Some(power) = suffix.strip_prefix(['e', 'E']) else {
        return false;
    };
    let digits = power.strip_prefix(['+', '-']).unwrap_or(power);
    matches!(digits.len(), 1..=2) && digits.bytes().all(|byte| byte.is_ascii_digit())
}
