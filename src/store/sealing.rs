//! Sealing: secrets at rest.
//!
//! Who reads the database (a backup, a disk that was thrown away, a replica) is not to be able to
//! sign in our name, nor to use what our users trusted us with. So, where an `encryption_key` is
//! configured, these columns are sealed with it ([`Column`]): the signing secrets of apps, old and
//! new; of a watch's destinations the secret, the headers (people put credentials there), and the
//! address where the address itself is the credential: a Slack hook.
//!
//! **The form** is a text, `sealed:<key>:<base64>`, in the column where the plain text was. `<key>` is
//! the first eight hex digits of the key's SHA-256: it says which key is needed, and nothing else. The
//! rest is a random nonce of 24 bytes and what XChaCha20-Poly1305 made: at that length random nonces
//! never meet, so nothing has to be counted, over restarts or between processes. None of the columns'
//! plain texts begins with `sealed:`, so what is read says by itself what it is.
//!
//! **The associated data** is the table, the column and the row's id. A sealed value that is copied to
//! another row or column does not open there: who can write to the database, but has no key, cannot
//! have a secret of one tenant used for another.
//!
//! **Which keys are needed** stands in the table `seals`, not in the rows: a start must know it
//! without reading millions of them. A key's name is there before the first value that it seals, and
//! leaves only after the last one is gone. So a start compares two short lists, and where a key is
//! missing it is refused before anything is changed.
//!
//! **Re-sealing** goes through the tables in bounded transactions, before anything else runs, and
//! brings whatever is plain or under another key under the first one. A crash in between leaves values
//! under both keys, and both names in `seals`: the next start needs both keys still, begins from the
//! front, and passes over what is done. When the last row is done, one statement marks the first key
//! as the only one, and from then on a start reads no row. Before that, where the database was plain, a
//! SQLite file is written anew (`vacuum`), since plain texts stand in its free space too, those of rows
//! that were deleted long ago included; what the disk, a server or a backup keeps of them is beyond us,
//! and the manual says so.
//!
//! **Not sealed**: what jobs are and bring (ids, outputs, errors, raw answers), metadata, bodies of
//! events, attempts with the answers of receivers, and callback URLs: they are what the service is
//! about, searched, joined and shown, and a database that is nobody's business wants an encrypted disk.
//! Keys of the API are not kept at all, only their SHA-256. Providers' credentials are never stored.
//!
//! **An answer that holds a secret** (a new key, a new app, a rotated secret) is kept for a day for its
//! `Idempotency-Key`, and that must not become a way to read secrets from the database, nor for one key
//! of an app to get what another was given. [`AnswerKey`] seals it with a key derived from the caller's
//! own token, of which the database has only a hash: who sends the same token again gets the answer
//! again, and nobody else can. That needs no `encryption_key` and is done always.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use super::db::{Result, StoreError};
use crate::domain::{Id, random};

/// How a sealed text begins.
const SEALED: &str = "sealed:";

/// The length of a nonce.
const NONCE: usize = 24;

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    AppSecret,
    AppOldSecret,
    DestinationAddress,
    DestinationHeaders,
    DestinationSecret,
}

impl Column {
    /// A part of what is stored: never changed.
    const fn name(self) -> &'static str {
        match self {
            Self::AppSecret => "apps.signing_secret",
            Self::AppOldSecret => "apps.old_signing_secret",
            Self::DestinationAddress => "watch_destinations.address",
            Self::DestinationHeaders => "watch_destinations.headers",
            Self::DestinationSecret => "watch_destinations.secret",
        }
    }

    fn associated(self, row: Id) -> Vec<u8> {
        [self.name().as_bytes(), &[0], &row.to_bytes()].concat()
    }
}

/// The keys that open what is sealed; the first one seals. Without any, secrets are kept as they are.
#[derive(Clone, Default)]
pub struct Keyring(Option<Arc<Keys>>);

struct Keys {
    /// `sealed:<key>:` of the first.
    prefix: String,
    all: Vec<(String, XChaCha20Poly1305)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Keyring {
    /// The keys, the one that seals first.
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k [u8; 32]>) -> Self {
        let all: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(key).into();
                let name = format!("{:08x}", u32::from_be_bytes([a, b, c, d]));
                (name, XChaCha20Poly1305::new(key.into()))
            })
            .collect();
        let prefix = |(name, _): &(String, _)| format!("{SEALED}{name}:");
        Self(all.first().map(prefix).map(|prefix| Arc::new(Keys { prefix, all })))
    }

    /// What the keys are called, the one that seals first.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|keys| keys.all.iter().map(|(name, _)| name.as_str()))
    }

    /// A text as it is stored.
    pub(super) fn seal<'t>(&self, column: Column, row: Id, text: &'t str) -> Result<Cow<'t, str>> {
        let Some((keys, (_, cipher))) = self.0.as_deref().and_then(|keys| Some((keys, keys.all.first()?)))
        else {
            return Ok(Cow::Borrowed(text));
        };
        let sealed = encrypt(cipher, text.as_bytes(), &column.associated(row))?;
        Ok(Cow::Owned(keys.prefix.clone() + &BASE64_STANDARD_NO_PAD.encode(sealed)))
    }

    /// A stored text as it is meant.
    pub(super) fn open(&self, column: Column, row: Id, stored: String) -> Result<String> {
        let Some((name, sealed)) = stored.strip_prefix(SEALED).and_then(|rest| rest.split_once(':')) else {
            return Ok(stored);
        };
        let broken = |what: &str| StoreError::Inconsistent(format!("`{}` {what}", column.name()));
        let bytes = BASE64_STANDARD_NO_PAD.decode(sealed).map_err(|_| broken("is not base64"))?;
        let mut keys = self.0.iter().flat_map(|keys| &keys.all).filter(|(known, _)| known == name);
        let opened = keys.find_map(|(_, cipher)| decrypt(cipher, &bytes, &column.associated(row)));
        let opened =
            opened.ok_or_else(|| broken("does not open: it is sealed with another key, or moved"))?;
        String::from_utf8(opened).map_err(|_| broken("is not text"))
    }

    /// Whether a stored text is not under the first key.
    pub(super) fn is_stale(&self, stored: &str) -> bool {
        self.0.as_deref().is_some_and(|keys| !stored.starts_with(&keys.prefix))
    }
}

