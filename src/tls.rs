//! Trusted certificate authorities: those of the machine, or, on a machine without any (a bare container), the
//! ones that Mozilla trusts, which are compiled in.

use std::sync::Arc;

use anyhow::Result;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::Verifier;

/// Certificate authorities that are trusted in addition to others.
type Roots = Vec<CertificateDer<'static>>;

/// Returns a TLS configuration that also trusts `extra`. Clones of it share their sessions.
pub fn config(extra: Roots) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier_of(extra, &provider)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Returns the verifier of such a configuration.
pub fn verifier(extra: Roots) -> Result<Arc<dyn ServerCertVerifier>> {
    verifier_of(extra, &Arc::new(ring::default_provider()))
}

fn verifier_of(extra: Roots, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    match Verifier::new(provider.clone()) {
        Ok(platform) if extra.is_empty() => Ok(Arc::new(platform)),
        Ok(_) => Ok(Arc::new(Verifier::new_with_extra_roots(extra, provider.clone())?)),
        Err(error) => {
            tracing::warn!(%error, "this machine has no certificate authorities, so the compiled-in ones are used; install ca-certificates");
            compiled_in(extra, provider)
        }
    }
}

fn compiled_in(extra: Roots, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for root in extra {
        roots.add(root)?;
    }
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_authorities_trusts_the_compiled_in_ones() {
        assert!(compiled_in(Vec::new(), &Arc::new(ring::default_provider())).is_ok());
    }
}
