//! The names of everything of ours on a broker, and what an App's user may do with them.
//!
//! Every name is `<installation>.<namespace>.<app>.<kind>.<rest>` or `<installation>.<kind>…`; every
//! part is a DNS label, so a part holds no dot and a name is read back in one way only.
//! Never performs I/O, and never invents randomness: suffixes come from the caller.

use std::fmt;

/// AMQP 0-9-1 carries names and routing keys as short strings.
pub const NAME_BYTES_MAX: usize = 255;
/// RFC 1035's limit, which Kubernetes keeps for namespaces.
const LABEL_BYTES_MAX: usize = 63;
/// Leaves room for all other parts at their longest within `NAME_BYTES_MAX`.
const INSTALLATION_BYTES_MAX: usize = 20;
/// What stands before a Trigger's name in its bridge's exchange.
const BRIDGE: &str = "bridge";
/// Names that begin so belong to the broker.
const RESERVED: &str = "amq";
/// The routing key under which runners' reports reach the operator's queue.
pub const REPORTS_KEY: &str = "reports";
/// The routing key under which runners' events and claims reach the ledger's queue.
pub const LEDGER_KEY: &str = "ledger";
/// The one exchange among an App's own that is not for events: replies to them go through it.
pub const EVENT_REPLIES: &str = "replies";

/// Why a name cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The installation's id breaks its form.
    #[error("installation id {0:?} is not 1 to 20 characters of a-z, 0-9 and -, or is reserved")]
    Installation(String),
    /// A part is no DNS label.
    #[error("{part} {value:?} is not a DNS label of at most 63 characters")]
    Label {
        /// Which part of the name it was to be.
        part: &'static str,
        /// What was given.
        value: String,
    },
    /// A whole name or routing key is empty or too long.
    #[error("{what} is empty or longer than 255 bytes")]
    Length {
        /// Which kind of name.
        what: &'static str,
    },
    /// A name that the platform uses itself.
    #[error("exchange {EVENT_REPLIES:?} is where replies to events go: choose another name")]
    Reserved,
    /// A name holds a control character.
    #[error("{what} holds a control character")]
    Control {
        /// Which kind of name.
        what: &'static str,
    },
}

macro_rules! short_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Takes a name as it came from outside; at most 255 bytes, not empty, no control character.
            pub fn parse(name: &str) -> Result<Self, NameError> {
                checked($what, name).map(Self)
            }

            /// The name as the broker knows it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

short_name!(
    /// The name of a queue.
    QueueName, "queue name"
);
short_name!(
    /// The name of an exchange; the default exchange has no name and is `None` where one may be meant.
    ExchangeName, "exchange name"
);
short_name!(
    /// A binding key of a topic exchange, such as `paid.#`.
    BindingKey, "binding key"
);

fn checked(what: &'static str, name: &str) -> Result<String, NameError> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(NameError::Length { what });
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control { what });
    }
    Ok(name.to_owned())
}

fn label<'a>(part: &'static str, value: &'a str) -> Result<&'a str, NameError> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(|c| *c != b'-'));
    if ends && bytes.len() <= LABEL_BYTES_MAX && bytes.iter().copied().all(inner) {
        return Ok(value);
    }
    Err(NameError::Label { part, value: value.to_owned() })
}

/// One installation's id, the first part of every name: several may share a broker.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Installation {
    id: String,
    shared_user: Option<String>,
}

