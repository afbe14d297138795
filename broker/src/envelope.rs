//! A message as it travels, free of any client library: properties, headers, body.
//!
//! Never performs I/O and knows no message of ours by name: that is `message`'s.

use bytes::Bytes;

/// A message as it travels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Envelope {
    /// The AMQP properties that are in use here.
    pub properties: Properties,
    /// The AMQP header table.
    pub headers: Headers,
    /// The body, untouched.
    pub body: Bytes,
}

impl Envelope {
    /// What properties and headers weigh on the wire, within a few bytes each.
    pub fn header_bytes(&self) -> usize {
        let texts = self.properties.texts();
        let properties: usize = texts.into_iter().flatten().map(|text| text.len() + 1).sum();
        // Flags, delivery mode, timestamp and expiration.
        properties + 40 + self.headers.bytes()
    }
}

/// The AMQP properties that are in use here; each text is at most 255 bytes (an AMQP short string).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// AMQP's `type`: `call`, `reply`, …
    pub kind: Option<String>,
    /// The id of this message.
    pub message_id: Option<String>,
    /// The id of the message that this one answers.
    pub correlation_id: Option<String>,
    /// Where an answer goes.
    pub reply_to: Option<String>,
    /// The media type of the body.
    pub content_type: Option<String>,
    /// How the body is packed, such as `gzip`; never written here, but others' events may say it.
    pub content_encoding: Option<String>,
    /// What program sent it; likewise.
    pub app_id: Option<String>,
    /// Who says to have sent it; the broker refuses a lie, but not an absence.
    pub user_id: Option<String>,
    /// Milliseconds until the broker may drop it.
    pub expiration_ms: Option<u64>,
    /// Unix seconds at which it was sent.
    pub timestamp_s: Option<u64>,
    /// How it is ranked in a queue that ranks; never written here, but others' events may say it.
    pub priority: Option<u8>,
    /// Whether it survives the broker's restart, in a durable queue.
    pub persistent: bool,
}

impl Properties {
    /// Those that AMQP carries as short strings.
    pub(crate) fn texts(&self) -> [Option<&str>; 8] {
        let Self { kind, message_id, correlation_id, reply_to, content_type, .. } = self;
        let Self { content_encoding, app_id, user_id, .. } = self;
        [kind, message_id, correlation_id, reply_to, content_type, content_encoding, app_id, user_id]
            .map(Option::as_deref)
    }
}

/// A header's value.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    /// UTF-8 text.
    Text(String),
    /// Bytes that are no UTF-8 text.
    Bytes(Bytes),
    /// Any of AMQP's integers.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A number with a fraction; never written here, but others' events may hold it.
    Float(f64),
    /// A moment in Unix seconds; never written here, but others' events may hold it.
    Timestamp(u64),
    /// `value` divided by ten to the power of `scale`; likewise.
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// Several values.
    List(Vec<HeaderValue>),
    /// Named values.
    Table(Headers),
    /// Nothing (AMQP's void), or a type that has no use here.
    Void,
}

impl HeaderValue {
    /// What it weighs on the wire: a type octet, a length where there is one, and itself.
    fn bytes(&self) -> usize {
        match self {
            Self::Void => 1,
            Self::Bool(_) => 2,
            Self::Decimal { .. } => 6,
            Self::Int(_) | Self::Float(_) | Self::Timestamp(_) => 9,
            Self::Text(text) => 5 + text.len(),
            Self::Bytes(bytes) => 5 + bytes.len(),
            Self::List(values) => 5 + values.iter().map(Self::bytes).sum::<usize>(),
            Self::Table(headers) => 5 + headers.bytes(),
        }
    }

    fn names_fit(&self, bytes_max: usize) -> bool {
        match self {
            Self::Table(headers) => headers.names_fit(bytes_max),
            Self::List(values) => values.iter().all(|value| value.names_fit(bytes_max)),
            _ => true,
        }
    }

    /// What a human calls its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::Int(_) => "an integer",
            Self::Bool(_) => "a boolean",
            Self::Float(_) => "a float",
            Self::Timestamp(_) => "a timestamp",
            Self::Decimal { .. } => "a decimal",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Void => "void",
        }
    }
}

impl From<&str> for HeaderValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for HeaderValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for HeaderValue {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// Headers by name; names are unique and at most 255 bytes.
///
/// A list rather than a map: a message carries a dozen or two, which are written once and read once.
#[derive(Debug, Clone, Default)]
pub struct Headers(Vec<(String, HeaderValue)>);

impl Headers {
    /// Room for `count` headers.
    pub fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Sets a header, in place of an earlier one of that name.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<HeaderValue>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds a header whose name the caller knows to be new.
    pub(crate) fn push(&mut self, name: String, value: HeaderValue) {
        self.0.push((name, value));
    }

    /// The value of a header.
    pub fn get(&self, name: &str) -> Option<&HeaderValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The value of a header that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some(HeaderValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The value of a header that is an integer.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name) {
            Some(HeaderValue::Int(number)) => Some(*number),
            _ => None,
        }
    }

    /// Takes a header out.
    pub fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every name, of tables within too, is at most this long.
    pub(crate) fn names_fit(&self, bytes_max: usize) -> bool {
        self.0.iter().all(|(name, value)| name.len() <= bytes_max && value.names_fit(bytes_max))
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| 1 + name.len() + value.bytes()).sum()
    }

    /// Each header in turn.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// The order of headers means nothing, and a broker need not keep it.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.0.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl IntoIterator for Headers {
    type Item = (String, HeaderValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(String, HeaderValue)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, HeaderValue)>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            headers.insert(name, value);
        }
        headers
    }
}
