//! Certificates for hosts, kept for the next connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::authority::{Authority, AuthorityError};
use super::{ALPN_HTTP1, ALPN_HTTP2};
use crate::Name;

/// Hosts that are kept, at most. A guest chooses the names below a wildcard; each takes about
/// 10 KiB.
pub(super) const MAX_LEAVES: usize = 128;

/// Age at which a certificate is made anew; well within its time.
const MAX_AGE: Duration = Duration::from_hours(24);

/// Sessions that a guest may resume for each host, instead of a full handshake.
const MAX_SESSIONS: usize = 32;

/// TLS toward the guest, for each host.
pub(super) struct Leaves {
    authority: Authority,
    /// Guards the configurations with their times; held for single operations.
    made: Mutex<HashMap<Name, (Instant, Arc<ServerConfig>)>>,
}

impl Leaves {
    pub(super) fn new(authority: Authority) -> Self {
        Self {
            authority,
            made: Mutex::default(),
        }
    }

    /// Returns the configuration for a host.
    pub(super) fn config(&self, host: &Name) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, (time, _)| time.elapsed() < MAX_AGE);
        if let Some((_, config)) = made.get(host) {
            return Ok(Arc::clone(config));
        }
        // Made under the lock, which takes about 0.1 ms: two connections at once share it.
        let config = Arc::new(self.make(host)?);
        if made.len() >= MAX_LEAVES {
            let oldest = made.iter().min_by_key(|(_, (time, _))| *time);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                made.remove(&oldest);
            }
        }
        made.insert(host.clone(), (Instant::now(), Arc::clone(&config)));
        Ok(config)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.made.lock().expect("whole").len()
    }

    fn make(&self, host: &Name) -> Result<ServerConfig, AuthorityError> {
        let (chain, key) = self.authority.make_leaf(host)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(AuthorityError::Use)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(AuthorityError::Use)?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(MAX_SESSIONS);
        Ok(config)
    }
}
