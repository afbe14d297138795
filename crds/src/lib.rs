//! The API types of `funcatron.dev/v1alpha1`: what users write, what the operator answers, and the names and
//! hashes that follow from them. Never performs I/O, holds no client and reads no clock.
#![allow(clippy::duplicated_attributes, reason = "two printer columns of one type are no duplicates")]

pub mod address;
#[allow(unreachable_pub, reason = "the expansion of KubeSchema repeats the struct within a function")]
mod app;
mod bridge;
pub mod bundle;
mod condition;
mod definitions;
mod digest;
mod duration;
#[allow(unreachable_pub, reason = "the expansion of KubeSchema repeats the struct within a function")]
mod env;
mod environment;
#[allow(unreachable_pub, reason = "the expansion of KubeSchema repeats the struct within a function")]
mod function;
mod hex;
pub mod names;
mod resources;
mod revision;
#[allow(unreachable_pub, reason = "the expansion of KubeSchema repeats the struct within a function")]
mod route;
mod schema;
#[allow(unreachable_pub, reason = "the expansion of KubeSchema repeats the struct within a function")]
mod trigger;

pub use address::{AddressError, ObjectAct, ObjectOf, SigningKey};
pub use app::{App, AppLimits, AppRetention, AppRunners, AppSpec, AppStatus, RecordedCalls};
pub use bridge::{BridgedQueue, PREFETCH_DEFAULT};
pub use bundle::BundleError;
pub use condition::{
    ConditionStatus, ConditionType, MESSAGE_BYTES_MAX, Reason, find_condition, is_true, remove_condition,
    set_condition,
};
pub use definitions::{Definition, definitions};
pub use digest::{Digest, DigestParseError, Digester};
pub use duration::{DurationParseError, Span, Timeout, parse_duration};
pub use env::{
    ConfigMapKeyRef, ConfigMapRef, EnvFromSource, EnvVar, EnvVarSource, KeySelector, LocalObjectReference,
};
pub use environment::{EnvEntry, EnvError, ObjectKind, RESERVED_PREFIXES, check_env, merged_env};
pub use function::{
    AsyncRetry, Callback, Contract, DeadLetters, FilesSource, FnAsync, FnScale, FnSource, FnSpec, FnStatus,
    Function,
};
pub use resources::{ResourceAmounts, ResourceLimits, memory_bytes};
pub use revision::{
    CONCURRENCY_MAX, DEFAULT_ATTEMPTS, DEFAULT_CONCURRENCY, DEFAULT_HANDLER, RevisionError, RevisionName,
    RunDocument,
};
pub use route::{
    Backend, Direct, HeaderMatch, HttpMethod, OpenApiSource, OperationRule, PathMatch, PathMatchType, Route,
    RouteMatch, RouteRule, RouteSpec, RouteStatus,
};
pub use schema::{CONFLICT_LENGTH_MAX, CONFLICTS_MAX, HOSTNAMES_MAX, URLS_MAX};
pub use trigger::{
    ConcurrencyPolicy, EXCHANGE_RESERVED, EXCHANGE_RESERVED_MESSAGE, FiredCall, Firing, HttpTrigger,
    JITTER_MAX, ONE_QUEUE, ONE_SOURCE, QueueBroker, QueueTrigger, ScheduleTrigger, SecretKeyRef, Trigger,
    TriggerSpec, TriggerStatus,
};

/// The API group of every kind.
pub const GROUP: &str = "funcatron.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
/// What server-side apply signs our fields with.
pub const FIELD_MANAGER: &str = "funcatron-operator";
