//! The verification of servers' certificates, for every outgoing connection.
//!
//! **Trusted certificates** are those of the machine, or, on a machine without any (a bare container), the ones that
//! Mozilla trusts, which are compiled in. The machine's are read again when their files change, which is compared at
//! most once a second: an operator adds an authority, or a package replaces an expired one, while the service runs. A
//! handshake starts the comparison and does not wait for it, because a file can be on a network mount that hangs
//! (`file_state`). So the second handshake after a change uses the new certificates. If `SSL_CERT_FILE` or
//! `SSL_CERT_DIR` is set, these files are the named file, each named folder, and the files in it. Each variable must
//! yield certificates, as at the start: else the old ones stay in use, and a warning says so once.
//!
//! **A certificate that is itself trusted needs no authority.** `openssl req -x509` makes a certificate that is marked
//! as an authority's. The verifier of `rustls-webpki` 0.103 refuses it as a server's certificate, even if it is trusted
//! (rustls/webpki#205), where OpenSSL and curl accept it. So does this module, if exactly this certificate is in the
//! list: its owner can issue certificates for every name anyway. The verifier has checked its dates before it looks at
//! the mark; the name is checked here, and the handshake proves that the server has the key.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, anyhow, bail};
use httpdate::fmt_http_date;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    OtherError, PeerIncompatible, RootCertStore, SignatureScheme,
};
use rustls_native_certs::{CertificateResult, load_certs_from_paths};

use crate::clock::Clock;
use crate::file_state::{FileState, FileValue, Source};
use crate::named_file;

/// Certificate authorities that are trusted in addition to others.
type Roots = Vec<CertificateDer<'static>>;

/// Maximum number of files in one folder that are compared: several times those of a folder with all public
/// authorities.
const WATCHED_MAX: usize = 2_000;

/// Values of `SSL_CERT_FILE` and `SSL_CERT_DIR`. They are those of the process: `rustls-native-certs` reads the variables
/// itself.
static NAMED: OnceLock<[Option<OsString>; 2]> = OnceLock::new();

/// Maximum length of an error, in characters: it can quote a thousand names of a certificate.
const DETAIL_MAX: usize = 300;

/// The error of a peer that answers in plain text.
const NOT_TLS: &str = "the server does not speak TLS on this port; check the port, or write the URL with the scheme \
                       without TLS (http://, smtp://)";

/// Returns the implementation of the cryptography. It verifies P-521 keys and ECDSA with SHA-512, which ring does not
/// (rustls/rustls#2536).
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Returns a TLS configuration that also trusts `extra`. Clones of it share their sessions.
pub fn config(extra: Roots) -> Result<ClientConfig> {
    Ok(config_with(verifier(extra)?, None)?)
}

/// A certificate with its intermediate certificates, and its key.
pub type CertificateAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns a TLS configuration with this verifier, and with a certificate that servers get on request.
pub fn config_with(
    verifier: Arc<dyn ServerCertVerifier>,
    client: Option<CertificateAndKey>,
) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        Some((chain, key)) => config.with_client_auth_cert(chain, key)?,
        None => config.with_no_client_auth(),
    };
    // The certificate of a resumed session is not verified. A receiver would stay trusted for days after its authority
    // was removed from a file.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Returns a verifier that trusts these certificates only. At least one of them must be an authority's.
pub fn verifier_of(certificates: Roots) -> Result<Arc<dyn ServerCertVerifier>> {
    let read = move || Ok(certificates.clone());
    Ok(Arc::new(SystemVerifier::new(Vec::new(), read, Vec::new, Clock::System)?))
}

/// Returns the verifier of such a configuration.
pub fn verifier(extra: Roots) -> Result<Arc<dyn ServerCertVerifier>> {
    let read = || {
        if let Some([file, folders]) = NAMED.get().filter(|named| named.iter().any(Option::is_some)) {
            return load_named(file.as_deref(), folders.as_deref());
        }
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            tracing::debug!(%error, "a file of certificate authorities cannot be read completely");
        }
        Ok(found.certs)
    };
    Ok(Arc::new(SystemVerifier::new(extra, read, watched_files, Clock::System)?))
}

