//! TLS of a guest that the gateway ends itself, for chosen hosts only: those that have secrets or
//! HTTP rules. All other TLS passes unread.
//!
//! ```text
//!   guest --TLS by a leaf of the sandbox's Authority--> HttpProxy --UpstreamTls, verified--> server
//! ```
//!
//! * `authority`: the sandbox's certificate authority, which its guest trusts,
//! * `leaves`: certificates that it makes for hosts,
//! * `upstream_tls`: TLS to the servers, by the host's roots.

mod authority;
mod leaves;
mod upstream_tls;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

pub use authority::{Authority, AuthorityError};
pub use upstream_tls::{RootsError, UpstreamTls, UpstreamTlsError};

use crate::Name;
use crate::http::{Dial, GuestConnection, HttpError, HttpProxy, HttpVersion, ServerTls, Stream};
use leaves::Leaves;

/// How long the other side may take to agree on TLS. Slow servers take a second.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);

/// HTTP/2 in TLS (RFC 9113 §3.2).
const ALPN_HTTP2: &[u8] = b"h2";

/// HTTP/1.1 in TLS (RFC 7301 §6).
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why a connection that is intercepted ended early.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// No certificate for the host.
    #[error("cannot make a certificate for {host}")]
    Leaf {
        /// The host.
        host: Name,
        /// Why not.
        #[source]
        source: AuthorityError,
    },
    /// The guest did not agree on TLS; mostly because it does not trust the sandbox's authority.
    #[error("tls with the guest")]
    Guest(#[source] io::Error),
    /// The hello was read differently than before.
    #[error("tls hello for another host than {host}")]
    Name {
        /// The host that was seen before.
        host: Name,
    },
    /// What is in the TLS failed.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// Ends the TLS of one sandbox's guest.
#[derive(Clone)]
pub struct Interceptor {
    leaves: Arc<Leaves>,
    tls: UpstreamTls,
}

impl Interceptor {
    /// Returns an interceptor that makes certificates by `authority` and trusts servers by `tls`.
    #[must_use]
    pub fn new(authority: Authority, tls: UpstreamTls) -> Self {
        Self {
            leaves: Arc::new(Leaves::new(authority)),
            tls,
        }
    }

    /// Serves a connection whose `ClientHello` shows `host`, from that hello on. Its requests are
    /// carried by `proxy`.
    ///
    /// # Errors
    ///
    /// When TLS or HTTP with the guest fails. That a server cannot be reached or is not trusted is
    /// no error, but a response to the guest.
    pub async fn serve(
        &self,
        proxy: &HttpProxy,
        connection: GuestConnection,
        host: Name,
        guest: impl Stream,
        dial: Arc<dyn Dial>,
    ) -> Result<(), InterceptError> {
        let config = self
            .leaves
            .config(&host)
            .map_err(|source| InterceptError::Leaf {
                host: host.clone(),
                source,
            })?;
        let accepted = timeout(HANDSHAKE_TIME, TlsAcceptor::from(config).accept(guest)).await;
        let guest = accepted
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(InterceptError::Guest)?;
        let (_, tls) = guest.get_ref();
        let shown = tls.server_name().map(Name::from_ascii);
        if shown != Some(Ok(host.clone())) {
            return Err(InterceptError::Name { host });
        }
        let version = if tls.alpn_protocol() == Some(ALPN_HTTP2) {
            HttpVersion::Http2
        } else {
            HttpVersion::Http1
        };
        let tls = self.tls.clone();
        let server = ServerTls { host, tls };
        proxy
            .serve_intercepted(connection, server, version, guest, dial)
            .await?;
        Ok(())
    }
}
