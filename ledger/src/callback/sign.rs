//! Signatures of what is sent over HTTP, after the Standard Webhooks specification in its asymmetric form
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>): no secret has to
//! reach a tenant, who checks with the public key. Never shows the seed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

/// Before the seed, as the specification has it …
const SEED_PREFIX: &str = "whsk_";
/// … before the public key …
const PUBLIC_PREFIX: &str = "whpk_";
/// … and before a signature.
const SIGNATURE_PREFIX: &str = "v1a,";
/// Bytes of an ed25519 seed (RFC 8032, section 5.1.5).
const SEED_BYTES: usize = 32;

/// Why a text is no key. It may hold one, and is therefore not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key of callbacks is not `whsk_` and 32 bytes in base64")]
pub struct CallbackKeyError;

/// What callbacks are signed with.
pub struct CallbackKey(Ed25519KeyPair);

impl CallbackKey {
    /// Reads `whsk_` and a seed in base64.
    pub fn parse(text: &str) -> Result<Self, CallbackKeyError> {
        let encoded = text.trim().strip_prefix(SEED_PREFIX).ok_or(CallbackKeyError)?;
        let seed = STANDARD.decode(encoded).map_err(|_| CallbackKeyError)?;
        Self::of(&seed)
    }

    /// A new one, which nobody else has.
    pub fn fresh() -> Self {
        Self::of(&rand::random::<[u8; SEED_BYTES]>()).expect("any 32 bytes are a seed")
    }

    fn of(seed: &[u8]) -> Result<Self, CallbackKeyError> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(Self).map_err(|_| CallbackKeyError)
    }

    /// The public key, as whoever checks takes it.
    pub fn public(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.0.public_key()))
    }

    /// The signature of a body that is sent under this id at this time.
    pub(crate) fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let signed = [format!("{id}.{timestamp_s}.").as_bytes(), body].concat();
        format!("{SIGNATURE_PREFIX}{}", STANDARD.encode(self.0.sign(&signed)))
    }
}

impl fmt::Debug for CallbackKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CallbackKey").field(&self.public()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn whoever_has_the_public_key_can_check() {
        let key = CallbackKey::parse("whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
        // The seed and the public key of RFC 8032's first test.
        assert_eq!(key.public(), "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        let signature = key.sign("id", 1_790_000_000, b"{}");
        // As `cryptography` of Python signs it.
        let expected =
            "v1a,2zab2nPApXJaMdttSzedpJghsHQl4u46BtrT7G6l0MLVqmckkbWTrFQFTdFX9I8NSN2iZYraIW5LflE+WZ5NCg==";
        assert_eq!(signature, expected);
        let bytes = STANDARD.decode(signature.strip_prefix("v1a,").unwrap()).unwrap();
        let public = STANDARD.decode(key.public().strip_prefix("whpk_").unwrap()).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public);
        assert!(public.verify(b"id.1790000000.{}", &bytes).is_ok());
        assert!(public.verify(b"id.1790000001.{}", &bytes).is_err());
    }

    #[test]
    fn a_key_is_a_seed_of_32_bytes_and_is_not_shown() {
        for odd in ["", "whsk_", "whsk_AAAA", "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=", "whsk_!"] {
            assert_eq!(CallbackKey::parse(odd).unwrap_err(), CallbackKeyError, "{odd}");
        }
        let text = "whsk_nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
        assert!(!format!("{:?}", CallbackKey::parse(text).unwrap()).contains("nWGxne"));
    }
}