/// Sets the values of `SSL_CERT_FILE` and `SSL_CERT_DIR`, whose files are compared from then on. Only the first call has
/// an effect. Without a call, the files that `openssl-probe` finds are compared.
pub fn watch_named(file: Option<&OsStr>, folders: Option<&OsStr>) {
    let _ = NAMED.set([file, folders].map(|value| value.map(OsStr::to_owned)));
}

/// Refuses a value of `SSL_CERT_FILE` that cannot be read without waiting, such as a FIFO. Every other error is one of
/// those that follow. In a folder, only regular files are read.
pub fn refuse_blocking(file: Option<&OsStr>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    match named_file::check(Path::new(file)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            bail!("SSL_CERT_FILE={}: the file cannot be read: {error}", file.display())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Refuses values of `SSL_CERT_FILE` and `SSL_CERT_DIR` that name no certificates. An operator who names a private
/// authority must not get those that are compiled in.
pub fn check_named(file: Option<&OsStr>, folders: Option<&OsStr>) -> Result<()> {
    load_named(file, folders).map(drop)
}

/// Returns the certificates of both variables, without those that occur twice. Each variable must yield some.
fn load_named(file: Option<&OsStr>, folders: Option<&OsStr>) -> Result<Roots> {
    refuse_blocking(file)?;
    let mut certificates = Roots::new();
    if let Some(file) = file {
        let found = load_certs_from_paths(Some(Path::new(file)), None);
        refuse_none("SSL_CERT_FILE", file, &found)?;
        certificates.extend(found.certs);
    }
    if let Some(folders) = folders {
        let mut found = CertificateResult::default();
        for folder in std::env::split_paths(folders).filter(|folder| !folder.as_os_str().is_empty()) {
            let one = load_certs_from_paths(None, Some(&folder));
            found.certs.extend(one.certs);
            found.errors.extend(one.errors);
        }
        refuse_none("SSL_CERT_DIR", folders, &found)?;
        certificates.extend(found.certs);
    }
    certificates.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certificates.dedup();
    Ok(certificates)
}

/// Returns the files and folders of the trusted certificates: those that the variables name, else those of the machine.
fn watched_files() -> Vec<PathBuf> {
    let named = NAMED.get().map(|[file, folders]| named_files(file.as_deref(), folders.as_deref()));
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return named;
    }
    let found = openssl_probe::probe();
    found.cert_dir.into_iter().chain(found.cert_file).collect()
}

/// Returns the file, the folders, which colons separate, and the files in the folders. A folder does not change when a
/// file in it is overwritten in place.
fn named_files(file: Option<&OsStr>, folders: Option<&OsStr>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = file.map(PathBuf::from).into_iter().collect();
    let folders = folders.into_iter().flat_map(std::env::split_paths);
    for folder in folders.filter(|folder| !folder.as_os_str().is_empty()) {
        let found = std::fs::read_dir(&folder).into_iter().flatten();
        let mut found: Vec<_> = found.filter_map(|entry| Some(entry.ok()?.path())).collect();
        found.sort_unstable();
        found.truncate(WATCHED_MAX);
        files.push(folder);
        files.append(&mut found);
    }
    files
}

fn refuse_none(variable: &str, value: &OsStr, found: &CertificateResult) -> Result<()> {
    if !found.certs.is_empty() {
        return Ok(());
    }
    let value = value.display();
    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    bail!(
        "{variable}={value}: no certificate can be read there{why}; name certificate authorities in PEM format, or \
         unset the variable to trust those of this machine"
    )
}

/// Where the authorities of a connection come from, and so what to do about a certificate of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The machine. Only its operator can change them.
    Machine,
    /// The machine. A client without access to it can save the destination with authorities of its own.
    MachineForWebhook,
    /// `tls.ca` of a saved destination alone.
    Destination,
}

