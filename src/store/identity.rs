//! The key of the hashes that identify jobs which are an app's alone, and repeated requests. `job_polls` and
//! `idempotency` say what they are for.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::db::{Result, StoreError, Tx, params};
use super::sealing::{Column, Keyring};
use crate::domain::{AppNo, Id, random};

/// Key of the hashes of what may hold secrets.
#[derive(Clone, Default)]
pub struct IdentityKey([u8; 32]);

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl IdentityKey {
    /// Reads the key of the database, or draws it at the first start.
    pub fn load(tx: &Tx<'_>, keyring: &Keyring) -> Result<Self> {
        let stored =
            tx.find("select id, key from identity_keys", [], |row| Ok((row.id(0)?, row.text(1)?)))?;
        if let Some((id, text)) = stored {
            return Self::parse(&keyring.open(Column::IDENTITY_KEY, id, text)?);
        }
        let (mut id, mut key) = ([0; 16], [0; 32]);
        random(&mut id);
        random(&mut key);
        let (id, key) = (Id::from_bytes(id), Self(key));
        let sealed = keyring.seal(Column::IDENTITY_KEY, id, &key.text())?.into_owned();
        tx.run("insert into identity_keys (id, key) values ($1, $2)", params![id, &sealed])?;
        Ok(key)
    }

    fn text(&self) -> String {
        self.0.map(|byte| format!("{byte:02x}")).concat()
    }

    fn parse(text: &str) -> Result<Self> {
        let byte = |n: usize| u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
        let key = bytes.and_then(|bytes| bytes.try_into().ok()).map(Self);
        key.ok_or_else(|| StoreError::Inconsistent("`identity_keys.key` is not 32 bytes in hex".to_owned()))
    }

    /// Returns the identity of a source of an app, with the credential for it.
    pub fn identify(&self, app: AppNo, source: &str, credential: Option<Id>) -> Id {
        let (app, credential) = (app.0.to_be_bytes(), credential.map_or([0; 16], Id::to_bytes));
        let digest =
            self.hash("ringback: a job without a definition", &[&app, &credential, source.as_bytes()]);
        Id::from_bytes(std::array::from_fn(|n| digest[n]))
    }

    /// Returns a hash for one purpose. The length of each part but the last is the same for all its values.
    #[expect(clippy::expect_used, reason = "a MAC takes keys of any length")]
    pub fn hash(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_depends_on_the_app_the_poll_and_the_key() {
        let key = IdentityKey([7; 32]);
        let id = key.identify(AppNo(1), "{}", None);
        assert_eq!(id, IdentityKey::parse(&key.text()).expect("a key").identify(AppNo(1), "{}", None));
        assert_ne!(id, key.identify(AppNo(2), "{}", None));
        assert_ne!(id, key.identify(AppNo(1), "{ }", None));
        assert_ne!(id, IdentityKey([8; 32]).identify(AppNo(1), "{}", None));
        assert_ne!(id, key.identify(AppNo(1), "{}", Some(Id::MAX)));
        assert!(IdentityKey::parse("00").is_err() && format!("{key:?}") == "***");
    }
}
