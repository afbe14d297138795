//! `Trigger`: what starts a Fn besides a Route.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Span;
use crate::schema;

/// Calls a Fn from a queue, at an HTTP path of the gateway's own hostname, or by the clock. Exactly one of `queue`,
/// `http` and `schedule` is set.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Default)]
#[kube(group = "funcatron.dev", version = "v1alpha1", kind = "Trigger", namespaced, status = "TriggerStatus")]
#[kube(category = "funcatron", shortname = "ftrigger", plural = "triggers", derive = "PartialEq")]
#[kube(doc = "Calls a Fn from a queue, at a path of the gateway's own hostname, or by the clock.")]
#[kube(validation = Rule::new(schema::NAME_RULE).message(schema::NAME_MESSAGE))]
#[kube(printcolumn(name = "App", type_ = "string", json_path = ".spec.app"))]
#[kube(printcolumn(name = "Fn", type_ = "string", json_path = ".spec.fn"))]
#[kube(printcolumn(
    name = "Ready",
    type_ = "string",
    json_path = r#".status.conditions[?(@.type=="Ready")].status"#
))]
#[kube(printcolumn(
    name = "Reason",
    type_ = "string",
    json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
))]
#[kube(printcolumn(name = "URL", type_ = "string", json_path = ".status.urls[0]"))]
#[kube(printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule.cron"))]
#[kube(printcolumn(name = "Last fired", type_ = "date", json_path = ".status.lastFired"))]
#[kube(printcolumn(name = "Next firing", type_ = "string", json_path = ".status.nextFiring"))]
#[kube(printcolumn(name = "Dead letters", type_ = "integer", json_path = ".status.deadLetters"))]
#[kube(printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"))]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.queue) ? 1 : 0) + (has(self.http) ? 1 : 0) + (has(self.schedule) ? 1 : 0) == 1")
        .message(ONE_SOURCE)
)]
#[x_kube(validation = Rule::new("!has(self.async) || has(self.http)").message(ASYNC_WITHOUT_HTTP))]
pub struct TriggerSpec {
    /// The App it belongs to, in the same namespace.
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(schema::APP_MESSAGE))]
    pub app: String,
    /// The Fn it calls.
    #[serde(rename = "fn")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    pub fn_name: String,
    /// Messages of an exchange of the App, or of a queue on a broker of the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueTrigger>,
    /// Requests to `/t/<namespace>/<app>/<source>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTrigger>,
    /// Times at which it calls with an empty body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleTrigger>,
    /// Whether a request is answered 202 at once and runs later; goes with `http`, since nobody waits for what a queue or
    /// a schedule starts; default false.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub is_async: Option<bool>,
    /// Starts nothing while true, as of a CronJob: a path answers 404 and stays its own, the exchange's messages pass
    /// by, a queue's stay there, times pass; default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
}

/// What a Trigger with none or several of its sources is told.
pub const ONE_SOURCE: &str = "spec: set exactly one of `queue`, `http` and `schedule`";
/// What a Trigger is told that says `async` of calls for which nobody waits anyway.
const ASYNC_WITHOUT_HTTP: &str =
    "spec.async: goes with `http` only; remove it: what a queue or a schedule starts always runs later";

impl TriggerSpec {
    /// Whether its calls wait in the Fn's durable queue.
    pub fn is_durable(&self) -> bool {
        self.queue.is_some() || self.schedule.is_some()
    }

    /// Whether exactly one source is set.
    pub fn has_one_source(&self) -> bool {
        let sources = [self.queue.is_some(), self.http.is_some(), self.schedule.is_some()];
        sources.into_iter().filter(|set| *set).count() == 1
    }

    /// Whether its requests are answered at once and run later.
    pub fn is_async(&self) -> bool {
        self.http.is_some() && self.is_async.unwrap_or(false)
    }

    /// Whether it starts nothing for now.
    pub fn is_suspended(&self) -> bool {
        self.suspend.unwrap_or(false)
    }
}

/// The name that no queue Trigger's exchange may have.
pub const EXCHANGE_RESERVED: &str = "replies";
/// What one is told that has it.
pub const EXCHANGE_RESERVED_MESSAGE: &str =
    "spec.queue.exchange: replies to events go through the App's exchange `replies`: choose another name";

/// What a queue Trigger is told that is neither the one nor the other.
pub const ONE_QUEUE: &str = "spec.queue: set either `exchange`, and `bindingKey` with it, or `broker` and `name`, and `prefetch` with them";

