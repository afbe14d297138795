//! Signed, expiring addresses of bundles and of calls' bodies, and the broker passwords that follow from the same key. Reads no clock:
//! the caller brings the time; holds the key and never shows it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;

use crate::Digest;
use crate::hex::{hex, unhex};

/// Shorter keys are guessable before SHA-256 is.
pub const KEY_BYTES_MIN: usize = 32;

/// Below it are calls' bodies that no message carries, by namespace, App and call.
pub const OBJECTS_PATH: &str = "/objects/";

/// The secret that gateways, operator and ledger share.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// What an address of an object lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectAct {
    /// Write it.
    Put,
    /// Read it.
    Get,
    /// Take it away.
    Delete,
}

impl ObjectAct {
    fn purpose(self) -> &'static str {
        match self {
            Self::Put => "object-put",
            Self::Get => "object-get",
            Self::Delete => "object-delete",
        }
    }
}

/// Whose body an object is: names are DNS labels, and the call's id is a UUID as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectOf<'a> {
    /// The App's namespace.
    pub namespace: &'a str,
    /// The App.
    pub app: &'a str,
    /// The call.
    pub call: &'a str,
}

/// Why an address or a key is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AddressError {
    /// Too few bytes for a key.
    #[error("the signing key has {0} bytes; it needs at least 32")]
    KeyTooShort(usize),
    /// Its time has passed.
    #[error("the address has expired")]
    Expired,
    /// It was made by someone without the key, or for something else.
    #[error("the address's signature is wrong")]
    Forged,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl SigningKey {
    /// Takes the key's bytes.
    pub fn new(key: &[u8]) -> Result<Self, AddressError> {
        if key.len() < KEY_BYTES_MIN {
            return Err(AddressError::KeyTooShort(key.len()));
        }
        Hmac::new_from_slice(key).map(Self).map_err(|_| AddressError::KeyTooShort(key.len()))
    }

    /// `<base>/bundles/<ns>/<app>/<digest>?expires=<unix s>&signature=<hex>`; whoever holds it may fetch that bundle
    /// until then. Names are DNS labels and a digest is hex, so nothing needs escaping.
    pub fn bundle_url(
        &self,
        base: &str,
        namespace: &str,
        app: &str,
        digest: &Digest,
        expires_s: u64,
    ) -> String {
        let base = base.trim_end_matches('/');
        let signature = hex(&self.bundle_mac(namespace, app, digest, expires_s).finalize().into_bytes());
        format!("{base}/bundles/{namespace}/{app}/{digest}?expires={expires_s}&signature={signature}")
    }

    /// Compares in constant time; the signature is judged before the time, so that a stranger learns nothing.
    pub fn verify(
        &self,
        namespace: &str,
        app: &str,
        digest: &Digest,
        expires_s: u64,
        signature: &str,
        now_s: u64,
    ) -> Result<(), AddressError> {
        let given = unhex(signature).ok_or(AddressError::Forged)?;
        let mac = self.bundle_mac(namespace, app, digest, expires_s);
        mac.verify_slice(&given).map_err(|_| AddressError::Forged)?;
        if now_s < expires_s { Ok(()) } else { Err(AddressError::Expired) }
    }

    /// `<base>/objects/<ns>/<app>/<call>?expires=<unix s>&signature=<hex>`; whoever holds it may do that one thing with
    /// that object until then.
    pub fn object_url(&self, act: ObjectAct, base: &str, of: ObjectOf<'_>, expires_s: u64) -> String {
        let base = base.trim_end_matches('/');
        let signature = hex(&self.object_mac(act, of, expires_s).finalize().into_bytes());
        let ObjectOf { namespace, app, call } = of;
        format!("{base}{OBJECTS_PATH}{namespace}/{app}/{call}?expires={expires_s}&signature={signature}")
    }

    /// Judges an object's address as [`Self::verify`] does a bundle's.
    pub fn verify_object(
        &self,
        act: ObjectAct,
        of: ObjectOf<'_>,
        expires_s: u64,
        signature: &str,
        now_s: u64,
    ) -> Result<(), AddressError> {
        let given = unhex(signature).ok_or(AddressError::Forged)?;
        let mac = self.object_mac(act, of, expires_s);
        mac.verify_slice(&given).map_err(|_| AddressError::Forged)?;
        if now_s < expires_s { Ok(()) } else { Err(AddressError::Expired) }
    }

    /// The broker password of an App's user: 256 bits that anyone without the key cannot know.
    pub fn broker_password(&self, user: &str) -> String {
        hex(&self.mac("broker-password", &[user]).finalize().into_bytes())
    }

    /// Names the key without telling it: changes when the key does.
    pub fn key_id(&self) -> String {
        hex(&self.mac("key-id", &[]).finalize().into_bytes()[..8])
    }

    fn bundle_mac(&self, namespace: &str, app: &str, digest: &Digest, expires_s: u64) -> Hmac<Sha256> {
        self.mac("bundle", &[namespace, app, digest.as_str(), &expires_s.to_string()])
    }

    fn object_mac(&self, act: ObjectAct, of: ObjectOf<'_>, expires_s: u64) -> Hmac<Sha256> {
        let ObjectOf { namespace, app, call } = of;
        self.mac(act.purpose(), &[namespace, app, call, &expires_s.to_string()])
    }

    /// Each part goes with its length, so that no two lists of parts read the same; the purpose keeps a signature of
    /// one kind from being taken for another.
    fn mac(&self, purpose: &str, parts: &[&str]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        for part in [&[purpose], parts].concat() {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::new(&[7; 32]).unwrap()
    }

    fn signature(url: &str) -> &str {
        url.split_once("signature=").unwrap().1
    }

    #[test]
    fn an_address_opens_its_bundle_until_it_expires() {
        let digest = Digest::of(b"code");
        let url = key().bundle_url("http://gateway/", "team-a", "shop", &digest, 1000);
        let start = format!("http://gateway/bundles/team-a/shop/{digest}?expires=1000&signature=");
        assert!(url.starts_with(&start), "{url}");
        let verify = |now| key().verify("team-a", "shop", &digest, 1000, signature(&url), now);
        assert_eq!(verify(0), Ok(()));
        assert_eq!(verify(999), Ok(()));
        assert_eq!(verify(1000), Err(AddressError::Expired));
    }

    #[test]
    fn a_forged_address_is_refused_whatever_was_changed() {
        let (digest, other) = (Digest::of(b"code"), Digest::of(b"other"));
        let url = key().bundle_url("http://gateway", "team-a", "shop", &digest, 1000);
        let good = signature(&url);
        let verify = |key: SigningKey, ns: &str, app: &str, digest: &Digest, expires_s, signature: &str| {
            key.verify(ns, app, digest, expires_s, signature, 1)
        };
        let stranger = SigningKey::new(&[8; 32]).unwrap();
        let tries = [
            verify(key(), "team-b", "shop", &digest, 1000, good),
            verify(key(), "team-a", "shoq", &digest, 1000, good),
            verify(key(), "team-as", "hop", &digest, 1000, good),
            verify(key(), "team-a", "shop", &other, 1000, good),
            verify(key(), "team-a", "shop", &digest, 1001, good),
            verify(key(), "team-a", "shop", &digest, 1000, &good[..62]),
            verify(key(), "team-a", "shop", &digest, 1000, ""),
            verify(key(), "team-a", "shop", &digest, 1000, &good.to_uppercase()),
            verify(key(), "team-a", "shop", &digest, 1000, &"0".repeat(64)),
            verify(stranger, "team-a", "shop", &digest, 1000, good),
        ];
        for (i, result) in tries.into_iter().enumerate() {
            assert_eq!(result, Err(AddressError::Forged), "try {i}");
        }
    }

    #[test]
    fn an_objects_address_opens_one_thing_of_one_object_until_it_expires() {
        let of = ObjectOf { namespace: "team-a", app: "shop", call: "01890a5d-ac96-774b-bcce-b302099a8057" };
        let url = key().object_url(ObjectAct::Get, "http://gateway/", of, 1000);
        assert!(url.starts_with(
            "http://gateway/objects/team-a/shop/01890a5d-ac96-774b-bcce-b302099a8057?expires=1000&signature="
        ));
        let good = signature(&url);
        let verify = |act, of, expires_s, now_s| key().verify_object(act, of, expires_s, good, now_s);
        assert_eq!(verify(ObjectAct::Get, of, 1000, 999), Ok(()));
        assert_eq!(verify(ObjectAct::Get, of, 1000, 1000), Err(AddressError::Expired));
        for (act, of, expires_s) in [
            (ObjectAct::Put, of, 1000),
            (ObjectAct::Delete, of, 1000),
            (ObjectAct::Get, ObjectOf { namespace: "team-b", ..of }, 1000),
            (ObjectAct::Get, ObjectOf { app: "site", ..of }, 1000),
            (ObjectAct::Get, ObjectOf { call: "01890a5d-ac96-774b-bcce-b302099a8058", ..of }, 1000),
            (ObjectAct::Get, of, 1001),
        ] {
            assert_eq!(verify(act, of, expires_s, 1), Err(AddressError::Forged), "{act:?} {of:?}");
        }
        let stranger = SigningKey::new(&[8; 32]).unwrap();
        assert_eq!(stranger.verify_object(ObjectAct::Get, of, 1000, good, 1), Err(AddressError::Forged));
    }

    #[test]
    fn a_short_key_is_refused() {
        assert_eq!(SigningKey::new(&[1; 31]).unwrap_err(), AddressError::KeyTooShort(31));
    }

    #[test]
    fn passwords_differ_by_user_and_key_and_stay_the_same() {
        let password = key().broker_password("i.team-a.shop");
        assert_eq!(password, key().broker_password("i.team-a.shop"));
        assert_eq!(password.len(), 64);
        assert_ne!(password, key().broker_password("i.team-a.shop2"));
        assert_ne!(password, SigningKey::new(&[8; 32]).unwrap().broker_password("i.team-a.shop"));
    }

    #[test]
    fn the_key_is_named_but_never_shown() {
        assert_ne!(key().key_id(), SigningKey::new(&[8; 32]).unwrap().key_id());
        assert_eq!(format!("{:?}", key()), "SigningKey(..)");
        let long = SigningKey::new(&[7; 100]).unwrap();
        assert_ne!(long.key_id(), key().key_id());
    }
}
