//! HTTP of a guest, request by request.
//!
//! ```text
//!   guest --bytes--> hyper's server --Request--> judge, put secrets in --> hyper's client --> Dial
//!         <---------                <--Response-- hide secrets        <--
//! ```
//!
//! * `head`: what a request is for, and whether it is carried at all,
//! * `connection`: what happens to one request, from its head to the event in the log,
//! * `body`: bodies on their way through,
//! * `upstream`: connections to the server,
//! * `tunnel`: WebSockets,
//! * `record`: what the log tells of a request, and `refusal` what the guest is told.
//!
//! No byte of a guest's head reaches a server. hyper reads it, and hyper writes another from what
//! it understood: one `Host`, which is the one that was judged, and one framing. So a server sees
//! the same requests as the policy, whatever the guest sends. Where `Transfer-Encoding` and
//! `Content-Length` are both there, chunks count, no length is sent on, and the connection ends with
//! the response (RFC 9112 §6.3). A guest that ends its side of a connection ends its requests.
//!
//! Informational responses are not passed on, but for 100, which the gateway gives itself, and 101.

mod body;
mod connection;
mod head;
mod record;
mod refusal;
mod tunnel;
mod upstream;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

pub use connection::{GuestConnection, HttpError, HttpProxy};
pub use head::{RequestHead, RequestHost};
pub(crate) use upstream::{HttpVersion, ServerTls};

use crate::Verdict;

/// Decides about requests.
pub trait RequestPolicy: Send + Sync {
    /// Returns whether a request may be made, and the rule that says so.
    fn request(&self, request: &RequestHead) -> Verdict;
}

/// Opens the host's side of a guest's connection: always to the address that the guest dialled,
/// whatever a request says.
pub trait Dial: Send + Sync {
    /// Returns a new stream to that address.
    fn dial(&self) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for S {}

/// Any stream.
pub type BoxStream = Box<dyn Stream>;

/// What connections of one sandbox share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) policy: Arc<dyn RequestPolicy>,
    pub(crate) events: crate::EventSink,
    pub(crate) secrets: crate::Secrets,
    /// Bodies that may be held in memory at once; the others wait.
    pub(crate) held_bodies: Arc<tokio::sync::Semaphore>,
}
