//! Bytes → document: gzip or not, JSON or YAML, within bounds.
//! Never reads what the document means.

use std::borrow::Cow;
use std::io::Read;
use std::thread;

use flate2::read::GzDecoder;
use thiserror::Error;

use super::model::RawDocument;

/// Twice kube-apiserver's own document, and room.
const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A document of that size has some 500,000; a flow sequence of ones has four million.
const YAML_NODES_MAX: usize = 1_000_000;
/// Schemas nest deep, though nobody's this deep; serde_json has the same limit.
const YAML_DEPTH_MAX: usize = 128;
/// The reader recurses, in debug builds by some 20 KiB a level: four times what the depth can take.
const YAML_STACK_BYTES: usize = 16 * 1024 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why no document could be read from bytes. The sources' own words are in Display, since they hold the place.
#[derive(Debug, Error)]
pub(super) enum UnpackError {
    #[error("larger than {} MiB", DOCUMENT_BYTES_MAX / 1024 / 1024)]
    TooLarge,
    #[error("broken gzip: {0}")]
    Gzip(std::io::Error),
    #[error("not UTF-8, from byte {0} on")]
    Text(usize),
    #[error("empty")]
    Empty,
    #[error("not the JSON of a document: {0}")]
    Json(serde_json::Error),
    #[error("not the YAML of a document: {0}")]
    Yaml(String),
    #[error("no thread to read it on: {0}")]
    Thread(std::io::Error),
}

impl UnpackError {
    pub(super) fn fix(&self) -> &'static str {
        match self {
            Self::TooLarge => "remove what is not needed, or split it into several Routes",
            Self::Gzip(_) => "pack it again, or give it unpacked",
            Self::Text(_) => "save it as UTF-8",
            Self::Empty => "give an OpenAPI or Swagger document",
            Self::Json(_) | Self::Yaml(_) => "mend it there",
            Self::Thread(_) => "nothing: it is read again",
        }
    }
}

pub(super) fn parse(document: &[u8]) -> Result<RawDocument, UnpackError> {
    let bytes = unpack(document)?;
    let text = str::from_utf8(&bytes).map_err(|error| UnpackError::Text(error.valid_up_to()))?;
    // Editors of old put a byte order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.trim_start().as_bytes().first() {
        None => Err(UnpackError::Empty),
        Some(b'{') => serde_json::from_str(text).map_err(UnpackError::Json),
        Some(_) => parse_yaml(text),
    }
}

fn unpack(document: &[u8]) -> Result<Cow<'_, [u8]>, UnpackError> {
    let unpacked = if document.starts_with(&GZIP_MAGIC) {
        let mut unpacked = Vec::new();
        let limit = DOCUMENT_BYTES_MAX as u64 + 1;
        GzDecoder::new(document).take(limit).read_to_end(&mut unpacked).map_err(UnpackError::Gzip)?;
        Cow::Owned(unpacked)
    } else {
        Cow::Borrowed(document)
    };
    if unpacked.len() > DOCUMENT_BYTES_MAX {
        return Err(UnpackError::TooLarge);
    }
    Ok(unpacked)
}

/// On a stack of its own: a caller's may be small or nearly used up, and to run out of it is no error that one
/// could answer but the end of the process, with everybody's Routes.
fn parse_yaml(text: &str) -> Result<RawDocument, UnpackError> {
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("yaml".to_owned())
            .stack_size(YAML_STACK_BYTES)
            .spawn_scoped(scope, || parse_yaml_here(text))
            .map_err(UnpackError::Thread)?;
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn parse_yaml_here(text: &str) -> Result<RawDocument, UnpackError> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_nodes: YAML_NODES_MAX,
            max_events: 3 * YAML_NODES_MAX,
            max_depth: YAML_DEPTH_MAX,
            max_documents: 1,
        },
        with_snippet: false,
    };
    serde_yaml::from_str_with_options(text, options)
        .map_err(|error| UnpackError::Yaml(error.render_with_formatter(&serde_yaml::UserMessageFormatter)))
}