impl Installation {
    /// Takes 1 to 20 characters of a-z, 0-9 and `-`; `amq` is the broker's own.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        let fits = (1..=INSTALLATION_BYTES_MAX).contains(&id.len());
        let plain = id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if fits && plain && id != RESERVED {
            return Ok(Self { id: id.to_owned(), shared_user: None });
        }
        Err(NameError::Installation(id.to_owned()))
    }

    /// Every App logs in as this one user of the broker, as `dev` does: there, the user's own is all there is.
    /// On a cluster each App has a user of its own, so that one cannot read another's calls.
    #[must_use]
    pub fn shared_by(self, user: impl Into<String>) -> Self {
        Self { shared_user: Some(user.into()), ..self }
    }

    /// The id itself.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// What every name of this installation begins with.
    pub fn prefix(&self) -> String {
        format!("{}.", self.id)
    }

    /// The direct exchange through which runners answer; key = the gateway's reply queue.
    pub fn reply_exchange(&self) -> ExchangeName {
        ExchangeName(format!("{}.replies", self.id))
    }

    /// A gateway connection's own reply queue; `suffix` is fresh at each reconnect.
    pub fn gateway_queue(&self, suffix: &str) -> Result<QueueName, NameError> {
        Ok(QueueName(format!("{}.gw.{}", self.id, label("suffix", suffix)?)))
    }

    /// Where runners' reports wait for the operator.
    pub fn reports_queue(&self) -> QueueName {
        QueueName(format!("{}.reports", self.id))
    }

    /// Where events of calls wait for the ledger.
    pub fn ledger_queue(&self) -> QueueName {
        QueueName(format!("{}.ledger", self.id))
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// What an App's user may configure, write and read, as RabbitMQ's regular expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Declare and delete.
    pub configure: String,
    /// Publish, and bind a queue.
    pub write: String,
    /// Consume, and bind to an exchange.
    pub read: String,
}

/// The names of one App.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AppNames {
    installation: Installation,
    prefix: String,
}

impl AppNames {
    /// Names for an App of a namespace.
    pub fn new(installation: &Installation, namespace: &str, app: &str) -> Result<Self, NameError> {
        let (namespace, app) = (label("namespace", namespace)?, label("app", app)?);
        Ok(Self { installation: installation.clone(), prefix: format!("{installation}.{namespace}.{app}") })
    }

    /// Whose installation this App belongs to.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The broker user that the App's runners log in as, and set as `user-id`.
    pub fn user(&self) -> &str {
        self.installation.shared_user.as_deref().unwrap_or(&self.prefix)
    }

    /// Calls for one revision.
    pub fn revision_queue(&self, revision: &str) -> Result<QueueName, NameError> {
        self.queue("rev", "revision", revision)
    }

    /// A Fn's durable queue: events, and calls that nobody waits for.
    pub fn durable_queue(&self, fn_name: &str) -> Result<QueueName, NameError> {
        self.queue("fn", "fn", fn_name)
    }

    /// What a Fn's durable queue gave up on.
    pub fn dead_queue(&self, fn_name: &str) -> Result<QueueName, NameError> {
        self.queue("dead", "fn", fn_name)
    }

    /// Wakes for the shared runners of one runtime.
    pub fn wake_queue(&self, runtime: &str) -> Result<QueueName, NameError> {
        self.queue("wake", "runtime", runtime)
    }

    /// One runner's own queue on the cancel exchange.
    pub fn runner_queue(&self, suffix: &str) -> Result<QueueName, NameError> {
        self.queue("r", "suffix", suffix)
    }

    /// The fanout exchange that tells every runner of the App which calls nobody waits for any more.
    pub fn cancel_exchange(&self) -> ExchangeName {
        ExchangeName(format!("{}.cancel", self.prefix))
    }

    /// Where replies to events go, by their `reply_to` as the routing key: who sends events binds a queue of its own.
    pub fn event_replies(&self) -> ExchangeName {
        ExchangeName(format!("{}.x.{EVENT_REPLIES}", self.prefix))
    }

    /// One of the App's own event exchanges.
    pub fn event_exchange(&self, exchange: &str) -> Result<ExchangeName, NameError> {
        if exchange == EVENT_REPLIES {
            return Err(NameError::Reserved);
        }
        Ok(ExchangeName(format!("{}.x.{}", self.prefix, label("exchange", exchange)?)))
    }

