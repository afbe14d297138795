//! `Digest`: the name of bytes. Never holds the bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::hex::{hex, unhex};

const PREFIX: &str = "sha256:";
const BYTES: usize = 32;

/// `sha256:` and 64 lower-case hex digits.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Makes the digest of bytes that come piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Digester(Sha256);

impl Digester {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        Digest(format!("{PREFIX}{}", hex(&self.0.finalize())))
    }
}

/// The text is no digest.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no digest: it is `sha256:` and 64 lower-case hex digits")]
pub struct DigestParseError;

impl Digest {
    /// The digest of those bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(format!("{PREFIX}{}", hex(&Sha256::digest(bytes))))
    }

    /// Reads `sha256:…`.
    pub fn parse(text: &str) -> Result<Self, DigestParseError> {
        let digits = text.strip_prefix(PREFIX).ok_or(DigestParseError)?;
        match unhex(digits) {
            Some(bytes) if bytes.len() == BYTES => Ok(Self(text.to_owned())),
            _ => Err(DigestParseError),
        }
    }

    /// With its prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 digits alone.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4's empty message.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn it_is_sha256() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        assert_eq!(Digest::parse(EMPTY).unwrap(), Digest::of(b""));
        assert_eq!(format!("sha256:{}", Digest::of(b"").hex()), EMPTY);
    }

    #[test]
    fn pieces_have_the_digest_of_the_whole() {
        let mut digester = Digester::default();
        for piece in [&b"bo"[..], b"", b"dy"] {
            digester.update(piece);
        }
        assert_eq!(digester.finish(), Digest::of(b"body"));
        assert_eq!(Digester::default().finish().as_str(), EMPTY);
    }

    #[test]
    fn other_texts_are_refused_even_in_json() {
        let upper = EMPTY.to_uppercase();
        let long = format!("{EMPTY}00");
        for text in ["", "sha256:", &EMPTY[7..], &EMPTY[..70], &EMPTY[..69], &long, &upper, "sha256:../../x"]
        {
            assert_eq!(Digest::parse(text), Err(DigestParseError), "{text}");
            assert!(serde_json::from_value::<Digest>(text.into()).is_err(), "{text}");
        }
    }
}
