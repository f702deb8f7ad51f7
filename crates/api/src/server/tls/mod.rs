//! The certificate of the API, and its renewal while connections go on.

mod files;
mod validity;

pub use files::{EXPIRES_SOON, TlsError, TlsFiles, TlsWarning};
pub use validity::Validity;

use files::{Pair, Stamps};
use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{convert::Infallible, fmt, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::sleep};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

/// How often the files are checked for a change.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The current certificate with its key. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
    acceptor: TlsAcceptor,
}

struct Inner {
    files: TlsFiles,
    /// The files' state when they were first read, which may be long before the first check.
    loaded: Stamps,
    current: Arc<Current>,
    requested: Notify,
}

impl Tls {
    /// Reads and checks the files; nothing is served yet. Returns warnings for what is no reason to refuse.
    ///
    /// # Errors
    /// When a file can't be read, has the wrong content or is readable by others, or when the key isn't the
    /// certificate's.
    pub fn load(files: TlsFiles) -> Result<(Self, Vec<TlsWarning>), TlsError> {
        let loaded = files.stamps();
        let Pair { key, warnings } = files.read()?;
        let current = Arc::new(Current(RwLock::new(Arc::new(key))));
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = Self {
            inner: Arc::new(Inner {
                files,
                loaded,
                current,
                requested: Notify::new(),
            }),
            acceptor: TlsAcceptor::from(Arc::new(config)),
        };
        Ok((tls, warnings))
    }

    /// Reads the files again soon, even if they don't seem to have changed.
    pub fn reload(&self) {
        self.inner.requested.notify_one();
    }

    /// Whether the certificate that new handshakes get is for this name or address.
    pub(crate) fn certifies(&self, host: &str) -> bool {
        let key = self.inner.current.0.read().clone();
        let certificate = key.end_entity_cert().ok();
        let certificate = certificate.and_then(|der| ParsedCertificate::try_from(der).ok());
        let name = ServerName::try_from(host).ok();
        certificate
            .zip(name)
            .is_some_and(|(certificate, name)| verify_server_name(&certificate, &name).is_ok())
    }

    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Reloads the files when they change, for as long as this is polled. New handshakes get the new certificate;
    /// connections keep theirs. A pair that can't be used changes nothing.
    pub(crate) async fn keep_current(&self) -> Infallible {
        let mut seen = self.inner.loaded;
        loop {
            let requested = tokio::select! {
                () = sleep(LOOK_EVERY) => false,
                () = self.inner.requested.notified() => true,
            };
            let now = self.inner.files.stamps();
            if requested || now != seen {
                seen = now;
                // The files are replaced one after the other. If this falls in between, the next check finds a change.
                self.read_again();
            }
        }
    }

    fn read_again(&self) {
        match self.inner.files.read() {
            Ok(Pair { key, warnings }) => {
                for warning in warnings {
                    warn!("{warning}");
                }
                *self.inner.current.0.write() = Arc::new(key);
                info!(tls.certificate = %self.inner.files.certificate.display(), "reloaded the TLS certificate");
            }
            Err(reason) => {
                error!(%reason, "can't use the new certificate: keeping the old one");
            }
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.inner.files)
            .finish_non_exhaustive()
    }
}

/// The certificate that new handshakes get.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}
