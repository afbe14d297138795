//! Revisions: what the user asked to run, as one document, and the name that follows from it. The hash covers the
//! user's input alone, so that an upgrade of the platform rolls nothing. Never holds a Secret's value.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::digest::Digest;
use crate::environment::{EnvEntry, EnvError, check_env, merged_env};
use crate::hex::hex;
use crate::names::NAME_LENGTH_MAX;
use crate::resources::memory_bytes;
use crate::{AppSpec, Contract, FnSpec, Timeout};

/// Changes only when the hash must cover something else, or differently; every Fn then rolls once.
const SCHEME: &str = "funcatron revision scheme 1\n";
const HASH_LENGTH: usize = 8;
/// What is called where a Fn names no handler.
pub const DEFAULT_HANDLER: &str = "handler";
/// Calls at once in one host process or container where a Fn says nothing.
pub const DEFAULT_CONCURRENCY: u32 = 1;
/// Attempts at an event where a Fn says nothing.
pub const DEFAULT_ATTEMPTS: u32 = 4;
/// Most calls at once in one host process or container.
pub const CONCURRENCY_MAX: u32 = 1000;
/// A host process needs at least this much to start.
const MEMORY_BYTES_MIN: u64 = 1 << 20;

/// `<fn>-<hash8>`, at most 49 characters.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(try_from = "String", into = "String")]
pub struct RevisionName(String);

/// Why a spec gives no revision. Each names its field.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RevisionError {
    /// A name that is no revision's.
    #[error("`{0}` names no revision: that is a Fn's name, `-` and 8 hex digits")]
    Name(String),
    /// Not exactly one of runtime and image.
    #[error("spec: set exactly one of `runtime` (with `source`) and `image`")]
    RuntimeOrImage,
    /// A field that goes with `runtime` alone.
    #[error("spec.{0}: goes with `runtime` only; remove it beside `image`")]
    NotWithImage(&'static str),
    /// A contract that nothing serves yet.
    #[error("spec.contract: `command` is not there yet; use `fn` or `http`")]
    ContractCommand,
    /// Code is missing.
    #[error("spec.source: is missing; `runtime` needs it")]
    SourceMissing,
    /// A timeout that is none.
    #[error("spec.timeout: {0}")]
    Timeout(crate::DurationParseError),
    /// Too few or many calls at once.
    #[error("spec.concurrency: {0} is out of bounds; it is 1 to 1000")]
    Concurrency(i32),
    /// An amount of memory that is none, or too small to run anything.
    #[error("spec.resources.limits.memory: `{0}` is no amount of at least 1Mi; write it like 128Mi or 1Gi")]
    Memory(String),
    /// A variable or reference that says too much or too little.
    #[error(transparent)]
    Env(#[from] EnvError),
}

impl RevisionName {
    /// The revision of that Fn with that hash.
    pub fn new(fn_name: &str, hash: &str) -> Result<Self, RevisionError> {
        Self::parse(&format!("{fn_name}-{hash}"))
    }

    /// Reads `<fn>-<hash8>`.
    pub fn parse(text: &str) -> Result<Self, RevisionError> {
        let good = text.rsplit_once('-').is_some_and(|(fn_name, hash)| {
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            is_label(fn_name) && hash.len() == HASH_LENGTH && hash.bytes().all(hex)
        });
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(RevisionError::Name(text.chars().take(100).collect()))
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Fn that it is a revision of.
    pub fn fn_name(&self) -> &str {
        &self.0[..self.0.len() - HASH_LENGTH - 1]
    }
}

/// A DNS label of our own length: what a CRD lets through as a name.
fn is_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAME_LENGTH_MAX).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

impl fmt::Display for RevisionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RevisionName {
    type Error = RevisionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<RevisionName> for String {
    fn from(name: RevisionName) -> Self {
        name.0
    }
}

/// All that a runner needs to run a revision: handed out by digest, beside the code. Of Secrets it holds names alone.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RunDocument {
    /// Of this document's form: 1.
    pub version: u32,
    /// The Fn's namespace.
    pub namespace: String,
    /// The Fn's App.
    pub app: String,
    /// The Fn.
    #[serde(rename = "fn")]
    pub fn_name: String,
    /// The name that follows from all the rest.
    pub revision: RevisionName,
    /// What hosts the code; absent: an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// The image of a dedicated Fn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What the image speaks; absent: Fn's contract.
    #[serde(default, skip_serializing_if = "Contract::is_fn")]
    pub contract: Contract,
    /// What is called in the code; empty for an image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub handler: String,
    /// The bundle of the code; absent for an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Digest>,
    /// Environment in the order in which it is set: a later one of the same name wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvEntry>,
    /// The most memory of one host process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Calls at once in one process or container.
    pub concurrency: u32,
    /// Longest time from submit to answer.
    pub timeout_ms: u64,
    /// Attempts at an event of a queue Trigger, which says nothing of them itself; calls do.
    #[serde(
        default = "default_attempts",
        rename = "maxAttempts",
        skip_serializing_if = "is_default_attempts"
    )]
    pub attempts_max: u32,
}

/// What the hash covers, in the order in which it does: never reordered, never renamed, and a new field is skipped
/// while absent, so that revisions of old stay what they are.
#[derive(Serialize)]
struct Hashed<'a> {
    namespace: &'a str,
    app: &'a str,
    #[serde(rename = "fn")]
    fn_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Contract::is_fn")]
    contract: Contract,
    #[serde(skip_serializing_if = "str::is_empty")]
    handler: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a Digest>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    env: &'a [EnvEntry],
    #[serde(rename = "memoryBytes", skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    concurrency: u32,
    #[serde(rename = "timeoutMs")]
    timeout_ms: u64,
    #[serde(rename = "maxAttempts", skip_serializing_if = "is_default_attempts")]
    attempts_max: u32,
}

