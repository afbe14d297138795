//! Where the database is: `postgres://…`, `sqlite:///path/to/file` or `sqlite::memory:`.
//!
//! Holds a password, and never shows it.

use std::fmt;
use std::str::FromStr;

use sqlx::any::AnyConnectOptions;

/// Why an address is none. It may hold a password, and is therefore not shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Another kind of database, or none.
    #[error(
        "the database's address begins neither with postgres:// nor with sqlite://, and is not sqlite::memory:"
    )]
    Scheme,
    /// The rest makes no sense.
    #[error("the database's address cannot be read")]
    Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Postgres,
    SqliteFile,
    SqliteMemory,
}

/// Where the database is.
#[derive(Clone)]
pub struct DatabaseAddress {
    kind: Kind,
    options: AnyConnectOptions,
}

impl DatabaseAddress {
    /// Reads an address.
    pub fn parse(address: &str) -> Result<Self, AddressError> {
        let (kind, address) = if address == "sqlite::memory:" {
            (Kind::SqliteMemory, address.to_owned())
        } else if address.starts_with("postgres://") || address.starts_with("postgresql://") {
            (Kind::Postgres, address.to_owned())
        } else if address.starts_with("sqlite://") {
            // A first start makes the file.
            let mode = if address.contains('?') { "" } else { "?mode=rwc" };
            (Kind::SqliteFile, format!("{address}{mode}"))
        } else {
            return Err(AddressError::Scheme);
        };
        let options = AnyConnectOptions::from_str(&address).map_err(|_| AddressError::Form)?;
        Ok(Self { kind, options })
    }

    /// A database that lives and dies with this process.
    pub fn in_memory() -> Self {
        Self::parse("sqlite::memory:").expect("a constant that the tests parse")
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn options(&self) -> AnyConnectOptions {
        self.options.clone()
    }
}

impl fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DatabaseAddress").field(&self.kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_which_database_it_is_of() {
        let kind = |address: &str| DatabaseAddress::parse(address).map(|address| address.kind());
        assert_eq!(kind("postgres://u:p@db:5432/ledger"), Ok(Kind::Postgres));
        assert_eq!(kind("sqlite:///data/ledger.db"), Ok(Kind::SqliteFile));
        assert_eq!(DatabaseAddress::in_memory().kind(), Kind::SqliteMemory);
        assert_eq!(kind("mysql://u:p@db/ledger"), Err(AddressError::Scheme));
        assert_eq!(kind("postgres://u:p@db:port/ledger"), Err(AddressError::Form));
    }

    #[test]
    fn a_password_is_never_shown() {
        let address = DatabaseAddress::parse("postgres://u:topsecret@db/ledger").unwrap();
        assert!(!format!("{address:?}").contains("topsecret"));
    }
}
