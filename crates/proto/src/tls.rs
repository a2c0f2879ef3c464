//! How do both ends of a connection prove that they belong together?
//!
//! Whoever starts an application makes an [`Authority`], lets it issue one identity for the driver and one for the
//! executors, and drops it: nobody can join later. Each side checks authority, application and role in the handshake,
//! before it decodes a byte of the other's. TLS 1.3 only, ring only, no resumption: a connection lasts for hours.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::AppId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};

/// How long an identity lasts: longer than any application, short enough to be worthless in an old backup.
pub const VALID_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

/// How far before its making an identity is valid: clocks of machines differ by minutes.
pub const VALID_BEFORE: Duration = Duration::from_secs(3600);

/// The protocol that gRPC speaks, named in the handshake.
const HTTP2: &[u8] = b"h2";

/// What can go wrong before a handshake.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate could not be made.
    #[error("make a certificate")]
    Issue(#[from] rcgen::Error),
    /// An identity's text is no PEM, or not the part it should be.
    #[error("read the {part} of an identity")]
    Pem {
        /// Which part: `certificate`, `key` or `authority`.
        part: &'static str,
        /// Why not.
        source: rustls_pki_types::pem::Error,
    },
    /// The parts of an identity do not make a TLS configuration.
    #[error("configure TLS")]
    Configure(#[from] rustls::Error),
    /// The authority of an identity is none.
    #[error("configure whom to trust")]
    Trust(#[from] rustls::server::VerifierBuilderError),
}

/// Which end of a connection an identity is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It dials.
    Driver,
    /// It listens.
    Executor,
}

impl Role {
    /// The name in the certificate of this role of this application.
    #[must_use]
    pub fn name(self, app: AppId) -> String {
        match self {
            Self::Driver => format!("driver.{app}.vonk"),
            Self::Executor => format!("executor.{app}.vonk"),
        }
    }

    fn usage(self) -> ExtendedKeyUsagePurpose {
        match self {
            Self::Driver => ExtendedKeyUsagePurpose::ClientAuth,
            Self::Executor => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }
}

/// A certificate, its key, and the authority whose certificates it trusts. All PEM.
///
/// `Debug` never shows the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
    /// The authority's certificate.
    pub ca_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cert_pem", &self.cert_pem)
            .field("key_pem", &"redacted")
            .finish_non_exhaustive()
    }
}

