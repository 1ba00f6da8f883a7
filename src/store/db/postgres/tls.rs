//! TLS to the server, if its URL asks for it.
//!
//! [`PostgresUrl`] says what of the certificate is verified. The authorities are those of
//! the machine, or those of the file `sslrootcert` alone. The file is read for each connection, because providers
//! replace it. A certificate that is itself in the file needs no authority: such a file is often the server's own,
//! self-signed certificate.
//!
//! **Channel binding** (RFC 5929, `tls-server-end-point`): the login proves that both sides see the same certificate,
//! so that no party in between can pass the login on. The value is the hash of the certificate, with the hash function
//! of its signature, or SHA-256 in place of MD5 and SHA-1. It is not defined for signatures without a hash function of
//! their own, such as Ed25519. For RSASSA-PSS, versions of PostgreSQL differ. In both cases there is no binding, and
//! `channel_binding=require` fails.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use crate::domain::{PostgresUrl, Verification};
use crate::named_file;

/// Maximum size of a file of certificates, in bytes: a hundred times those of all public authorities.
const FILE_MAX: u64 = 16 * 1024 * 1024;

/// Returns the TLS configuration for a URL.
pub fn config(url: &PostgresUrl) -> Result<ClientConfig> {
    let (inner, pinned) = match &url.roots {
        Some(file) => from_file(file).with_context(|| format!("sslrootcert={}", file.display()))?,
        None => (crate::tls::verifier(Vec::new())?, Vec::new()),
    };
    let verifier = Verifier { inner, pinned, verification: url.verification };
    let mut config = ClientConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    if url.direct_tls {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(config)
}

/// Returns a verifier that trusts the certificates of a PEM file, and the certificates.
fn from_file(file: &Path) -> Result<(Arc<dyn ServerCertVerifier>, Vec<CertificateDer<'static>>)> {
    let text = named_file::read(file, FILE_MAX).context("the file cannot be read")?;
    if text.len() as u64 > FILE_MAX {
        bail!("the file is larger than 16 MiB; is it the right one?");
    }
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let certificates = read.ok().context("a certificate in the file cannot be read; it must be in PEM")?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates.iter().cloned());
    if roots.is_empty() {
        bail!("the file holds no certificate in PEM");
    }
    let provider = crate::tls::provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
    Ok((verifier, certificates))
}

/// Says what to do about an error of a certificate.
pub fn remedy(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let refused = std::iter::successors(Some(error), |error| error.source()).find_map(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref()).or_else(|| error.downcast_ref())
    });
    let Some(rustls::Error::InvalidCertificate(refused)) = refused else { return None };
    Some(if is_about_name(refused) {
        "use the name in its certificate as the host, or sslmode=verify-ca, which does not compare names"
    } else {
        "add sslrootcert=FILE with the authority that your provider hands out (Supabase, RDS, Crunchy), or encrypt \
         without verification with sslmode=no-verify (Heroku hands out no authority)"
    })
}

fn is_about_name(error: &CertificateError) -> bool {
    matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
}

/// A verifier that verifies as much as the URL asks for.
#[derive(Debug)]
struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    /// Certificates that need no authority.
    pinned: Vec<CertificateDer<'static>>,
    verification: Verification,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.verification == Verification::None {
            return Ok(ServerCertVerified::assertion());
        }
        if self.pinned.contains(certificate) {
            if self.verification == Verification::Full {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        match self.inner.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is compared after everything else.
            Err(rustls::Error::InvalidCertificate(error))
                if self.verification == Verification::Authority && is_about_name(&error) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Creates a connector for each host.
#[derive(Clone, Debug)]
pub struct Tls(pub Arc<ClientConfig>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Stream<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        // A Unix socket has no name, and is never asked for TLS.
        Ok(Handshake(TlsConnector::from(Arc::clone(&self.0)), ServerName::try_from(host.to_owned()).ok()))
    }
}

/// A handshake that has not begun.
pub struct Handshake(TlsConnector, Option<ServerName<'static>>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Stream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let Self(connector, name) = self;
            let name = name.ok_or(io::ErrorKind::InvalidInput)?;
            Ok(Stream(connector.connect(name, stream).await?))
        })
    }
}

/// A TLS connection.
pub struct Stream<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        match certificates.and_then(<[_]>::first).and_then(|certificate| end_point(certificate)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Beginning of the algorithms of RSA signatures (PKCS #1), and of those of ECDSA, as object identifiers in DER.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1];
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4];

/// Returns the hash of a certificate for channel binding; `None` if it is not defined.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_algorithm(certificate)?;
    let bits = if let Some(kind) = algorithm.strip_prefix(RSA) {
        match kind {
            // MD5, SHA-1, SHA-256
            [4 | 5 | 11] => 256,
            [12] => 384,
            [13] => 512,
            _ => return None,
        }
    } else {
        match algorithm.strip_prefix(ECDSA)? {
            // SHA-1, SHA-256
            [1] | [3, 2] => 256,
            [3, 3] => 384,
            [3, 4] => 512,
            _ => return None,
        }
    };
    Some(match bits {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    })
}

/// Returns the object identifier of the algorithm that signed a certificate: a certificate is a sequence of its
/// content, of the algorithm (a sequence that begins with the identifier), and of the signature.
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate)?;
    let (_, rest) = element(certificate)?;
    let (algorithm, _) = element(rest)?;
    Some(element(algorithm)?.0)
}

/// Returns the content of the first element in DER, and what follows it.
fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[_tag, first], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_binding_has_the_hash_of_the_certificate_signature() {
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, Some(32)),
            (&rcgen::PKCS_ECDSA_P384_SHA384, Some(48)),
            (&rcgen::PKCS_ED25519, None),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
            let params = rcgen::CertificateParams::new(vec!["db.example".to_owned()]).expect("a name");
            let certificate = params.self_signed(&key).expect("signed");
            assert_eq!(end_point(certificate.der()).map(|hash| hash.len()), length);
        }
        for broken in [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x02, 0x30, 0x05]] {
            assert_eq!(end_point(broken), None);
        }
    }
}
