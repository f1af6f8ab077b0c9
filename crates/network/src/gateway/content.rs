//! Connections whose content the gateway reads: HTTP, and TLS that it ends itself.
//!
//! ```text
//!   guest <--> relay <--pipe--> proxy: each request is judged --> host
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use super::context::Context;
use super::flow::{Flow, FlowKey};
use super::relay::{End, Relay};
use super::tcp::{self, carry};
use crate::{
    BoxStream, Destination, Dial, GuestConnection, HttpProxy, HttpRules, Interceptor, Name,
    RequestHead, RequestPolicy, Secrets, Verdict,
};

/// Bytes between the connection and its reader, in each direction: a TLS record and some.
const PIPE_BYTES: usize = 32 * 1024;

/// What the gateway does with the content of connections.
#[derive(Clone, Default)]
pub struct ContentConfig {
    /// Secrets that are put in on their way to their hosts.
    pub secrets: Secrets,
    /// What may be requested of hosts.
    pub rules: HttpRules,
    /// Ends the TLS to hosts of secrets and rules; without it there is none to read.
    pub interceptor: Option<Interceptor>,
}

impl std::fmt::Debug for ContentConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentConfig")
            .field("secrets", &self.secrets)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl ContentConfig {
    /// Whether connections must be looked into whatever the policy says.
    pub(crate) fn is_needed(&self) -> bool {
        self.interceptor.is_some()
    }

    /// Returns what ends the TLS to this host, if that is to be read.
    pub(crate) fn interceptor_for(&self, host: &Name) -> Option<&Interceptor> {
        let is_concerned = self.secrets.concern(host) || self.rules.concern(host);
        self.interceptor.as_ref().filter(|_| is_concerned)
    }
}

/// Carries a connection that speaks HTTP without TLS.
pub(crate) async fn carry_http(
    flow: &Flow,
    relay: &mut Relay<'_>,
    host: TcpStream,
    is_http2: bool,
) -> End {
    let (mut ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let proxy = proxy(flow);
    let serve = proxy.serve(connection(flow), is_http2, theirs, dial(flow, host));
    let (end, served) = tokio::join!(carry(flow, relay, &mut ours, None), serve);
    if let Err(error) = served {
        tracing::debug!(error = %chain(&error), "guest's HTTP ended");
    }
    end
}

/// Carries a connection with TLS to `name`, which the gateway ends itself.
pub(crate) async fn carry_intercepted(
    flow: &Flow,
    relay: &mut Relay<'_>,
    host: TcpStream,
    interceptor: &Interceptor,
    name: &Name,
) -> End {
    let (mut ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let serve = serve_intercepted(flow, interceptor, name, theirs, host);
    let (end, served) = tokio::join!(carry(flow, relay, &mut ours, Some(name)), serve);
    match (end, served) {
        (End::Closed | End::ResetByGuest, Err(error)) => End::Unreadable(chain(&error)),
        (end, _) => end,
    }
}

async fn serve_intercepted(
    flow: &Flow,
    interceptor: &Interceptor,
    name: &Name,
    guest: DuplexStream,
    host: TcpStream,
) -> Result<(), crate::InterceptError> {
    let (proxy, dial) = (proxy(flow), dial(flow, host));
    interceptor
        .serve(&proxy, connection(flow), name.clone(), guest, dial)
        .await
}

fn connection(flow: &Flow) -> GuestConnection {
    GuestConnection {
        number: flow.number,
        port: flow.key.destination.port(),
    }
}

fn proxy(flow: &Flow) -> HttpProxy {
    let context = &flow.context;
    let judge = RequestJudge {
        key: flow.key,
        names: flow.names.clone(),
        context: Arc::clone(context),
    };
    HttpProxy::new(
        Arc::new(judge),
        context.log.clone(),
        context.content.secrets.clone(),
    )
}

fn dial(flow: &Flow, first: TcpStream) -> Arc<dyn Dial> {
    Arc::new(FlowDial {
        upstream: flow.upstream(),
        first: Mutex::new(Some(first)),
    })
}

/// Judges the requests of one connection.
struct RequestJudge {
    key: FlowKey,
    names: Vec<Name>,
    context: Arc<Context>,
}

impl RequestPolicy for RequestJudge {
    fn request(&self, request: &RequestHead) -> Verdict {
        let to = Destination {
            protocol: self.key.protocol,
            address: self.key.destination,
            names: &self.names,
        };
        let verdict = self.context.judge_shown(&to, request.host.name());
        if !verdict.is_allowed {
            return verdict;
        }
        let ruled = self.context.content.rules.request(request);
        ruled.unwrap_or(verdict)
    }
}

/// Connects to where the guest did.
struct FlowDial {
    upstream: SocketAddr,
    /// The connection that was made before the guest was answered, until it is used.
    first: Mutex<Option<TcpStream>>,
}

impl Dial for FlowDial {
    fn dial(&self) -> BoxFuture<'_, io::Result<BoxStream>> {
        let first = self
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        async move {
            let stream = match first {
                Some(stream) => stream,
                None => tcp::connect(self.upstream).await?,
            };
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }
}

/// Returns an error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