/// Issues the identities of one application. Its key is never written anywhere and goes when it is dropped.
pub struct Authority {
    app: AppId,
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Authority {
    /// A new authority for an application.
    ///
    /// # Errors
    /// The system gives no randomness: permits nothing.
    pub fn new(app: AppId) -> Result<Self, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("vonk {app}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let now = SystemTime::now();
        valid(&mut params, now - VALID_BEFORE, now + VALID_FOR);
        let key = KeyPair::generate()?;
        let ca_pem = params.self_signed(&key)?.pem();
        Ok(Self { app, issuer: Issuer::new(params, key), ca_pem })
    }

    /// An identity for a role, valid from an hour ago for 30 days.
    ///
    /// # Errors
    /// The system gives no randomness: permits nothing.
    pub fn issue(&self, role: Role) -> Result<Identity, Error> {
        let now = SystemTime::now();
        self.issue_between(role, now - VALID_BEFORE, now + VALID_FOR)
    }

    fn issue_between(&self, role: Role, from: SystemTime, until: SystemTime) -> Result<Identity, Error> {
        let name = role.name(self.app);
        let mut params = CertificateParams::new([name.clone()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![role.usage()];
        valid(&mut params, from, until);
        let key = KeyPair::generate()?;
        let cert_pem = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { cert_pem, key_pem: key.serialize_pem(), ca_pem: self.ca_pem.clone() })
    }
}

/// What an executor listens with: it lets nobody in but the driver of `app`.
///
/// # Errors
/// The identity is damaged: permits nothing.
pub fn server_config(identity: &Identity, app: AppId) -> Result<ServerConfig, Error> {
    let (provider, roots) = (provider(), roots(identity)?);
    let (chain, key) = chain(identity)?;
    let verifier = DriverVerifier {
        chain: WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?,
        name: server_name(Role::Driver, app),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What the driver dials with: it talks to nobody but executors of `app`, whatever name or address it dialled.
///
/// # Errors
/// The identity is damaged: permits nothing.
pub fn client_config(identity: &Identity, app: AppId) -> Result<ClientConfig, Error> {
    let (provider, roots) = (provider(), roots(identity)?);
    let (chain, key) = chain(identity)?;
    let verifier = ExecutorVerifier {
        chain: WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?,
        name: server_name(Role::Executor, app),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // It replaces the name that was dialled, and nothing else, by the one that must be proven.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The name to give to a TLS connector for an executor of `app`.
#[must_use]
pub fn executor_name(app: AppId) -> ServerName<'static> {
    server_name(Role::Executor, app)
}

fn server_name(role: Role, app: AppId) -> ServerName<'static> {
    ServerName::try_from(role.name(app)).expect("an application id has only letters and digits")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn valid(params: &mut CertificateParams, from: SystemTime, until: SystemTime) {
    let at = |time: SystemTime| {
        rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
    };
    params.not_before = at(from);
    params.not_after = at(until);
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, Error> {
    let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes())
        .map_err(|source| Error::Pem { part: "authority", source })?;
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    Ok(Arc::new(roots))
}

fn chain(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let cert = CertificateDer::from_pem_slice(identity.cert_pem.as_bytes())
        .map_err(|source| Error::Pem { part: "certificate", source })?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|source| Error::Pem { part: "key", source })?;
    Ok((vec![cert], key))
}

/// Lets in whom the authority calls the driver of this application.
#[derive(Debug)]
struct DriverVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    name: ServerName<'static>,
}

impl ClientCertVerifier for DriverVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &self.name)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Talks to whom the authority calls an executor of this application.
#[derive(Debug)]
struct ExecutorVerifier {
    chain: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for ExecutorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.chain.verify_server_cert(end_entity, intermediates, &self.name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    const APP: AppId = AppId(7);

    /// What the executor's side and the driver's side say of a handshake, and a byte each way after it.
    async fn handshake(server: ServerConfig, client: ClientConfig, app: AppId) -> (io::Result<()>, io::Result<()>) {
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let executor = async {
            let mut stream = TlsAcceptor::from(Arc::new(server)).accept(ours).await?;
            stream.write_all(b"e").await?;
            stream.flush().await?;
            stream.read_u8().await.map(drop)
        };
        let driver = async {
            let mut stream = TlsConnector::from(Arc::new(client)).connect(executor_name(app), theirs).await?;
            stream.read_u8().await?;
            stream.write_all(b"d").await?;
            stream.flush().await
        };
        tokio::join!(executor, driver)
    }

    fn identities(app: AppId) -> (Identity, Identity) {
        let authority = Authority::new(app).unwrap();
        (authority.issue(Role::Executor).unwrap(), authority.issue(Role::Driver).unwrap())
    }

    async fn meet(executor: &Identity, driver: &Identity) -> (Option<String>, Option<String>) {
        let (server, client) = (server_config(executor, APP).unwrap(), client_config(driver, APP).unwrap());
        let (at_executor, at_driver) = handshake(server, client, APP).await;
        let text = |result: io::Result<()>| result.err().map(|error| error.to_string());
        (text(at_executor), text(at_driver))
    }

    /// The side that must refuse did, for the reason that it should have.
    fn refused(said: Option<String>, why: &str) {
        let said = said.expect("the handshake succeeded");
        assert!(said.contains(why), "refused, but not because of {why}: {said}");
    }

    #[tokio::test]
    async fn driver_and_executor_of_one_application_meet() {
        let (executor, driver) = identities(APP);
        assert_eq!(meet(&executor, &driver).await, (None, None));
    }

    #[tokio::test]
    async fn an_identity_survives_its_pipe_and_hides_its_key_from_logs() {
        let (executor, driver) = identities(APP);
        assert!(!format!("{executor:?}").contains("PRIVATE"), "{executor:?}");
        assert!(executor.key_pem.contains("PRIVATE"));
        assert_eq!(meet(&executor.clone(), &driver).await, (None, None));
    }

    #[tokio::test]
    async fn nobody_without_a_certificate_is_let_in() {
        let (executor, driver) = identities(APP);
        let anonymous = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots(&driver).unwrap())
            .with_no_client_auth();
        let (at_executor, _) = handshake(server_config(&executor, APP).unwrap(), anonymous, APP).await;
        refused(at_executor.err().map(|error| error.to_string()), "peer sent no certificates");
    }

    #[tokio::test]
    async fn a_foreign_driver_is_refused_by_the_executor_and_a_foreign_executor_by_the_driver() {
        let (executor, driver) = identities(APP);
        let (foreign_executor, foreign_driver) = identities(APP);
        // Each trusts the right authority, so that it is the other side's check that is seen.
        let foreign_driver = Identity { ca_pem: driver.ca_pem.clone(), ..foreign_driver };
        let foreign_executor = Identity { ca_pem: executor.ca_pem.clone(), ..foreign_executor };
        refused(meet(&executor, &foreign_driver).await.0, "invalid peer certificate");
        refused(meet(&foreign_executor, &driver).await.1, "invalid peer certificate");
    }

    #[tokio::test]
    async fn another_application_of_the_same_authority_is_refused() {
        let authority = Authority::new(APP).unwrap();
        let other = Authority { app: AppId(8), ..authority };
        let (executor, driver) = (other.issue(Role::Executor).unwrap(), other.issue(Role::Driver).unwrap());
        let both = meet(&executor, &driver).await;
        refused(both.1, "not valid for name");
        let mine = Authority { app: APP, ..other };
        refused(meet(&mine.issue(Role::Executor).unwrap(), &driver).await.0, "not valid for name");
    }

    #[tokio::test]
    async fn an_expired_or_future_certificate_is_refused_on_either_side() {
        let authority = Authority::new(APP).unwrap();
        let (executor, driver) = (authority.issue(Role::Executor).unwrap(), authority.issue(Role::Driver).unwrap());
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let cases = [(now - 3 * hour, now - 2 * hour, "expired"), (now + hour, now + 2 * hour, "not valid yet")];
        for (from, until, why) in cases {
            let old_driver = authority.issue_between(Role::Driver, from, until).unwrap();
            refused(meet(&executor, &old_driver).await.0, why);
            let old_executor = authority.issue_between(Role::Executor, from, until).unwrap();
            refused(meet(&old_executor, &driver).await.1, why);
        }
    }

    #[tokio::test]
    async fn a_role_cannot_be_played_with_the_others_certificate() {
        let (executor, driver) = identities(APP);
        // One executor that dials another, and a driver that listens.
        refused(meet(&executor, &executor).await.0, "invalid peer certificate");
        refused(meet(&driver, &driver).await.1, "invalid peer certificate");
    }

    #[tokio::test]
    async fn the_name_in_a_certificate_counts_besides_its_usage() {
        // Signed by the authority for the right usage, but named as the other role.
        let authority = Authority::new(APP).unwrap();
        let (executor, driver) = (authority.issue(Role::Executor).unwrap(), authority.issue(Role::Driver).unwrap());
        let named = |name: Role, usage: Role| {
            let mut params = CertificateParams::new([name.name(APP)]).unwrap();
            params.extended_key_usages = vec![usage.usage()];
            let key = KeyPair::generate().unwrap();
            let cert_pem = params.signed_by(&key, &authority.issuer).unwrap().pem();
            Identity { cert_pem, key_pem: key.serialize_pem(), ca_pem: authority.ca_pem.clone() }
        };
        refused(meet(&executor, &named(Role::Executor, Role::Driver)).await.0, "not valid for name");
        refused(meet(&named(Role::Driver, Role::Executor), &driver).await.1, "not valid for name");
    }

    #[tokio::test]
    async fn tls_1_2_is_refused() {
        let (executor, driver) = identities(APP);
        let (chain, key) = chain(&driver).unwrap();
        let old = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots(&driver).unwrap())
            .with_client_auth_cert(chain, key)
            .unwrap();
        let (at_executor, _) = handshake(server_config(&executor, APP).unwrap(), old, APP).await;
        refused(at_executor.err().map(|error| error.to_string()), "Tls12NotOfferedOrEnabled");
    }

    #[test]
    fn a_damaged_identity_says_which_part() {
        let (executor, _) = identities(APP);
        type Damage = fn(&mut Identity);
        let parts: [(Damage, &str); 3] = [
            (|i| i.cert_pem.clear(), "read the certificate of an identity"),
            (|i| i.key_pem = "x".into(), "read the key of an identity"),
            (|i| i.ca_pem.truncate(40), "read the authority of an identity"),
        ];
        for (damage, text) in parts {
            let mut identity = executor.clone();
            damage(&mut identity);
            assert_eq!(server_config(&identity, APP).unwrap_err().to_string(), text);
        }
    }
}
