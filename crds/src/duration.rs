//! `Timeout` and `Span`: lengths of time in Gateway API's words (`500ms`, `30s`, `1h30m`), GEP-2257. Never reads a
//! clock.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// GEP-2257: one to four numbers of at most five digits, each with its unit.
const DURATION_PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// Four parts of five digits and a unit of two letters.
const LENGTH_MAX: usize = 28;
const PARTS_MAX: usize = 4;
const DIGITS_MAX: usize = 5;

/// A timeout as the user wrote it. A manifest may hold nonsense where no API server checked it: `to_duration` says so.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(transparent)]
pub struct Timeout(String);

/// Why a text is no timeout.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DurationParseError {
    /// It has another form.
    #[error("`{0}` is no duration; write it like 500ms, 30s, 2m or 1h30m")]
    Form(String),
    /// It lies beyond what a call may take.
    #[error("`{0}` is out of bounds; a timeout is 1ms to 1h")]
    Bounds(String),
}

impl Timeout {
    /// Of a call whose Fn says nothing.
    pub const DEFAULT: Duration = Duration::from_secs(30);
    /// Longest: one hour, so that a lost call cannot hold its slot for ever.
    pub const MAX: Duration = Duration::from_secs(3600);
    /// Shortest: the unit in which deadlines travel.
    pub const MIN: Duration = Duration::from_millis(1);

    /// Takes the text as it is; `to_duration` judges it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its length, within 1 ms and 1 h.
    pub fn to_duration(&self) -> Result<Duration, DurationParseError> {
        let length = parse_duration(&self.0).ok_or_else(|| DurationParseError::Form(self.0.clone()))?;
        if (Self::MIN..=Self::MAX).contains(&length) {
            Ok(length)
        } else {
            Err(DurationParseError::Bounds(self.0.clone()))
        }
    }
}

impl FromStr for Timeout {
    type Err = DurationParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let timeout = Self(text.to_owned());
        timeout.to_duration()?;
        Ok(timeout)
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads any duration of GEP-2257, without a timeout's bounds: what CEL's `duration()` gives for the same text.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..PARTS_MAX {
        if rest.is_empty() {
            break;
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=DIGITS_MAX).contains(&digits) {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let (unit_ms, tail) = unit(tail)?;
        sum += Duration::from_millis(number * unit_ms);
        rest = tail;
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum)
}

/// `ms` before `m`: the longer unit first.
fn unit(text: &str) -> Option<(u64, &str)> {
    [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
        .into_iter()
        .find_map(|(unit, unit_ms)| text.strip_prefix(unit).map(|rest| (unit_ms, rest)))
}

impl JsonSchema for Timeout {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timeout".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": LENGTH_MAX,
            "pattern": DURATION_PATTERN,
            "x-kubernetes-validations": [{
                "rule": "duration(self) >= duration('1ms') && duration(self) <= duration('1h')",
                "message": "a timeout is 1ms to 1h: write it like 500ms, 30s or 1h",
            }],
        })
    }
}

/// A length of time that is no call's; each field has bounds of its own.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(transparent)]
pub struct Span(String);

impl Span {
    /// Takes the text as it is; `to_duration` judges it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its length; a manifest may hold nonsense where no API server checked it.
    pub fn to_duration(&self) -> Result<Duration, DurationParseError> {
        parse_duration(&self.0).ok_or_else(|| DurationParseError::Form(self.0.clone()))
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "maxLength": LENGTH_MAX, "pattern": DURATION_PATTERN})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(text: &str) -> Result<Duration, DurationParseError> {
        Timeout::new(text).to_duration()
    }

    #[test]
    fn parts_add_up() {
        assert_eq!(length("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(length("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(length("0h2m").unwrap(), Duration::from_secs(120));
        assert_eq!(length("1h").unwrap(), Timeout::MAX);
        assert_eq!(length("1m30s500ms").unwrap(), Duration::from_millis(90_500));
        assert_eq!(length("1s1s1s1s").unwrap(), Duration::from_secs(4));
    }

    #[test]
    fn other_forms_are_refused_by_name() {
        for text in ["", "30", "s", "1.5s", "-1s", "1d", "1 s", "100000ms", "1s1s1s1s1s", "1S", "١s", "1us"]
        {
            assert_eq!(length(text), Err(DurationParseError::Form(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn nothing_below_a_millisecond_or_above_an_hour() {
        for text in ["0s", "0ms", "1h1ms", "61m", "99999h99999h99999h99999h"] {
            assert_eq!(length(text), Err(DurationParseError::Bounds(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        let timeout: Timeout = serde_json::from_str("\"90s\"").unwrap();
        assert_eq!(serde_json::to_string(&timeout).unwrap(), "\"90s\"");
        assert_eq!("90s".parse::<Timeout>().unwrap(), timeout);
        assert!("90".parse::<Timeout>().is_err());
    }
}
