//! The gate that a connection passes whose destination is allowed by its name alone: the name
//! that its protocol shows must be allowed, too.
//!
//! ```text
//!   guest's first bytes --look--> TLS with a name  --judge--> on, or reset
//!          (held)                 TLS without one, or with an encrypted hello: no name
//!                                 HTTP             --> each request is judged by its host
//!                                 anything else    --> on: it shows no name
//! ```
//!
//! What the guest sends is held until then; what the server sends is not, so that protocols in
//! which it speaks first work.

use tokio::net::TcpStream;

use super::content::{carry_http, carry_intercepted};
use super::flow::Flow;
use super::relay::{End, Relay};
use super::tcp::carry;
use crate::{ClientHello, Inspector, Name, Shown, Verdict};

/// Lets the connection through once it has shown what it is, if that is allowed.
pub(crate) async fn pass(flow: &Flow, relay: &mut Relay<'_>, mut host: TcpStream) -> End {
    let shown = match look(relay, &mut host).await {
        Ok(shown) => shown,
        Err(end) => return end,
    };
    let (verdict, name) = match shown {
        Shown::Opaque | Shown::Silent => {
            relay.watch_for(flow.context.content.secrets.scan());
            return carry(flow, relay, &mut host, None).await;
        }
        Shown::Http => return carry_http(flow, relay, host, false).await,
        Shown::Http2 => return carry_http(flow, relay, host, true).await,
        Shown::Tls(hello) => judge_hello(flow, &hello),
        Shown::Malformed(what) => {
            let verdict = Verdict::denied(format!("built-in: {what}"));
            flow.record_name("tls", None, verdict.clone());
            (verdict, None)
        }
    };
    if !verdict.is_allowed {
        relay.reset().await;
        return End::Refused;
    }
    if let Some(name) = &name
        && let Some(interceptor) = flow.context.content.interceptor_for(name)
    {
        return carry_intercepted(flow, relay, host, interceptor, name).await;
    }
    carry(flow, relay, &mut host, name.as_ref()).await
}

/// Waits until the connection has shown what it is.
async fn look(relay: &mut Relay<'_>, host: &mut TcpStream) -> Result<Shown, End> {
    let mut inspector = Inspector::default();
    let mut looked_at = 0;
    let look = |bytes: &[u8], is_complete: bool| {
        let shown = inspector.push(&bytes[looked_at..]);
        looked_at = bytes.len();
        shown.or_else(|| is_complete.then(|| inspector.finish()))
    };
    relay.hold(host, look).await
}

/// Judges the name of a TLS hello. A hello that is encrypted shows a name that means nothing.
fn judge_hello(flow: &Flow, hello: &ClientHello) -> (Verdict, Option<Name>) {
    let name = hello.name.clone().filter(|_| !hello.has_ech);
    let verdict = flow.judge_shown(name.as_ref());
    let shown = name.as_ref().map(|name| name.as_str().to_owned());
    flow.record_name("tls", shown, verdict.clone());
    (verdict, name)
}