/// Messages of the App's own topic exchange `exchange`, or of the queue `name` on a `broker` of the user's own.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.exchange) != has(self.broker) && has(self.broker) == has(self.name) && (has(self.exchange) || !has(self.bindingKey)) && (has(self.broker) || !has(self.prefetch))")
        .message(ONE_QUEUE)
)]
pub struct QueueTrigger {
    /// The exchange's name within the App, a DNS label; `replies` is the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 40), regex(pattern = schema::NAME))]
    #[x_kube(validation = Rule::new("self != 'replies'").message(EXCHANGE_RESERVED_MESSAGE))]
    pub exchange: Option<String>,
    /// A topic pattern; default `#`, every message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[!-~]+$"))]
    pub binding_key: Option<String>,
    /// A RabbitMQ of the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<QueueBroker>,
    /// The queue there, which the user has declared; it is only taken from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = "^[ -~]+$"))]
    pub name: Option<String>,
    /// How many of its messages are on their way at once; default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub prefetch: Option<u16>,
}

impl QueueTrigger {
    /// Whether it is one of the two forms, whole.
    pub fn is_one(&self) -> bool {
        let Self { exchange, binding_key, broker, name, prefetch } = self;
        match (exchange, broker, name) {
            (Some(_), None, None) => prefetch.is_none(),
            (None, Some(_), Some(_)) => binding_key.is_none(),
            _ => false,
        }
    }
}

/// Where a RabbitMQ of the user's own is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct QueueBroker {
    /// The key of a Secret in the same namespace whose value is `amqps://user:password@host:5671/vhost`, or `amqp://`;
    /// the vhost `/` is `%2f`.
    pub secret_key_ref: SecretKeyRef,
}

/// A key of a named Secret.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, Default)]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_NAME))]
    pub name: String,
    /// The key within it.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::OBJECT_KEY))]
    pub key: String,
}

/// A path below `/t/<namespace>/<app>`.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
pub struct HttpTrigger {
    /// Begins with `/`; it and every path below it (by whole segments) reach the Fn.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new(schema::PATH_RULE).message(schema::PATH_MESSAGE))]
    pub source: String,
}

/// Longest jitter, as `Rule` has it: firings stay near their times.
pub const JITTER_MAX: std::time::Duration = std::time::Duration::from_secs(3600);

/// Times, in the words of a CronJob.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleTrigger {
    /// Minute, hour, day of month, month and day of week, as in `0 3 * * *` or `*/15 8-18 * * MON-FRI`; or @hourly,
    /// @daily, @weekly, @monthly, @yearly.
    #[schemars(length(min = 1, max = 100))]
    pub cron: String,
    /// A name of the IANA time zone database, such as `Europe/Berlin`; default `UTC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// Each firing comes later than its time by a part of this, at most 1h, so that many schedules of one minute do not
    /// fire in one moment. Keep it below the time between two firings; default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("a jitter is 0s to 1h: write it like 30s or 5m"))]
    pub jitter: Option<Span>,
    /// How late a missed firing is still made up, at least 10s; beyond it, it is skipped. Of several missed ones the
    /// latest alone is made up. Absent, it is made up however late, as of a CronJob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('8760h')").message("a startingDeadline is 10s to 8760h: write it like 10m or 1h30m"))]
    pub starting_deadline: Option<Span>,
    /// What a firing does while the one before is not over: `Allow` (default) or `Forbid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency_policy: Option<ConcurrencyPolicy>,
}

/// What a firing does while the one before is not over, in a CronJob's words: `Allow` lets it come, `Forbid` has it wait
/// for that end. There is no `Replace`, since a call in a durable queue cannot be taken back; default `Allow`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ConcurrencyPolicy {
    /// Fires.
    #[default]
    Allow,
    /// Waits for its end.
    Forbid,
}

/// What the operator says of a Trigger.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Default)]
#[serde(rename_all = "camelCase")]
pub struct TriggerStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Ready, and what it stands on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Where an HTTP trigger answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::urls")]
    pub urls: Vec<String>,
    /// Dead letters of its Fn that wait in the App's dead-letter queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub dead_letters: Option<i64>,
    /// The time that last fired, by its cron expression: jitter and delay come on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub last_fired: Option<Time>,
    /// The time that fires next, or is to be made up; absent while suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::time")]
    pub next_firing: Option<Time>,
    /// A time whose call is on its way to the broker; one that stays is sent again under the same id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firing: Option<Firing>,
    /// The call of `lastFired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_call: Option<FiredCall>,
}

/// A time that is being fired.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Firing {
    /// The time, by its cron expression.
    #[schemars(schema_with = "schema::time")]
    pub tick: Time,
    /// The call's id: it follows from the Trigger's uid and the time.
    #[schemars(length(max = 36))]
    pub id: String,
    /// Until when the call may wait for its start.
    #[schemars(schema_with = "schema::time")]
    pub deadline: Time,
}

/// A call that a schedule has made.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FiredCall {
    /// Its id.
    #[schemars(length(max = 36))]
    pub id: String,
    /// Until when it might wait for its start.
    #[schemars(schema_with = "schema::time")]
    pub deadline: Time,
}
