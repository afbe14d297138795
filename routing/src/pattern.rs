//! What a rule says of a path: whole segments, each a literal or a parameter.
//! Never looks at hosts, methods or headers.
//!
//! A path is split at `/` first and percent-decoded afterwards, so that `%2F` never makes a segment.
//! Literals are kept decoded: `/caf%C3%A9` and `/café` are one path.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Twice what Gateway API allows; longer ones are no paths that people write.
const PATTERN_BYTES_MAX: usize = 2048;
/// Bounds the index's depth, and with it the stack that a search takes.
const SEGMENTS_MAX: usize = 64;
/// What would read as structure if a decoded segment were written as it is.
const STRUCTURE: &AsciiSet = &AsciiSet::EMPTY.add(b'/').add(b'%').add(b'?').add(b'#').add(b'{').add(b'}');

/// Why a path cannot be a rule's.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    /// Relative paths have no meaning here.
    #[error("a path begins with `/`")]
    Relative,
    /// Longer than 2048 bytes.
    #[error("longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// More than 64 segments.
    #[error("more than {SEGMENTS_MAX} segments")]
    TooDeep,
    /// An empty segment that is not the last.
    #[error("an empty segment (`//`)")]
    EmptySegment,
    /// `.` or `..`, perhaps percent-encoded.
    #[error("a `.` or `..` segment")]
    DotSegment,
    /// A query, a fragment or a control character.
    #[error("a `?`, `#` or control character")]
    ForbiddenCharacter,
    /// `%` without two hex digits, or bytes that are no UTF-8.
    #[error("percent-encoding that is malformed or no UTF-8")]
    Encoding,
    /// `{name}` beside other text, or an unclosed brace.
    #[error("a template expression must be a whole path segment, as `/{{name}}`")]
    PartialTemplate,
    /// `{}`.
    #[error("a template expression without a name")]
    UnnamedParameter,
    /// Two parameters of one name.
    #[error("two template expressions of the same name")]
    RepeatedParameter,
    /// Braces in an explicit rule.
    #[error("braces: templates stand in OpenAPI documents only")]
    Braces,
}

/// One segment of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// Stands for itself; percent-decoded.
    Literal(Arc<str>),
    /// Stands for any segment that is not empty; holds the parameter's name.
    Param(Arc<str>),
}

/// How a pattern is compared with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatternKind {
    /// The whole path.
    Exact,
    /// The path's first segments.
    Prefix,
    /// The whole path, with parameters.
    Template,
}

/// A path condition, parsed and proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PatternText", into = "PatternText")]
pub struct Pattern {
    kind: PatternKind,
    text: String,
    segments: Vec<Segment>,
}

/// How a pattern is written in a table.
#[derive(Serialize, Deserialize)]
struct PatternText {
    #[serde(rename = "type")]
    kind: PatternKind,
    value: String,
}

impl TryFrom<PatternText> for Pattern {
    type Error = PatternError;

    fn try_from(PatternText { kind, value }: PatternText) -> Result<Self, PatternError> {
        Self::parse(kind, &value)
    }
}

impl From<Pattern> for PatternText {
    fn from(Pattern { kind, text, segments: _ }: Pattern) -> Self {
        Self { kind, value: text }
    }
}

impl Pattern {
    pub(crate) fn parse(kind: PatternKind, text: &str) -> Result<Self, PatternError> {
        let below_root = text.strip_prefix('/').ok_or(PatternError::Relative)?;
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if text.chars().any(|c| c.is_control() || c == '?' || c == '#') {
            return Err(PatternError::ForbiddenCharacter);
        }
        let segments = match (kind, below_root) {
            (PatternKind::Prefix, "") => Vec::new(),
            (PatternKind::Prefix, path) => parse_segments(kind, path.strip_suffix('/').unwrap_or(path))?,
            (PatternKind::Exact | PatternKind::Template, path) => parse_segments(kind, path)?,
        };
        Ok(Self { kind, text: text.to_owned(), segments })
    }

    pub(crate) fn prefix(text: &str) -> Result<Self, PatternError> {
        // Braces pass here, so that a base path's own error can name them.
        Self::parse(PatternKind::Prefix, &text.replace(['{', '}'], "_"))
    }

    /// How the pattern is compared.
    pub fn kind(&self) -> PatternKind {
        self.kind
    }

    /// The pattern as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its segments; a trailing slash of an exact path or a template is an empty last one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn is_root(&self) -> bool {
        self.text == "/"
    }

    pub(crate) fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Param(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// The path with as little percent-encoding as can be: one text for one path.
    pub(crate) fn canonical(&self) -> String {
        let mut text = String::with_capacity(self.text.len());
        for segment in &self.segments {
            text.push('/');
            match segment {
                Segment::Literal(literal) => {
                    text.extend(utf8_percent_encode(literal, STRUCTURE));
                }
                Segment::Param(name) => {
                    text.push('{');
                    text.push_str(name);
                    text.push('}');
                }
            }
        }
        if text.is_empty() { "/".to_owned() } else { text }
    }

    /// The same for all templates that differ in their parameters' names only.
    pub(crate) fn shape(&self) -> String {
        let mut shape = String::with_capacity(self.text.len());
        for segment in &self.segments {
            shape.push('/');
            match segment {
                // Decoded, a literal may hold a slash or a brace, which must not look like structure.
                Segment::Literal(text) => shape.extend(utf8_percent_encode(text, STRUCTURE)),
                Segment::Param(_) => shape.push_str("{}"),
            }
        }
        shape
    }
}