    /// What a Trigger's bridge puts its messages into. No exchange of a manifest's has a dot.
    pub fn bridge_exchange(&self, trigger: &str) -> Result<ExchangeName, NameError> {
        Ok(ExchangeName(format!("{}.x.{BRIDGE}.{}", self.prefix, label("trigger", trigger)?)))
    }

    /// What the App's user may do: its runners' own queues, the replies and its own exchanges, no more.
    pub fn permissions(&self) -> Permissions {
        // Patterns match anywhere unless anchored, and a dot stands for any character unless escaped;
        // labels hold no other character with a meaning.
        let app = self.prefix.replace('.', r"\.");
        let installation = self.installation.as_str();
        Permissions {
            configure: format!(r"^{app}\.r\..*$"),
            write: format!(r"^({app}\.(r|x)\..*|{installation}\.replies)$"),
            read: format!(r"^({app}\.(rev|fn|wake|r)\..*|{app}\.cancel)$"),
        }
    }

    fn queue(&self, kind: &str, part: &'static str, rest: &str) -> Result<QueueName, NameError> {
        Ok(QueueName(format!("{}.{kind}.{}", self.prefix, label(part, rest)?)))
    }
}

/// What a name of an installation stands for; the sweep reads it back to learn the owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meaning {
    /// The reply exchange.
    Replies,
    /// The operator's reports queue.
    Reports,
    /// The ledger's queue.
    Ledger,
    /// A gateway's reply queue.
    Gateway,
    /// Something of an App's.
    App {
        /// The App's namespace.
        namespace: String,
        /// The App.
        app: String,
        /// Which of its things.
        kind: AppObject,
    },
}

/// One of an App's things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppObject {
    /// A revision's queue, with the revision.
    Revision(String),
    /// A Fn's durable queue, with the Fn.
    Durable(String),
    /// A Fn's dead letters, with the Fn.
    Dead(String),
    /// A wake queue, with the runtime.
    Wake(String),
    /// A runner's own queue.
    Runner,
    /// The cancel exchange.
    Cancel,
    /// An event exchange, with its name in manifests.
    Exchange(String),
    /// A bridge's exchange, with its Trigger.
    Bridge(String),
    /// The App's user.
    User,
}

impl Meaning {
    /// Reads a name back; `None` where it is not of this installation or of no known form.
    pub fn of(installation: &Installation, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(installation.as_str())?.strip_prefix('.')?;
        let parts: Vec<&str> = rest.split('.').collect();
        match parts[..] {
            ["replies"] => Some(Self::Replies),
            ["reports"] => Some(Self::Reports),
            ["ledger"] => Some(Self::Ledger),
            ["gw", _] => Some(Self::Gateway),
            [namespace, app, "cancel"] => Some(Self::app(namespace, app, AppObject::Cancel)),
            [namespace, app, "x", BRIDGE, trigger] => {
                Some(Self::app(namespace, app, AppObject::Bridge(trigger.to_owned())))
            }
            [namespace, app, kind, rest] => Some(Self::app(namespace, app, AppObject::of(kind, rest)?)),
            _ => None,
        }
    }

    /// Reads a user's name back, which has the form of its App's prefix alone.
    pub fn of_user(installation: &Installation, user: &str) -> Option<Self> {
        let rest = user.strip_prefix(installation.as_str())?.strip_prefix('.')?;
        let (namespace, app) = rest.split_once('.')?;
        (!app.contains('.')).then(|| Self::app(namespace, app, AppObject::User))
    }

    fn app(namespace: &str, app: &str, kind: AppObject) -> Self {
        Self::App { namespace: namespace.to_owned(), app: app.to_owned(), kind }
    }
}

impl AppObject {
    fn of(kind: &str, rest: &str) -> Option<Self> {
        let rest = rest.to_owned();
        match kind {
            "rev" => Some(Self::Revision(rest)),
            "fn" => Some(Self::Durable(rest)),
            "dead" => Some(Self::Dead(rest)),
            "wake" => Some(Self::Wake(rest)),
            "r" => Some(Self::Runner),
            "x" => Some(Self::Exchange(rest)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
