//! HTTPS, with certificates that can be renewed while serving.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Why HTTPS cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{path} cannot be read as PEM: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("{path} holds no certificate")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key does not belong to the certificate, or is of a kind not understood.
    #[error("certificate and key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What connections are encrypted with.
#[derive(Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Mutex<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads certificate and key.
    pub(crate) fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let current = Mutex::new(read(&files)?);
        Ok(Self { files, current })
    }

    fn current(&self) -> Arc<ServerConfig> {
        // Holders copy or replace an `Arc`.
        let current = self.current.lock();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Agrees with a client on a key.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsAcceptor::from(self.current()).accept(stream).await
    }

    /// Reads the files again whenever they change. Files that make no sense change nothing: they may
    /// be half written.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        self.keep_fresh_every(LOOK_INTERVAL).await;
    }

    async fn keep_fresh_every(&self, interval: Duration) {
        let mut seen = self.times();
        loop {
            sleep(interval).await;
            let now = self.times();
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(fresh) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
                    seen = now;
                    tracing::info!("certificate and key were read again");
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificate is not used, the old one is");
                }
            }
        }
    }

    fn times(&self) -> [Option<SystemTime>; 2] {
        let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
        [changed(&self.files.certificates), changed(&self.files.key)]
    }
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unreadable { path, source }
    };
    let path = &files.certificates;
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(unreadable(path))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { path: path.clone() });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data")
            .join(name)
    }

    fn files(certificates: PathBuf, key: PathBuf) -> TlsFiles {
        TlsFiles { certificates, key }
    }

    #[test]
    fn files_that_are_not_what_they_should_be_are_named() {
        let (one, key) = (data("one.crt.pem"), data("one.key.pem"));
        assert!(read(&files(one.clone(), key.clone())).is_ok());
        let error = read(&files(key.clone(), key.clone())).unwrap_err();
        assert!(matches!(error, TlsError::NoCertificate { .. }), "{error}");
        let error = read(&files(one.clone(), one.clone())).unwrap_err();
        assert!(error.to_string().contains("one.crt.pem"), "{error}");
        let error = read(&files(data("absent.pem"), key)).unwrap_err();
        assert!(error.to_string().contains("absent.pem"), "{error}");
        let error = read(&files(one, data("two.key.pem"))).unwrap_err();
        assert!(matches!(error, TlsError::Unusable(_)), "{error}");
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
        let name = format!("kvist-tls-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let (certificates, key) = (dir.join("crt.pem"), dir.join("key.pem"));
        let put = |name: &str, seconds: u64| {
            for (part, to) in [("crt", &certificates), ("key", &key)] {
                fs::copy(data(&format!("{name}.{part}.pem")), to).unwrap();
                let file = fs::File::options().write(true).open(to).unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
                file.set_modified(time).unwrap();
            }
        };
        put("one", 1);
        let tls = Arc::new(Tls::read(files(certificates.clone(), key.clone())).unwrap());
        let first = tls.current();
        let fresh = Arc::clone(&tls);
        let task = tokio::spawn(async move {
            fresh.keep_fresh_every(Duration::from_millis(1)).await;
        });
        sleep(Duration::from_millis(5)).await;
        fs::write(&certificates, "not a certificate").unwrap();
        sleep(Duration::from_millis(20)).await;
        assert!(
            Arc::ptr_eq(&first, &tls.current()),
            "a broken file replaced a good one"
        );
        put("two", 2);
        for _ in 0..5000 {
            if !Arc::ptr_eq(&first, &tls.current()) {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        assert!(
            !Arc::ptr_eq(&first, &tls.current()),
            "the new certificate was not seen"
        );
        task.abort();
        fs::remove_dir_all(&dir).unwrap();
    }
}