fn parse_segments(kind: PatternKind, below_root: &str) -> Result<Vec<Segment>, PatternError> {
    let count = below_root.split('/').count();
    if count > SEGMENTS_MAX {
        return Err(PatternError::TooDeep);
    }
    let mut segments = Vec::with_capacity(count);
    for (index, raw) in below_root.split('/').enumerate() {
        let last = index + 1 == count;
        if raw.is_empty() && (!last || kind == PatternKind::Prefix) {
            return Err(PatternError::EmptySegment);
        }
        let segment = parse_segment(kind, raw)?;
        if matches!(segment, Segment::Param(_)) && segments.contains(&segment) {
            return Err(PatternError::RepeatedParameter);
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn parse_segment(kind: PatternKind, raw: &str) -> Result<Segment, PatternError> {
    if !raw.contains(['{', '}']) {
        return parse_literal(raw);
    }
    if kind != PatternKind::Template {
        return Err(PatternError::Braces);
    }
    let name = raw.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match name {
        None => Err(PatternError::PartialTemplate),
        Some("") => Err(PatternError::UnnamedParameter),
        Some(name) if name.contains(['{', '}']) => Err(PatternError::PartialTemplate),
        Some(name) => Ok(Segment::Param(name.into())),
    }
}

fn parse_literal(raw: &str) -> Result<Segment, PatternError> {
    if !is_well_encoded(raw) {
        return Err(PatternError::Encoding);
    }
    let decoded = decode(raw).ok_or(PatternError::Encoding)?;
    if is_dot_segment(&decoded) {
        return Err(PatternError::DotSegment);
    }
    if decoded.chars().any(char::is_control) {
        return Err(PatternError::ForbiddenCharacter);
    }
    Ok(Segment::Literal(decoded.into()))
}

/// Whether each `%` is followed by two hex digits.
pub(crate) fn is_well_encoded(raw: &str) -> bool {
    let bytes = raw.as_bytes();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// The segment's text; `None` where its bytes are no UTF-8.
pub(crate) fn decode(raw: &str) -> Option<Cow<'_, str>> {
    if raw.contains('%') { percent_decode_str(raw).decode_utf8().ok() } else { Some(Cow::Borrowed(raw)) }
}

pub(crate) fn is_dot_segment(decoded: &str) -> bool {
    matches!(decoded, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: PatternKind, text: &str) -> PatternError {
        Pattern::parse(kind, text).unwrap_err()
    }

    #[test]
    fn each_fault_of_a_path_is_named() {
        use PatternError as E;
        use PatternKind::{Exact, Prefix, Template};
        for (kind, text, expected) in [
            (Exact, "a", E::Relative),
            (Exact, "", E::Relative),
            (Exact, "/a//b", E::EmptySegment),
            (Template, "//", E::EmptySegment),
            (Prefix, "//", E::EmptySegment),
            (Exact, "/a/../b", E::DotSegment),
            (Exact, "/%2e%2E/b", E::DotSegment),
            (Exact, "/a?b", E::ForbiddenCharacter),
            (Exact, "/a%00", E::ForbiddenCharacter),
            (Exact, "/a%2", E::Encoding),
            (Exact, "/a%zz", E::Encoding),
            (Exact, "/%ff", E::Encoding),
            (Template, "/{name}.json", E::PartialTemplate),
            (Template, "/{a}{b}", E::PartialTemplate),
            (Template, "/{a", E::PartialTemplate),
            (Template, "/{}", E::UnnamedParameter),
            (Template, "/{a}/x/{a}", E::RepeatedParameter),
            (Prefix, "/{a}", E::Braces),
        ] {
            assert_eq!(error(kind, text), expected, "{text}");
        }
        assert_eq!(error(Exact, &"/a".repeat(SEGMENTS_MAX + 1)), E::TooDeep);
        assert_eq!(error(Exact, &format!("/{}", "a".repeat(PATTERN_BYTES_MAX))), E::TooLong);
    }

    #[test]
    fn a_trailing_slash_counts_but_for_prefixes() {
        let count = |kind, text| Pattern::parse(kind, text).unwrap().segments().len();
        assert_eq!(count(PatternKind::Exact, "/a/"), 2);
        assert_eq!(count(PatternKind::Prefix, "/a/"), 1);
        assert_eq!(count(PatternKind::Prefix, "/"), 0);
        assert_eq!(count(PatternKind::Exact, "/"), 1);
    }

    #[test]
    fn shapes_forget_parameter_names_and_tell_encoded_slashes_apart() {
        let shape = |text| Pattern::parse(PatternKind::Template, text).unwrap().shape();
        assert_eq!(shape("/a/{x}"), shape("/a/{y}"));
        assert_ne!(shape("/a/b"), shape("/a%2Fb"));
        assert_ne!(shape("/%7B%7D"), shape("/{x}"));
        assert_eq!(shape("/caf%C3%A9"), shape("/café"));
    }
}
