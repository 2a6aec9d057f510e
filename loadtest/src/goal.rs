//! A goal is the limit of a figure, such as `>= 1.3`. This module checks whether a measured value meets the
//! goal. It measures nothing. Scenarios name goals, and comparisons judge them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::figures::Figure;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goal {
    pub(crate) contender: String,
    pub(crate) figure: Figure,
    /// The contender with which the goal's contender is compared; the baseline if absent.
    #[serde(default)]
    pub(crate) against: Option<String>,
    #[serde(default, rename = "as")]
    pub(crate) kind: GoalKind,
    pub(crate) must: Limit,
    #[serde(default)]
    pub(crate) reach: Option<Limit>,
}

/// The value that is compared with the limit in each round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GoalKind {
    /// The contender's figure divided by the figure of `against`.
    #[default]
    Ratio,
    /// The contender's figure minus the figure of `against`.
    Difference,
    /// The contender's figure.
    Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Limit {
    at_least: bool,
    pub(crate) value: f64,
}

impl Limit {
    pub(crate) fn holds(self, value: f64) -> bool {
        if self.at_least {
            value >= self.value
        } else {
            value <= self.value
        }
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (at_least, number) = match (text.strip_prefix(">="), text.strip_prefix("<=")) {
            (Some(number), _) => (true, number),
            (_, Some(number)) => (false, number),
            _ => {
                return Err(format!(
                    "{text:?}: write a limit like '>= 1.3' or '<= 0.75'"
                ));
            }
        };
        let value = number
            .trim()
            .parse()
            .map_err(|_| format!("{text:?} holds no number"))?;
        Ok(Self { at_least, value })
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> Self {
        limit.to_string()
    }
}

impl Limit {
    /// Formats the limit; `show` formats its value in the figure's unit.
    pub(crate) fn show(self, show: impl Fn(f64) -> String) -> String {
        format!(
            "{} {}",
            if self.at_least { "≥" } else { "≤" },
            show(self.value)
        )
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{} {}",
            if self.at_least { "≥" } else { "≤" },
            self.value
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_hold() {
        let least = Limit::try_from(">= 1.3".to_owned()).expect("a limit");
        let most = Limit::try_from("<=0.75".to_owned()).expect("a limit");
        assert!(least.holds(1.3) && !least.holds(1.29) && most.holds(0.75) && !most.holds(0.76));
        assert_eq!(least.to_string(), "≥ 1.3");
        assert!(Limit::try_from("1.3".to_owned()).is_err());
        assert!(!most.holds(f64::NAN) && !least.holds(f64::NAN));
    }
}