/// Returns an error of TLS as a sentence for people, with the remedy where the reason is not obvious.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other errors say what is wrong")]
pub fn explain(error: &Error, trust: Trust) -> String {
    // The first bytes of HTTP or SMTP without TLS are read as one of these.
    if let Error::InvalidMessage(
        InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
    ) = error
    {
        return NOT_TLS.to_owned();
    }
    if let Error::InvalidCertificate(refused) = error
        && let Some(sentence) = outside_its_time(refused)
    {
        return sentence;
    }
    let remedy = match error {
        Error::InvalidCertificate(refused) => remedy(refused, trust),
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "the server shares no cipher, curve or kind of key with this client"
        }
        Error::AlertReceived(AlertDescription::ProtocolVersion)
        | Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => "the server supports neither TLS 1.2 nor TLS 1.3; enable one of them there",
        Error::AlertReceived(AlertDescription::CertificateRequired | AlertDescription::BadCertificate) => {
            "the server requires a certificate of the client that it trusts; give the saved destination one (`tls`), \
             or let the server accept clients without one"
        }
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::CertificateUnknown) => {
            "the server does not trust the certificate of the client (`tls` of the saved destination)"
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the server has no certificate for this name; check the host in the URL"
        }
        Error::AlertReceived(_) => "the server refused the handshake; its log says why",
        _ => "",
    };
    let error: String = error.to_string().chars().take(DETAIL_MAX).collect();
    if remedy.is_empty() { error } else { format!("{error}; {remedy}") }
}

/// Returns a sentence about a certificate that has expired, or is not valid yet.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other errors are not about time")]
fn outside_its_time(refused: &CertificateError) -> Option<String> {
    let date = |at: &UnixTime| fmt_http_date(UNIX_EPOCH + Duration::from_secs(at.as_secs()));
    let (what, at) = match refused {
        CertificateError::ExpiredContext { not_after, .. } => ("expired on", not_after),
        CertificateError::NotValidYetContext { not_before, .. } => ("is not valid before", not_before),
        _ => return None,
    };
    let at = date(at);
    Some(format!(
        "the certificate of the server {what} {at}; renew it there, or correct the clock of this machine"
    ))
}

/// Returns what to do about a certificate that was refused; empty if the error says it.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other errors say what is wrong")]
fn remedy(refused: &CertificateError, trust: Trust) -> &'static str {
    match refused {
        // An authority that was made again often has the name of the old one, and another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match trust {
            Trust::Machine => {
                "this machine does not trust its issuer; add the issuer's certificate to the trusted ones of the \
                 machine, or name a file with it in SSL_CERT_FILE"
            }
            Trust::MachineForWebhook => {
                "this machine does not trust its issuer; give the issuer's certificate in `tls.ca` of a saved \
                 destination, or let the operator add it to the trusted ones of the machine (SSL_CERT_FILE)"
            }
            Trust::Destination => {
                "no authority in `tls.ca` of the saved destination has issued it; add its issuer's certificate there, \
                 or remove `ca` to trust the authorities of the server"
            }
        },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "only the names in its subjectAltName count, not its CN"
        }
        CertificateError::Other(OtherError(other)) => match other.downcast_ref() {
            Some(webpki::Error::CaUsedAsEndEntity) => match trust {
                Trust::Machine => {
                    "it is marked as an authority's (openssl req -x509 makes such ones) and not trusted itself; add it \
                     to the trusted certificates of the machine (SSL_CERT_FILE), or make it with -addext \
                     basicConstraints=critical,CA:FALSE"
                }
                Trust::MachineForWebhook | Trust::Destination => {
                    "it is marked as an authority's (openssl req -x509 makes such ones) and not trusted itself; add it \
                     to `tls.ca` of the saved destination, or make it with -addext basicConstraints=critical,CA:FALSE"
                }
            },
            Some(webpki::Error::UnsupportedCertVersion) => {
                "it is not of version 3; make it with extensions, such as openssl x509 -req -copy_extensions copy"
            }
            _ => "",
        },
        _ => "",
    }
}

/// Verifies certificates with the current authorities.
struct SystemVerifier(FileValue<Anchors>);

/// The trusted certificates.
struct Anchors {
    certificates: Roots,
    verifier: Arc<WebPkiServerVerifier>,
}

