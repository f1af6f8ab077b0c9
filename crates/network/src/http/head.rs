//! What a request is for, and the fields that are for one connection only.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, StatusCode, Uri, Version};

use crate::Name;

/// A host that a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestHost {
    /// By its name.
    Name(Name),
    /// By an address.
    Address(IpAddr),
}

impl RequestHost {
    /// Returns the name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

impl fmt::Display for RequestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// What a request is judged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The host, which `Host`, `:authority` and absolute form agree on.
    pub host: RequestHost,
    /// Port that the guest connected to.
    pub port: u16,
    /// The method.
    pub method: String,
    /// The path as the guest sent it, without query.
    pub path: String,
    /// Whether it came in TLS that is intercepted.
    pub is_tls: bool,
}

/// Why a request is not carried at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadRequest {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
}

impl BadRequest {
    const fn new(reason: &'static str) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            reason,
        }
    }
}

/// A host with its port, if one is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) host: RequestHost,
    port: Option<u16>,
}

impl Authority {
    fn parse(text: &str) -> Option<Self> {
        // User information (`name@host`) has no place here (RFC 9110 §4.2.4); no name has an `@`.
        let after_address = text.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match text[after_address..].rfind(':') {
            Some(colon) => {
                let (host, port) = text.split_at(after_address + colon);
                (host, Some(parse_port(&port[1..])?))
            }
            None => (text, None),
        };
        let host = match host.strip_prefix('[') {
            Some(address) => {
                let address: Ipv6Addr = address.strip_suffix(']')?.parse().ok()?;
                RequestHost::Address(address.into())
            }
            None => match host.parse() {
                Ok(address) => RequestHost::Address(IpAddr::V4(address)),
                Err(_) => RequestHost::Name(Name::from_ascii(host).ok()?),
            },
        };
        Some(Self { host, port })
    }

    /// Tells whether both mean the same, where `default_port` is the scheme's.
    fn agrees_with(&self, other: &Self, default_port: u16) -> bool {
        self.host == other.host
            && self.port.unwrap_or(default_port) == other.port.unwrap_or(default_port)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number
        .then(|| text.parse().ok())?
        .filter(|port| *port > 0)
}

/// Returns where a request goes, if everything in it that says so agrees.
pub(super) fn read_authority<B>(
    request: &Request<B>,
    is_tls: bool,
) -> Result<Authority, BadRequest> {
    let (scheme, default_port) = if is_tls { ("https", 443) } else { ("http", 80) };
    if request.method() == Method::CONNECT {
        return Err(BadRequest {
            status: StatusCode::METHOD_NOT_ALLOWED,
            reason: "CONNECT is not carried",
        });
    }
    let uri = request.uri();
    if uri.scheme_str().is_some_and(|given| given != scheme) {
        return Err(BadRequest::new("scheme is not the connection's"));
    }
    let of_uri = match uri.authority() {
        Some(authority) => Some(
            Authority::parse(authority.as_str()).ok_or(BadRequest::new("target has no host"))?,
        ),
        None => None,
    };
    let of_header = read_host(request.headers())?;
    match (of_uri, of_header) {
        (Some(uri), Some(header)) if !uri.agrees_with(&header, default_port) => {
            Err(BadRequest::new("Host is not that of the target"))
        }
        (None, None) => Err(BadRequest::new("no Host")),
        // HTTP/1 must have it always (RFC 9112 §3.2).
        (Some(_), None) if request.version() < Version::HTTP_2 => Err(BadRequest::new("no Host")),
        (Some(authority), _) | (None, Some(authority)) => Ok(authority),
    }
}

fn read_host(headers: &HeaderMap) -> Result<Option<Authority>, BadRequest> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return Ok(None);
    };
    if hosts.next().is_some() {
        return Err(BadRequest::new("more than one Host"));
    }
    let authority = host.to_str().ok().and_then(Authority::parse);
    match authority {
        Some(authority) => Ok(Some(authority)),
        None => Err(BadRequest::new("Host is not a host")),
    }
}

/// Checks that a body has only the framing that is carried on: a length, or chunks.
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_plain = match codings.next() {
        None => true,
        Some(coding) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
    };
    if !is_plain || codings.next().is_some() {
        return Err(BadRequest {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "transfer coding other than chunked",
        });
    }
    Ok(())
}

/// Returns path and query in the form in which both versions of HTTP carry them.
pub(super) fn path_and_query(uri: &Uri) -> Result<&str, BadRequest> {
    match uri.path_and_query().map(|path| path.as_str()) {
        Some(path) if path.starts_with('/') => Ok(path),
        Some(path) if path.starts_with('?') => Err(BadRequest::new("query without a path")),
        None => Ok("/"),
        Some(_) => Err(BadRequest::new("target is not a path")),
    }
}

/// Headers by which frameworks let a client say another method than the request's.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Returns every method that a server may take the request for.
pub(super) fn methods<B>(request: &Request<B>) -> Vec<String> {
    let overrides = METHOD_OVERRIDES
        .iter()
        .flat_map(|name| request.headers().get_all(*name))
        .map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .trim()
                .to_uppercase()
        });
    [request.method().as_str().to_owned()]
        .into_iter()
        .chain(overrides)
        .collect()
}

/// Headers in which some servers take another path than the request's. No client sends them: they
/// are for a server's own proxy.
const PATH_OVERRIDES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Removes what is not for the server from a request.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    strip_connection_fields(headers);
    headers.remove(HOST);
    // The gateway has answered it when it read the body.
    headers.remove(hyper::header::EXPECT);
    for name in PATH_OVERRIDES {
        headers.remove(name);
    }
}

/// Fields that are about one connection (RFC 9110 §7.6.1), besides those that `Connection` names.
const CONNECTION_FIELDS: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Removes what is about one connection.
pub(super) fn strip_connection_fields(headers: &mut HeaderMap) {
    let named: Vec<String> = connection_options(headers).collect();
    for name in named {
        headers.remove(name);
    }
    for name in CONNECTION_FIELDS {
        headers.remove(name);
    }
}

/// Returns the options in `Connection`, in lower case.
fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(option).trim().to_ascii_lowercase())
        .filter(|option| !option.is_empty())
}

/// Tells whether the connection is to become a WebSocket (RFC 6455 §4.1). No other protocol is
/// carried: by `h2c`, for one, requests would follow that nobody judges.
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let is_websocket = upgrades
        .next()
        .is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket
        && upgrades.next().is_none()
        && connection_options(headers).any(|option| option == "upgrade")
}

/// Tells whether the other side takes trailers.
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"))
}
