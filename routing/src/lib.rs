//! Routes compiled into tables, and requests matched against them.
//!
//! Owns: reading OpenAPI 3.0, 3.1 and Swagger 2.0 documents, the rules made of them and of explicit Routes,
//! who owns which hostname and base path, and the index that finds a request's rule.
//! Never performs I/O, takes no client and reads no clock: what varies comes in as an argument.
//!
//! ```
//! use funcatron_routing::{Backend, ExplicitRule, Found, OwnHost, RouteSource, Rules, Tables, compile};
//!
//! let rules = [ExplicitRule {
//!     backends: vec![Backend { fn_name: "page".into(), weight: 1 }],
//!     ..ExplicitRule::default()
//! }];
//! let hostnames = ["shop.example.com".to_owned()];
//! let table = compile(&RouteSource {
//!     namespace: "team-a",
//!     name: "site",
//!     app: "shop",
//!     hostnames: &hostnames,
//!     base_path: None,
//!     created_ms: 0,
//!     uid: "",
//!     rules: Rules::Explicit(&rules),
//! })?;
//! let key = table.key();
//! let tables = Tables::new(OwnHost::Unclaimed).replace(&key, Some(table));
//! let found = tables.find("shop.example.com", &http::Method::GET, "/", &http::HeaderMap::new());
//! assert!(matches!(found, Found::Match(matched) if matched.pick(7).fn_name == "page"));
//! # Ok::<(), funcatron_routing::CompileError>(())
//! ```

pub mod app_table;
mod compile;
mod conflict;
mod document;
mod error;
mod find;
mod index;
mod literals;
mod names;
mod pattern;
mod precedence;
mod resource;
mod rule;
mod source;
mod table;
mod tables;

pub use compile::{compile, kebab_case};
pub use conflict::{Claim, Conflict, conflicts};
pub use error::{CompileError, Problem};
pub use find::{Allow, Found, Match, Params};
pub use pattern::{Pattern, PatternKind, Segment};
pub use precedence::{HostRank, MethodRank, Precedence, RuleRank, SegmentRank};
pub use resource::{RouteIdentity, RouteParts, RouteSpecError};
pub use rule::{HeaderRule, Rule};
pub use source::{
    Backend, CallPolicy, ExplicitRule, HeaderMatch, OperationOverride, PathMatch, PathMatchType, RouteKey,
    RouteMatch, RouteSource, Rules,
};
pub use table::{EncodedTable, RouteTable, TableError};
pub use tables::{OwnHost, Tables};
