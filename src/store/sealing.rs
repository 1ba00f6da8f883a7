//! Sealing of secrets at rest.
//!
//! A reader of the database (by a backup, a discarded disk, a replica) must not be able to sign as this service or to
//! use the secrets of its clients. If an `encryption_key` is configured, these columns are sealed with it ([`Column`]):
//! the signing secrets and private keys of apps, old and new; of a destination, inline or saved, the secret, the
//! headers (they often hold credentials), the options (they can hold a password or a client's secret), the TLS
//! identity, and the address if the address is a credential, as a Slack webhook is; of a job without a definition, how
//! it is polled, which can hold a credential of its API, and the key of the hashes that identify such jobs; the
//! credentials and the definitions of apps.
//!
//! **Format.** A text, `sealed:<key>:<base64>`, in the column of the plain text. `<key>` is the first eight hex
//! digits of the SHA-256 of the key: it identifies the needed key and contains nothing else. The rest is a
//! random nonce of 24 bytes and the output of XChaCha20-Poly1305. Random nonces of this length do not repeat,
//! so nothing is counted over restarts or between processes. No plain text of these columns starts with
//! `sealed:`, so the text of a value shows whether it is sealed.
//!
//! **Associated data**: the table, the column and the id of the row. A sealed value that is copied to another
//! row or column does not open there. So an attacker that can write to the database, but has no key, cannot use
//! the secret of one tenant for another.
//!
//! **Needed keys** are listed in the table `seals`: a start must know them without reading millions of rows. The
//! name of a key is inserted before the first value that it seals, and deleted after the last one is deleted. A
//! start compares two short lists. If a key is missing, it fails before anything is changed.
//!
//! **Re-sealing** seals every value that is plain or under another key with the first key. It runs in bounded
//! transactions before anything else. After a crash in between, values are under both keys and both names are
//! in `seals`; the next start needs both keys, begins at the first row, and skips the rows that are done. When
//! the last row is done, one statement marks the first key as the only one, and later starts read no row. If
//! the database was plain, a SQLite file is rewritten before that (`vacuum`), because its free space holds
//! plain texts, also of rows that were deleted long ago. Plain texts that remain on the disk, on a server or in
//! a backup are not removed; docs/OPERATIONS.md states this.
//!
//! **Not sealed**: data of jobs (ids, outputs, errors, raw answers), metadata, bodies of events, attempts with
//! the answers of receivers, and callback URLs. The service searches, joins and shows them; to protect them, use
//! an encrypted disk. Of API keys only the SHA-256 is stored. Credentials of providers are never stored.
//!
//! **A response that holds a secret** (a new key, a new app, a rotated secret) is stored for a day for its
//! `Idempotency-Key`. This must not reveal secrets to a reader of the database, or the secrets of one API key to
//! another key of the app. [`AnswerKey`] seals the response with a key that is derived from the caller's token,
//! of which the database has only a hash. A caller with the same token gets the response again; no other caller
//! does. This needs no `encryption_key` and is always done.

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

/// Prefix of a sealed text.
const SEALED: &str = "sealed:";

/// Length of a nonce, in bytes.
const NONCE: usize = 24;

