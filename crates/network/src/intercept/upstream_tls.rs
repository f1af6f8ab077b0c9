//! TLS to the servers. Their certificates are always verified.

use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{ALPN_HTTP1, ALPN_HTTP2, HANDSHAKE_TIME};
use crate::Name;
use crate::http::{BoxStream, HttpVersion};

/// Why servers cannot be verified.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The host has none.
    #[error("the host has no certificates that it trusts")]
    None,
    /// One that was given is not a certificate.
    #[error("a root that was given is not a certificate")]
    Extra(#[source] rustls::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Setup(#[source] rustls::Error),
}

/// Why there is no TLS to a server.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamTlsError {
    /// The name is not one that TLS takes.
    #[error("{host} is not a name for TLS")]
    Name {
        /// The name.
        host: Name,
        /// Why not.
        #[source]
        source: InvalidDnsNameError,
    },
    /// The handshake failed, or the server's certificate is not trusted.
    #[error("no TLS with {host}")]
    Handshake {
        /// The name.
        host: Name,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// TLS toward servers.
#[derive(Clone, Debug)]
pub struct UpstreamTls {
    /// Offers HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    /// Offers HTTP/2, too.
    any: Arc<ClientConfig>,
}

impl UpstreamTls {
    /// Returns TLS that trusts what the host trusts.
    ///
    /// # Errors
    ///
    /// When the host trusts nobody.
    pub fn with_host_roots() -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        // One that cannot be read is no reason to do without the others.
        let found = rustls_native_certs::load_native_certs().certs;
        roots.add_parsable_certificates(found);
        if roots.is_empty() {
            return Err(RootsError::None);
        }
        Self::with_roots(roots)
    }

    /// Returns TLS that trusts these certificates, and no others.
    ///
    /// # Errors
    ///
    /// When one is not a certificate.
    pub fn with_only(certificates: Vec<CertificateDer<'static>>) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(RootsError::Extra)?;
        }
        Self::with_roots(roots)
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut http1 = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Setup)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        http1.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        let mut any = http1.clone();
        any.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        Ok(Self {
            http1: Arc::new(http1),
            any: Arc::new(any),
        })
    }

    /// Agrees on TLS with a server, and on HTTP of at most this version.
    pub(crate) async fn connect(
        &self,
        host: &Name,
        stream: BoxStream,
        at_most: HttpVersion,
    ) -> Result<(TlsStream<BoxStream>, HttpVersion), UpstreamTlsError> {
        let config = match at_most {
            HttpVersion::Http1 => &self.http1,
            HttpVersion::Http2 => &self.any,
        };
        let name =
            ServerName::try_from(host.to_string()).map_err(|source| UpstreamTlsError::Name {
                host: host.clone(),
                source,
            })?;
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, stream);
        let stream = timeout(HANDSHAKE_TIME, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| UpstreamTlsError::Handshake {
                host: host.clone(),
                source,
            })?;
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == ALPN_HTTP2 => HttpVersion::Http2,
            _ => HttpVersion::Http1,
        };
        Ok((stream, version))
    }
}