const fn default_attempts() -> u32 {
    DEFAULT_ATTEMPTS
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_default_attempts(attempts: &u32) -> bool {
    *attempts == DEFAULT_ATTEMPTS
}

impl RunDocument {
    /// The form that this code writes.
    pub const VERSION: u32 = 1;

    /// The document of a Fn whose code has that digest. Looks nothing up: whether App, runtime and keys exist is the
    /// operator's to say.
    pub fn build(
        namespace: &str,
        fn_name: &str,
        app: &AppSpec,
        spec: &FnSpec,
        code: Option<Digest>,
    ) -> Result<Self, RevisionError> {
        check_kind(spec)?;
        check_env("App", &app.env, &app.env_from)?;
        check_env("Fn", &spec.env, &spec.env_from)?;
        let handler = spec.runtime.as_ref().map(|_| spec.handler.as_deref().unwrap_or(DEFAULT_HANDLER));
        let placeholder = RevisionName::new(fn_name, &"0".repeat(HASH_LENGTH))?;
        let mut document = Self {
            version: Self::VERSION,
            namespace: namespace.to_owned(),
            app: spec.app.clone(),
            fn_name: fn_name.to_owned(),
            revision: placeholder,
            runtime: spec.runtime.clone(),
            image: spec.image.clone(),
            contract: spec.image.as_ref().and(spec.contract).unwrap_or_default(),
            handler: handler.unwrap_or_default().to_owned(),
            code: spec.runtime.as_ref().and(code),
            env: merged_env(app, spec),
            memory_bytes: memory(spec)?,
            concurrency: concurrency(spec)?,
            timeout_ms: timeout_ms(spec)?,
            attempts_max: attempts(spec),
        };
        document.revision = RevisionName::new(fn_name, &document.hash())?;
        Ok(document)
    }

    /// The document as it is stored and handed out: canonical JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a document of strings, numbers and lists is always JSON")
    }

    /// Names the document's bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_bytes())
    }

    fn hash(&self) -> String {
        // Whole, so that a new field cannot be forgotten.
        let Self {
            version: _,
            namespace,
            app,
            fn_name,
            revision: _,
            runtime,
            image,
            contract,
            handler,
            code,
            env,
            memory_bytes,
            concurrency,
            timeout_ms,
            attempts_max,
        } = self;
        let hashed = Hashed {
            namespace,
            app,
            fn_name,
            runtime: runtime.as_deref(),
            image: image.as_deref(),
            contract: *contract,
            handler,
            code: code.as_ref(),
            env,
            memory_bytes: *memory_bytes,
            concurrency: *concurrency,
            timeout_ms: *timeout_ms,
            attempts_max: *attempts_max,
        };
        let json = serde_json::to_vec(&hashed).expect("strings, numbers and lists are always JSON");
        let mut sha = Sha256::new();
        sha.update(SCHEME);
        sha.update(json);
        hex(&sha.finalize()[..HASH_LENGTH / 2])
    }
}

fn check_kind(spec: &FnSpec) -> Result<(), RevisionError> {
    match (&spec.runtime, &spec.image) {
        (Some(_), None) if spec.source.is_none() => Err(RevisionError::SourceMissing),
        (Some(_), None) => Ok(()),
        (None, Some(_)) if spec.source.is_some() => Err(RevisionError::NotWithImage("source")),
        (None, Some(_)) if spec.handler.is_some() => Err(RevisionError::NotWithImage("handler")),
        (None, Some(_)) if spec.contract == Some(Contract::Command) => Err(RevisionError::ContractCommand),
        (None, Some(_)) => Ok(()),
        _ => Err(RevisionError::RuntimeOrImage),
    }
}

fn memory(spec: &FnSpec) -> Result<Option<u64>, RevisionError> {
    let limits = spec.resources.as_ref().and_then(|r| r.limits.as_ref());
    let Some(quantity) = limits.and_then(|l| l.memory.as_ref()) else { return Ok(None) };
    match memory_bytes(&quantity.0) {
        Some(bytes) if bytes >= MEMORY_BYTES_MIN => Ok(Some(bytes)),
        _ => Err(RevisionError::Memory(quantity.0.chars().take(100).collect())),
    }
}

fn concurrency(spec: &FnSpec) -> Result<u32, RevisionError> {
    let Some(given) = spec.concurrency else { return Ok(DEFAULT_CONCURRENCY) };
    let bounded = u32::try_from(given).ok().filter(|n| (1..=CONCURRENCY_MAX).contains(n));
    bounded.ok_or(RevisionError::Concurrency(given))
}

fn timeout_ms(spec: &FnSpec) -> Result<u64, RevisionError> {
    let length = spec.timeout.as_ref().map_or(Ok(Timeout::DEFAULT), Timeout::to_duration);
    length.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)).map_err(RevisionError::Timeout)
}

/// The CRD's rules have refused what is out of bounds.
fn attempts(spec: &FnSpec) -> u32 {
    let retry = spec.detached.as_ref().and_then(|detached| detached.retry.as_ref());
    let given = retry.and_then(|retry| retry.max_attempts);
    given.and_then(|given| u32::try_from(given).ok()).unwrap_or(DEFAULT_ATTEMPTS)
}

#[cfg(test)]
#[path = "revision_tests.rs"]
mod tests;