/// A column whose values are sealed. The value is its name in the associated data, which must never change.
#[derive(Clone, Copy)]
pub(super) struct Column(&'static str);

impl Column {
    pub(super) const APP_SECRET: Self = Self("apps.signing_secret");
    pub(super) const APP_OLD_SECRET: Self = Self("apps.old_signing_secret");
    pub(super) const APP_PRIVATE_KEY: Self = Self("apps.signing_key");
    pub(super) const APP_OLD_PRIVATE_KEY: Self = Self("apps.old_signing_key");
    pub(super) const DESTINATION_ADDRESS: Self = Self("watch_destinations.address");
    pub(super) const DESTINATION_HEADERS: Self = Self("watch_destinations.headers");
    pub(super) const DESTINATION_SECRET: Self = Self("watch_destinations.secret");
    pub(super) const DESTINATION_OPTIONS: Self = Self("watch_destinations.options");
    pub(super) const SAVED_ADDRESS: Self = Self("destinations.address");
    pub(super) const SAVED_HEADERS: Self = Self("destinations.headers");
    pub(super) const SAVED_SECRET: Self = Self("destinations.secret");
    pub(super) const SAVED_OLD_SECRET: Self = Self("destinations.old_secret");
    pub(super) const SAVED_OPTIONS: Self = Self("destinations.options");
    pub(super) const SAVED_TLS: Self = Self("destinations.tls");
    pub(super) const POLL_SOURCE: Self = Self("job_polls.source");
    pub(super) const CREDENTIAL_SECRET: Self = Self("credentials.secret");
    pub(super) const DEFINITION_TEXT: Self = Self("definitions.text");
    pub(super) const IDENTITY_KEY: Self = Self("identity_keys.key");

    fn associated(self, row: Id) -> Vec<u8> {
        [self.0.as_bytes(), &[0], &row.to_bytes()].concat()
    }
}

/// Encryption keys with their names. All of them open sealed values; the first one seals. Without a key, secrets
/// stay plain.
#[derive(Clone, Default)]
pub struct Keyring(Arc<[(String, XChaCha20Poly1305)]>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl Keyring {
    /// Creates a keyring. The first key seals.
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k [u8; 32]>) -> Self {
        let named = |key: &[u8; 32]| {
            let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(key).into();
            (format!("{:08x}", u32::from_be_bytes([a, b, c, d])), XChaCha20Poly1305::new(key.into()))
        };
        Self(keys.into_iter().map(named).collect())
    }

    /// Names of the keys. The first key seals.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the text to be stored.
    pub(super) fn seal<'t>(&self, column: Column, row: Id, text: &'t str) -> Result<Cow<'t, str>> {
        let Some((name, cipher)) = self.0.first() else { return Ok(Cow::Borrowed(text)) };
        let sealed = encrypt(cipher, text.as_bytes(), &column.associated(row))?;
        Ok(Cow::Owned(format!("{SEALED}{name}:{}", BASE64_STANDARD_NO_PAD.encode(sealed))))
    }

    /// Returns the plain text of a stored text.
    pub(super) fn open(&self, column: Column, row: Id, stored: String) -> Result<String> {
        let Some((name, sealed)) = sealed_parts(&stored) else { return Ok(stored) };
        let broken = |what: &str| StoreError::Inconsistent(format!("`{}` {what}", column.0));
        let bytes = BASE64_STANDARD_NO_PAD.decode(sealed).map_err(|_| broken("is not base64"))?;
        let mut keys = self.0.iter().filter(|(known, _)| known == name);
        let opened = keys.find_map(|(_, cipher)| decrypt(cipher, &bytes, &column.associated(row)));
        let opened = opened.ok_or_else(|| {
            broken("does not open: it is sealed with another key, or was copied from another row")
        })?;
        String::from_utf8(opened).map_err(|_| broken("is not text"))
    }

    /// Seals those of the stored texts of a row that are not sealed with the first key. Returns whether there
    /// was one.
    pub(super) fn reseal<'t>(
        &self,
        row: Id,
        texts: impl IntoIterator<Item = (Column, Option<&'t mut String>)>,
    ) -> Result<bool> {
        let mut is_changed = false;
        for (column, text) in texts {
            if let Some(text) = text.filter(|text| self.is_stale(text)) {
                let plain = self.open(column, row, std::mem::take(text))?;
                *text = self.seal(column, row, &plain)?.into_owned();
                is_changed = true;
            }
        }
        Ok(is_changed)
    }

    /// Whether a stored text is not sealed with the first key.
    fn is_stale(&self, stored: &str) -> bool {
        let sealed_with = sealed_parts(stored).map(|(name, _)| name);
        self.names().next().is_some_and(|first| sealed_with != Some(first))
    }
}

/// Returns the name of the key and the rest of a sealed text.
fn sealed_parts(stored: &str) -> Option<(&str, &str)> {
    stored.strip_prefix(SEALED)?.split_once(':')
}