impl SystemVerifier {
    /// Reads the certificates with `read`, and again when one of the `files` changes. If `read` fails or yields none
    /// then, the old ones stay in use.
    fn new(
        extra: Roots,
        read: impl Fn() -> Result<Roots> + Send + Sync + 'static,
        files: impl Fn() -> Vec<PathBuf> + Send + Sync + 'static,
        clock: Clock,
    ) -> Result<Self> {
        let state = {
            let clock = clock.clone();
            move || FileState::of(files(), clock.now())
        };
        let (before, found) = (state(), read()?);
        if found.is_empty() {
            tracing::warn!(
                "this machine has no certificate authorities, so the compiled-in ones are used; install ca-certificates"
            );
        }
        let anchors = Anchors::new(found, &extra)?;
        let was_empty = anchors.certificates.len() == extra.len();
        let is_noted = AtomicBool::new(false);
        let read_again = move || {
            // A file that is being written may have none.
            let found = match read() {
                Ok(found) if found.is_empty() && was_empty => return None,
                Ok(found) if found.is_empty() => {
                    Err(anyhow!("no certificate can be read in the files of this machine"))
                }
                found => found,
            };
            match found.and_then(|found| Anchors::new(found, &extra)) {
                Ok(anchors) => {
                    is_noted.store(false, Relaxed);
                    tracing::debug!(
                        count = anchors.certificates.len(),
                        "the trusted certificates were read again"
                    );
                    Some(anchors)
                }
                Err(error) => {
                    if !is_noted.swap(true, Relaxed) {
                        tracing::warn!(
                            %error,
                            "the changed certificate authorities cannot be used, so the old ones stay in use"
                        );
                    }
                    None
                }
            }
        };
        let source = Source { state: Box::new(state), read: Box::new(read_again) };
        Ok(Self(FileValue::new(anchors, before, source, clock)))
    }

    /// Returns the trusted certificates, and starts a comparison of their files.
    fn anchors(&self) -> Arc<Anchors> {
        self.0.check();
        self.0.get()
    }
}

impl Anchors {
    fn new(mut certificates: Roots, extra: &Roots) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates.iter().cloned());
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for root in extra {
            roots.add(root.clone())?;
        }
        certificates.extend_from_slice(extra);
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        Ok(Self { certificates, verifier })
    }
}

impl std::fmt::Debug for SystemVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SystemVerifier")
    }
}

impl ServerCertVerifier for SystemVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let anchors = self.anchors();
        match anchors.verifier.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(error) if is_marked_as_authority(&error) && anchors.certificates.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
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
    ) -> Result<HandshakeSignatureValid, Error> {
        self.anchors().verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.anchors().verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.anchors().verifier.supported_verify_schemes()
    }
}

