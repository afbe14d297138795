//! One Route's table: what the operator stores in a ConfigMap and the gateway serves from.
//! Never holds a revision, a digest or a secret: those are the App's table's or nobody's.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::conflict::Claim;
use crate::names::{BasePath, Hostname};
use crate::rule::Rule;
use crate::source::RouteKey;

/// Raised when an older gateway could misread a table. New optional fields do not raise it.
const TABLE_VERSION: u32 = 1;
/// Below this a table stays readable with kubectl.
const PLAIN_BYTES_MAX: usize = 100_000;
/// A ConfigMap holds 1 MiB with its metadata.
const ENCODED_BYTES_MAX: usize = 900 * 1024;
/// What 10,000 operations take at their longest, and room; beyond it a gzip is hostile.
const DECODED_BYTES_MAX: usize = 32 * 1024 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a table could not be written or read.
#[derive(Debug, Error)]
pub enum TableError {
    /// Even compressed it does not fit into a ConfigMap.
    #[error("the table takes {bytes} bytes compressed, more than the {ENCODED_BYTES_MAX} of a ConfigMap")]
    TooLarge {
        /// Its size, compressed.
        bytes: usize,
    },
    /// Unpacked it is larger than any table.
    #[error("the table unpacks to more than {DECODED_BYTES_MAX} bytes")]
    Bomb,
    /// Broken gzip.
    #[error("unpack the table")]
    Unpack(#[source] std::io::Error),
    /// Gzip failed in memory.
    #[error("pack the table")]
    Pack(#[source] std::io::Error),
    /// Not a table's JSON.
    #[error("read or write the table's JSON")]
    Json(#[source] serde_json::Error),
    /// Written by a newer operator.
    #[error("the table has version {found}; this gateway reads {TABLE_VERSION}")]
    Version {
        /// The version that it has.
        found: u32,
    },
}

/// A table's bytes, as they go into a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodedTable {
    /// JSON, for `data`.
    Json(String),
    /// Gzip of the JSON, for `binaryData`.
    Gzip(Vec<u8>),
}

/// One Route, compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTable {
    pub(crate) version: u32,
    pub(crate) namespace: String,
    pub(crate) route: String,
    pub(crate) app: String,
    pub(crate) uid: String,
    pub(crate) created_ms: i64,
    pub(crate) hostnames: Vec<Hostname>,
    pub(crate) base_path: BasePath,
    /// Paths that the Route owns on each of its hostnames.
    pub(crate) claims: Vec<String>,
    pub(crate) rules: Vec<Rule>,
}

impl RouteTable {
    pub(crate) const VERSION: u32 = TABLE_VERSION;

    /// The Route's namespace and name.
    pub fn key(&self) -> RouteKey {
        RouteKey { namespace: self.namespace.clone(), name: self.route.clone() }
    }

    /// The Route's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Route's name.
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The App that the Route belongs to.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The Route's uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// When the Route was created, in milliseconds since 1970.
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// The Route's hostnames; none = the gateway's own, below `/<namespace>`.
    pub fn hostnames(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.hostnames.iter().map(|hostname| match hostname {
            Hostname::Exact(name) => Cow::Borrowed(name.as_str()),
            Hostname::Wildcard(suffix) => Cow::Owned(format!("*{suffix}")),
        })
    }

    /// `/`, or a path without trailing slash.
    pub fn base_path(&self) -> &str {
        self.base_path.as_str()
    }

    /// How many operations (or explicit matches) the Route has.
    pub fn operations(&self) -> usize {
        self.rules.len()
    }

    /// The rules: an OpenAPI document's by path and method, explicit ones in their order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The Fns that the Route leads to.
    pub fn targets(&self) -> BTreeSet<&str> {
        self.rules.iter().flat_map(Rule::backends).map(|backend| backend.fn_name.as_str()).collect()
    }

    /// What the Route owns if nobody older does.
    pub fn claims(&self) -> Vec<Claim> {
        if self.hostnames.is_empty() {
            let below_namespace = |path: &String| Claim {
                host: None,
                path: format!("/{}{}", self.namespace, path.trim_end_matches('/')),
            };
            return self.claims.iter().map(below_namespace).collect();
        }
        let claim = |hostname: &Hostname, path: &String| Claim {
            host: Some(hostname.to_string()),
            path: path.clone(),
        };
        self.hostnames.iter().flat_map(|host| self.claims.iter().map(move |path| claim(host, path))).collect()
    }

    /// The table's bytes; the same for the same table.
    ///
    /// # Errors
    /// `TooLarge` where they do not fit into a ConfigMap.
    pub fn encode(&self) -> Result<EncodedTable, TableError> {
        let json = serde_json::to_string(self).map_err(TableError::Json)?;
        if json.len() <= PLAIN_BYTES_MAX {
            return Ok(EncodedTable::Json(json));
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(json.as_bytes()).map_err(TableError::Pack)?;
        let packed = encoder.finish().map_err(TableError::Pack)?;
        match packed.len() {
            bytes if bytes > ENCODED_BYTES_MAX => Err(TableError::TooLarge { bytes }),
            _ => Ok(EncodedTable::Gzip(packed)),
        }
    }

    /// A table out of its bytes, packed or not.
    ///
    /// # Errors
    /// Anything that is no table of this version; a gateway then keeps the last good one.
    pub fn decode(bytes: &[u8]) -> Result<Self, TableError> {
        let unpacked = if bytes.starts_with(&GZIP_MAGIC) { Cow::Owned(unpack(bytes)?) } else { bytes.into() };
        let Versioned { version } = serde_json::from_slice(&unpacked).map_err(TableError::Json)?;
        if version != TABLE_VERSION {
            return Err(TableError::Version { found: version });
        }
        serde_json::from_slice(&unpacked).map_err(TableError::Json)
    }
}

/// Read first, since another version's other fields may not even parse.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn unpack(bytes: &[u8]) -> Result<Vec<u8>, TableError> {
    let mut unpacked = Vec::new();
    let limit = DECODED_BYTES_MAX as u64 + 1;
    GzDecoder::new(bytes).take(limit).read_to_end(&mut unpacked).map_err(TableError::Unpack)?;
    if unpacked.len() > DECODED_BYTES_MAX {
        return Err(TableError::Bomb);
    }
    Ok(unpacked)
}