/// Key that seals a response that holds a secret for the caller that received it.
#[derive(Clone)]
pub struct AnswerKey([u8; 32]);

impl fmt::Debug for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl AnswerKey {
    /// Derives the key of the callers with this token.
    #[expect(clippy::expect_used, reason = "a MAC takes keys of any length")]
    pub fn of_token(token: &str) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key of any length");
        mac.update(b"ringback: an answer that holds a secret");
        Self(mac.finalize().into_bytes().into())
    }

    /// Seals a response.
    pub(super) fn seal(&self, answer: &[u8], associated: &[u8]) -> Result<Vec<u8>> {
        encrypt(&XChaCha20Poly1305::new((&self.0).into()), answer, associated)
    }

    /// Opens a response. Returns `None` if it was sealed for another token.
    pub(super) fn open(&self, sealed: &[u8], associated: &[u8]) -> Option<Vec<u8>> {
        decrypt(&XChaCha20Poly1305::new((&self.0).into()), sealed, associated)
    }
}

/// Returns the nonce and the ciphertext.
fn encrypt(cipher: &XChaCha20Poly1305, msg: &[u8], aad: &[u8]) -> Result<Vec<u8>> {
    let mut nonce = [0; NONCE];
    random(&mut nonce);
    let ciphertext = cipher.encrypt(&XNonce::from(nonce), Payload { msg, aad });
    let ciphertext =
        ciphertext.map_err(|_| StoreError::Inconsistent("a text is too long to be sealed".to_owned()))?;
    Ok([&nonce[..], &ciphertext].concat())
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
    fn a_sealed_value_opens_with_its_key_in_its_row_and_column_only() {
        let (old, new) = ([1; 32], [2; 32]);
        let ring = Keyring::new([&old]);
        let sealed = ring.seal(Column::APP_SECRET, row(1), "whsec_x").expect("sealed").into_owned();
        assert!(sealed.starts_with("sealed:") && !sealed.contains("whsec_x"), "{sealed}");
        assert_ne!(sealed, ring.seal(Column::APP_SECRET, row(1), "whsec_x").expect("sealed"));
        let open = |ring: &Keyring, column, row| ring.open(column, row, sealed.clone()).ok();
        for ring in [&ring, &Keyring::new([&new, &old])] {
            assert_eq!(open(ring, Column::APP_SECRET, row(1)).as_deref(), Some("whsec_x"));
        }
        assert_eq!(open(&ring, Column::APP_SECRET, row(2)), None, "another row");
        assert_eq!(open(&ring, Column::APP_OLD_SECRET, row(1)), None, "another column");
        assert_eq!(open(&Keyring::new([&new]), Column::APP_SECRET, row(1)), None, "another key");
        assert_eq!(open(&Keyring::default(), Column::APP_SECRET, row(1)), None, "no key");
        assert!(!ring.is_stale(&sealed) && ring.is_stale("whsec_x") && !Keyring::default().is_stale("x"));
        assert!(Keyring::new([&new, &old]).is_stale(&sealed));
    }

    #[test]
    fn without_a_key_values_stay_plain() {
        let ring = Keyring::default();
        assert_eq!(ring.seal(Column::APP_SECRET, row(1), "x").expect("sealed"), "x");
        assert_eq!(ring.open(Column::APP_SECRET, row(1), "x".to_owned()).expect("opened"), "x");
    }

    #[test]
    fn a_response_opens_for_the_same_token_and_request_only() {
        let key = AnswerKey::of_token("rb_1");
        let sealed = key.seal(b"secret", b"here").expect("sealed");
        assert_eq!(AnswerKey::of_token("rb_1").open(&sealed, b"here").as_deref(), Some(b"secret".as_slice()));
        assert_eq!(AnswerKey::of_token("rb_2").open(&sealed, b"here"), None);
        assert_eq!(key.open(&sealed, b"there"), None);
        assert_eq!(key.open(b"short", b"here"), None);
    }
}
