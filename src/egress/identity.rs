//! TLS identities of receivers: a client certificate that is presented to them, and the authorities that are trusted.
//!
//! Each identity has a TLS configuration of its own, so that it resumes only its own sessions, and its fingerprint is a
//! part of the key of the pool: a connection that was made with one identity never serves another, or a destination
//! without one.

use std::fmt::Write as _;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, Error, RootCertStore};
use sha2::{Digest as _, Sha256};

use crate::domain::{TlsPem, TlsSummary};
use crate::tls::{self, Trust};

/// Maximum number of certificates in a chain and of authorities.
const CHAIN_MAX: usize = 10;
const AUTHORITIES_MAX: usize = 64;

/// The field of the certificate, of its key, and of the authorities, in the API.
const CERTIFICATE: &str = "clientCertificate";
const KEY: &str = "clientKey";
const AUTHORITIES: &str = "ca";

/// Why a TLS identity cannot be used. The detail is a sentence that repeats nothing of the identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidIdentity {
    /// The field; `None` if it is the whole identity.
    pub field: Option<&'static str>,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl InvalidIdentity {
    fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field: Some(field), detail: detail.into() }
    }
}

/// A TLS identity that is ready for connections.
pub struct ClientIdentity {
    fingerprint: Arc<str>,
    pub(super) config: Arc<ClientConfig>,
    /// Where its authorities come from.
    pub(super) trust: Trust,
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientIdentity")
    }
}

impl ClientIdentity {
    /// Makes an identity. Without authorities of its own, `verifier` verifies the receiver.
    pub(super) fn new(pem: &TlsPem, verifier: &Arc<dyn ServerCertVerifier>) -> Result<Self, InvalidIdentity> {
        let parts = Parts::read(pem)?;
        let fingerprint = parts.fingerprint().into();
        let failed = |detail: String| InvalidIdentity { field: None, detail };
        let (verifier, trust) = if parts.authorities.is_empty() {
            (Arc::clone(verifier), Trust::MachineForWebhook)
        } else {
            let own = tls::verifier_of(parts.authorities).map_err(|error| failed(error.to_string()))?;
            (own, Trust::Destination)
        };
        let mut config =
            tls::config_with(verifier, parts.client).map_err(|error| failed(error.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { fingerprint, config: Arc::new(config), trust })
    }

    /// Returns the fingerprint of the whole identity.
    pub fn fingerprint(&self) -> &Arc<str> {
        &self.fingerprint
    }
}

/// Checks an identity: the texts, and whether the key fits the certificate. Returns what may be shown of it.
pub fn check_identity(pem: &TlsPem) -> Result<TlsSummary, InvalidIdentity> {
    let parts = Parts::read(pem)?;
    let certificate = parts.client.as_ref().and_then(|(chain, _)| chain.first());
    Ok(TlsSummary {
        fingerprint: parts.fingerprint(),
        certificate: certificate.map(|certificate| hex(&Sha256::digest(certificate))),
        authorities: parts.authorities.len(),
    })
}

/// The certificates and the key of an identity.
struct Parts {
    client: Option<tls::CertificateAndKey>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Parts {
    fn read(pem: &TlsPem) -> Result<Self, InvalidIdentity> {
        let client = match (&pem.certificate, &pem.key) {
            (Some(certificate), Some(key)) => Some(pair(certificate, key.reveal())?),
            (Some(_), None) => return Err(InvalidIdentity::new(KEY, "is required with clientCertificate")),
            (None, Some(_)) => return Err(InvalidIdentity::new(CERTIFICATE, "is required with clientKey")),
            (None, None) => None,
        };
        let authorities = match &pem.authorities {
            Some(authorities) => read_authorities(authorities)?,
            None if client.is_none() => {
                let detail = "must have clientCertificate and clientKey, or ca, or all three".to_owned();
                return Err(InvalidIdentity { field: None, detail });
            }
            None => Vec::new(),
        };
        Ok(Self { client, authorities })
    }

    /// Returns the SHA-256 of everything in the identity.
    fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        let mut add = |kind: u8, bytes: &[u8]| {
            hash.update([kind]);
            hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(bytes);
        };
        if let Some((chain, key)) = &self.client {
            for certificate in chain {
                add(0, certificate);
            }
            add(1, key.secret_der());
        }
        self.authorities.iter().for_each(|certificate| add(2, certificate));
        hex(&hash.finalize())
    }
}

/// Reads a client certificate and its key.
fn pair(certificate: &str, key: &str) -> Result<tls::CertificateAndKey, InvalidIdentity> {
    let chain = certificates(CERTIFICATE, certificate, CHAIN_MAX)?;
    let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else {
        let detail = "has no private key in PEM format; a key with a passphrase cannot be used, so store it without \
                      one (openssl pkey)";
        return Err(InvalidIdentity::new(KEY, detail));
    };
    match CertifiedKey::from_der(chain.clone(), key.clone_key(), &tls::provider()) {
        Ok(_) => Ok((chain, key)),
        Err(Error::InconsistentKeys(_)) => {
            let detail = "does not fit clientCertificate; give the key that belongs to its first certificate";
            Err(InvalidIdentity::new(KEY, detail))
        }
        Err(Error::InvalidCertificate(_)) => {
            Err(InvalidIdentity::new(CERTIFICATE, "has a certificate that cannot be read"))
        }
        Err(_) => {
            let detail = "has a key that cannot be used; use RSA of at least 2048 bits, ECDSA or Ed25519";
            Err(InvalidIdentity::new(KEY, detail))
        }
    }
}

fn read_authorities(text: &str) -> Result<Vec<CertificateDer<'static>>, InvalidIdentity> {
    // That of an authority can issue certificates for every name: it is not to be stored.
    if text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY")) {
        let detail =
            "has a private key, which is not needed here; give certificates only (openssl x509 -in FILE)";
        return Err(InvalidIdentity::new(AUTHORITIES, detail));
    }
    let authorities = certificates(AUTHORITIES, text, AUTHORITIES_MAX)?;
    let mut roots = RootCertStore::empty();
    for (n, authority) in authorities.iter().enumerate() {
        if roots.add(authority.clone()).is_err() {
            let detail = format!("has a certificate that cannot be read (number {})", n + 1);
            return Err(InvalidIdentity::new(AUTHORITIES, detail));
        }
    }
    Ok(authorities)
}

/// Reads certificates in PEM.
fn certificates(
    field: &'static str,
    text: &str,
    most: usize,
) -> Result<Vec<CertificateDer<'static>>, InvalidIdentity> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).take(most + 1).collect();
    match found {
        Ok(found) if found.is_empty() => {
            let detail = "has no certificate in PEM format (-----BEGIN CERTIFICATE-----)";
            Err(InvalidIdentity::new(field, detail))
        }
        Ok(found) if found.len() > most => {
            Err(InvalidIdentity::new(field, format!("must not have more than {most} certificates")))
        }
        Ok(found) => Ok(found),
        Err(_) => Err(InvalidIdentity::new(field, "is not in PEM format")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