fn is_marked_as_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = error else { return false };
    matches!(other.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::{HandshakeKind, ServerConfig};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;
    use crate::file_state::CHECK_INTERVAL;

    const NAME: &str = "db.example";

    /// Returns the parameters of a certificate for [`NAME`], marked as an authority's or not.
    fn params(is_authority: bool) -> CertificateParams {
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        if is_authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    fn verifier_of(trusted: &CertificateDer<'static>) -> Arc<SystemVerifier> {
        let trusted = vec![trusted.clone()];
        let read = move || Ok(trusted.clone());
        Arc::new(SystemVerifier::new(Vec::new(), read, Vec::new, Clock::System).unwrap())
    }

    /// Connects to a server with this certificate as a client of `name`. The error is the client's.
    async fn handshake(
        verifier: Arc<SystemVerifier>,
        name: &'static str,
        certificate: &CertificateDer<'static>,
        key: &KeyPair,
    ) -> Result<(), String> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let mut client = config(Vec::new()).unwrap();
        client.dangerous().set_certificate_verifier(verifier);
        let (ours, theirs) = tokio::io::duplex(16 * 1024);
        let accept = TlsAcceptor::from(Arc::new(server)).accept(theirs);
        let connect = TlsConnector::from(Arc::new(client)).connect(name.try_into().unwrap(), ours);
        let (connected, _) = tokio::join!(connect, accept);
        connected.map(drop).map_err(|error| {
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            explain(error.get_ref().unwrap().downcast_ref().unwrap(), Trust::Machine)
        })
    }

    // rustls/rustls#2536, rustls/rustls#1367
    #[tokio::test]
    async fn every_usual_kind_of_key_and_signature_is_accepted() {
        let kinds: [(&SignatureAlgorithm, &SignatureAlgorithm); 4] = [
            (&rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_ECDSA_P521_SHA512),
            (&rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_ECDSA_P256_SHA256),
            (&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512),
            (&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384),
        ];
        for (of_authority, of_server) in kinds {
            let authority_key = KeyPair::generate_for(of_authority).unwrap();
            let root = params(true).self_signed(&authority_key).unwrap().der().clone();
            let issuer = Issuer::new(params(true), authority_key);
            let key = KeyPair::generate_for(of_server).unwrap();
            let leaf = params(false).signed_by(&key, &issuer).unwrap().der().clone();
            let connected = handshake(verifier_of(&root), NAME, &leaf, &key).await;
            assert_eq!(connected, Ok(()), "{of_authority:?} {of_server:?}");
        }
        // SHA-512 with a smaller key is not limited to P-521: the library accepts it in certificates.
        let accepted = provider().signature_verification_algorithms.all;
        let pairs = accepted.iter().map(|one| (one.public_key_alg_id(), one.signature_alg_id()));
        let with_sha512 = pairs.filter(|(_, signature)| signature.as_ref().ends_with(&[0xce, 0x3d, 4, 3, 4]));
        assert_eq!(with_sha512.count(), 3, "P-256, P-384 and P-521");
    }

    #[tokio::test]
    async fn a_peer_without_tls_is_an_error_about_its_port() {
        for greeting in [&b"220 mail.example ESMTP\r\n"[..], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            let (ours, mut theirs) = tokio::io::duplex(16 * 1024);
            theirs.write_all(greeting).await.unwrap();
            let connector = TlsConnector::from(Arc::new(config(Vec::new()).unwrap()));
            let error = connector.connect(NAME.try_into().unwrap(), ours).await.unwrap_err();
            assert_eq!(explain(error.get_ref().unwrap().downcast_ref().unwrap(), Trust::Machine), NOT_TLS);
        }
    }

    // jbg/tokio-postgres-rustls#23, rustls/webpki#205
    #[tokio::test]
    async fn a_certificate_that_is_itself_trusted_needs_no_authority() {
        let key = KeyPair::generate().unwrap();
        // As `openssl req -x509` makes them, and without the mark.
        for is_authority in [true, false] {
            let own = params(is_authority).self_signed(&key).unwrap().der().clone();
            assert_eq!(handshake(verifier_of(&own), NAME, &own, &key).await, Ok(()), "{is_authority}");
            let error = handshake(verifier_of(&own), "other.example", &own, &key).await.unwrap_err();
            assert!(error.contains("not valid for name") && error.contains("subjectAltName"), "{error}");
        }
        let own = params(true).self_signed(&key).unwrap().der().clone();
        let strange = params(true).self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone();
        let error = handshake(verifier_of(&strange), NAME, &own, &key).await.unwrap_err();
        assert!(error.contains("CaUsedAsEndEntity") && error.contains("CA:FALSE"), "{error}");
        let mut expired = params(true);
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = expired.self_signed(&key).unwrap().der().clone();
        let error = handshake(verifier_of(&expired), NAME, &expired, &key).await.unwrap_err();
        assert!(error.contains("expired on Wed, 01 Jan 2020") && error.contains("renew it"), "{error}");
    }

    #[test]
    fn each_error_of_tls_has_its_own_remedy() {
        let alert = Error::AlertReceived;
        for (error, remedy) in [
            (alert(AlertDescription::HandshakeFailure), "shares no cipher"),
            (alert(AlertDescription::ProtocolVersion), "neither TLS 1.2 nor TLS 1.3"),
            (
                Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
                "neither TLS 1.2 nor TLS 1.3",
            ),
            (alert(AlertDescription::CertificateRequired), "requires a certificate of the client"),
            (alert(AlertDescription::UnrecognisedName), "no certificate for this name"),
            (alert(AlertDescription::InternalError), "its log says why"),
            (Error::InvalidCertificate(CertificateError::UnknownIssuer), "SSL_CERT_FILE"),
            (Error::InvalidCertificate(CertificateError::NotValidForName), "subjectAltName"),
        ] {
            let text = explain(&error, Trust::Machine);
            assert!(text.contains("; ") && text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn the_remedy_for_an_unknown_issuer_is_one_that_applies() {
        let other = CertificateError::Other(OtherError(Arc::new(webpki::Error::CaUsedAsEndEntity)));
        for refused in [CertificateError::UnknownIssuer, CertificateError::BadSignature, other] {
            let said = |trust| explain(&Error::InvalidCertificate(refused.clone()), trust);
            let machine = said(Trust::Machine);
            assert!(machine.contains("SSL_CERT_FILE") && !machine.contains("tls.ca"), "{machine}");
            assert!(said(Trust::MachineForWebhook).contains("`tls.ca` of"));
            let own = said(Trust::Destination);
            assert!(own.contains("`tls.ca` of the saved destination"), "{own}");
            assert!(!own.contains("SSL_CERT_FILE") && !own.contains("machine"), "{own}");
        }
    }

    #[tokio::test]
    async fn the_certificate_is_verified_on_each_connection() {
        let key = KeyPair::generate().unwrap();
        let certificate = params(true).self_signed(&key).unwrap();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], der)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let client = config_with(verifier_of(certificate.der()), None).unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        for _ in 0..2 {
            let (ours, theirs) = tokio::io::duplex(16 * 1024);
            let accept = async {
                let mut accepted = acceptor.accept(theirs).await.unwrap();
                accepted.write_all(b"x").await.unwrap();
                accepted.flush().await.unwrap();
                accepted
            };
            let connect = async {
                let mut connected = connector.connect(NAME.try_into().unwrap(), ours).await.unwrap();
                // A ticket for the next connection comes before the first byte.
                connected.read_u8().await.unwrap();
                connected.get_ref().1.handshake_kind()
            };
            let (kind, _) = tokio::join!(connect, accept);
            assert_eq!(kind, Some(HandshakeKind::Full));
        }
    }

    #[tokio::test]
    async fn trusted_certificates_are_read_again_when_their_files_change() {
        let file = tempfile::tempdir().unwrap().keep().join("ca.pem");
        let (old, new) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let certificate = |key| params(true).self_signed(key).unwrap();
        let (first, second) = (certificate(&old), certificate(&new));
        std::fs::write(&file, first.pem()).unwrap();
        let (read, files) = (file.clone(), file.clone());
        let read = move || {
            let found = CertificateDer::pem_file_iter(&read);
            Ok(found.map(|found| found.filter_map(Result::ok).collect()).unwrap_or_default())
        };
        let files = move || vec![files.clone()];
        // After the year 2100, so that no file is fresh.
        let clock = ManualClock::at(Timestamp::from_millis(5_000_000_000_000));
        let verifier = SystemVerifier::new(Vec::new(), read, files, Clock::Manual(clock.clone())).unwrap();
        let verifier = Arc::new(verifier);
        let compared = async || {
            clock.advance(CHECK_INTERVAL);
            verifier.anchors();
            verifier.0.settled().await;
        };
        let works = async |certificate: &rcgen::Certificate, key| {
            handshake(verifier.clone(), NAME, certificate.der(), key).await.is_ok()
        };
        assert!(works(&first, &old).await && !works(&second, &new).await);
        std::fs::write(file.with_extension("new"), second.pem()).unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
        assert!(!works(&second, &new).await, "the files are compared once a second");
        compared().await;
        assert!(!works(&first, &old).await && works(&second, &new).await);
        // A file that is being written is not used.
        std::fs::write(&file, "").unwrap();
        compared().await;
        assert!(works(&second, &new).await);
    }

    #[tokio::test]
    async fn a_variable_that_yields_no_more_keeps_its_authorities() {
        let folders = tempfile::tempdir().unwrap();
        let (file, folder) = (folders.path().join("private.pem"), folders.path().join("public"));
        std::fs::create_dir(&folder).unwrap();
        let [private, public] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let certificate = params(true).self_signed(&private).unwrap();
        std::fs::write(folder.join("public.pem"), params(true).self_signed(&public).unwrap().pem()).unwrap();
        std::fs::write(&file, certificate.pem()).unwrap();
        let named = [file.clone(), folder].map(PathBuf::into_os_string);
        let watched = named.clone();
        let read = move || load_named(Some(&named[0]), Some(&named[1]));
        let files = move || named_files(Some(&watched[0]), Some(&watched[1]));
        // After the year 2100, so that no file is fresh.
        let clock = ManualClock::at(Timestamp::from_millis(5_000_000_000_000));
        let verifier = SystemVerifier::new(Vec::new(), read, files, Clock::Manual(clock.clone())).unwrap();
        let verifier = Arc::new(verifier);
        let works = async || {
            clock.advance(CHECK_INTERVAL);
            verifier.anchors();
            verifier.0.settled().await;
            handshake(verifier.clone(), NAME, certificate.der(), &private).await.is_ok()
        };
        assert!(works().await);
        let key = private.serialize_pem();
        for changed in [None, Some(key.as_str()), Some(""), Some("no PEM")] {
            match changed {
                None => std::fs::remove_file(&file).unwrap(),
                Some(text) => std::fs::write(&file, text).unwrap(),
            }
            assert!(works().await, "{changed:?}");
        }
        // A change that yields certificates is used.
        std::fs::write(&file, params(true).self_signed(&public).unwrap().pem()).unwrap();
        assert!(!works().await);
    }

    #[test]
    fn every_folder_of_ssl_cert_dir_is_compared_with_its_files() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        std::fs::write(second.path().join("ca.pem"), "old").unwrap();
        let missing = second.path().join("later");
        let folders = std::env::join_paths([Path::new(""), first.path(), second.path(), &missing]).unwrap();
        // After the year 2100, so that no file is fresh.
        let now = Timestamp::from_millis(5_000_000_000_000);
        let state = || FileState::of(named_files(None, Some(&folders)), now);
        let mut known = state();
        assert!(!state().differs(&known));
        let mut changed = |what: &str| {
            let found = state();
            assert!(found.differs(&known), "{what}");
            known = found;
        };
        std::fs::write(first.path().join("added.pem"), "").unwrap();
        changed("a file was added to the first folder");
        std::fs::write(second.path().join("ca.pem"), "newer").unwrap();
        changed("a file in the second folder was overwritten in place");
        std::fs::create_dir(missing).unwrap();
        changed("a folder was made");
        assert_eq!(named_files(Some(OsStr::new("a:b")), None), [Path::new("a:b")]);
        assert!(named_files(None, Some(OsStr::new(""))).is_empty());
    }

    #[test]
    fn a_variable_that_names_no_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, file) = (folder.path().join("missing.pem"), folder.path().join("ca.pem"));
        std::fs::write(&file, "no certificate").unwrap();
        let refused = |file: Option<&Path>, folders: Option<&Path>| {
            let checked = check_named(file.map(Path::as_os_str), folders.map(Path::as_os_str));
            checked.map_err(|error| error.to_string())
        };
        for (variable, error) in [
            ("SSL_CERT_FILE=", refused(Some(&missing), None)),
            ("SSL_CERT_FILE=", refused(Some(&file), None)),
            ("SSL_CERT_FILE=", refused(Some(Path::new("")), None)),
            ("SSL_CERT_DIR=", refused(None, Some(&missing))),
            ("SSL_CERT_DIR=", refused(None, Some(folder.path()))),
        ] {
            let error = error.unwrap_err();
            assert!(error.starts_with(variable) && error.contains("unset the variable"), "{error}");
        }
        let own = params(true).self_signed(&KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&file, own.pem()).unwrap();
        assert_eq!(refused(Some(&file), Some(folder.path())), Ok(()));
        assert_eq!(refused(Some(&file), Some(&missing)).unwrap_err().split('=').next(), Some("SSL_CERT_DIR"));
        assert_eq!(refused(None, None), Ok(()));
    }

    #[test]
    fn a_machine_without_authorities_trusts_the_compiled_in_ones() {
        assert!(Anchors::new(Vec::new(), &Vec::new()).is_ok());
    }
}