/// Seals an answer that holds a secret for the one who was given it.
#[derive(Clone)]
pub struct AnswerKey([u8; 32]);

impl fmt::Debug for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl AnswerKey {
    /// The key of whoever sends this token.
    #[expect(clippy::expect_used, reason = "a MAC takes keys of any length")]
    pub fn of_token(token: &str) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key of any length");
        mac.update(b"ringback: an answer that holds a secret");
        Self(mac.finalize().into_bytes().into())
    }

    pub(super) fn seal(&self, answer: &[u8], associated: &[u8]) -> Result<Vec<u8>> {
        encrypt(&XChaCha20Poly1305::new((&self.0).into()), answer, associated)
    }

    /// `None` where it was sealed for somebody else.
    pub(super) fn open(&self, sealed: &[u8], associated: &[u8]) -> Option<Vec<u8>> {
        decrypt(&XChaCha20Poly1305::new((&self.0).into()), sealed, associated)
    }
}

/// The nonce, and then what was made.
fn encrypt(cipher: &XChaCha20Poly1305, msg: &[u8], aad: &[u8]) -> Result<Vec<u8>> {
    let mut nonce = [0; NONCE];
    random(&mut nonce);
    let made = cipher.encrypt(&XNonce::from(nonce), Payload { msg, aad });
    let made = made.map_err(|_| StoreError::Inconsistent("a text is too long to be sealed".to_owned()))?;
    Ok([&nonce[..], &made].concat())
}

fn decrypt(cipher: &XChaCha20Poly1305, sealed: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
    let (nonce, msg) = sealed.split_first_chunk::<NONCE>()?;
    cipher.decrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u8) -> Id {
        Id::from_bytes([n; 16])
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_in_its_place_and_nowhere_else() {
        let (old, new) = ([1; 32], [2; 32]);
        let ring = Keyring::new([&old]);
        let sealed = ring.seal(Column::AppSecret, row(1), "whsec_x").expect("sealed").into_owned();
        assert!(sealed.starts_with("sealed:") && !sealed.contains("whsec_x"), "{sealed}");
        assert_ne!(sealed, ring.seal(Column::AppSecret, row(1), "whsec_x").expect("sealed"));
        let open = |ring: &Keyring, column, row| ring.open(column, row, sealed.clone()).ok();
        for ring in [&ring, &Keyring::new([&new, &old])] {
            assert_eq!(open(ring, Column::AppSecret, row(1)).as_deref(), Some("whsec_x"));
        }
        assert_eq!(open(&ring, Column::AppSecret, row(2)), None, "another row");
        assert_eq!(open(&ring, Column::AppOldSecret, row(1)), None, "another column");
        assert_eq!(open(&Keyring::new([&new]), Column::AppSecret, row(1)), None, "another key");
        assert_eq!(open(&Keyring::default(), Column::AppSecret, row(1)), None, "no key");
        assert!(!ring.is_stale(&sealed) && ring.is_stale("whsec_x") && !Keyring::default().is_stale("x"));
        assert!(Keyring::new([&new, &old]).is_stale(&sealed));
    }

    #[test]
    fn without_a_key_everything_is_as_it_is() {
        let ring = Keyring::default();
        assert_eq!(ring.seal(Column::AppSecret, row(1), "x").expect("sealed"), "x");
        assert_eq!(ring.open(Column::AppSecret, row(1), "x".to_owned()).expect("opened"), "x");
    }

    #[test]
    fn an_answer_opens_for_the_same_token_and_the_same_request_only() {
        let key = AnswerKey::of_token("rb_1");
        let sealed = key.seal(b"secret", b"here").expect("sealed");
        assert_eq!(AnswerKey::of_token("rb_1").open(&sealed, b"here").as_deref(), Some(b"secret".as_slice()));
        assert_eq!(AnswerKey::of_token("rb_2").open(&sealed, b"here"), None);
        assert_eq!(key.open(&sealed, b"there"), None);
        assert_eq!(key.open(b"short", b"here"), None);
    }
}
