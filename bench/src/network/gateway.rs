//! `smolvm-bench gateway`: SmolVM's gateway as a process of its own, so that what it uses can be
//! told from all else. In a sandbox it runs in the supervisor, in the same way.

use std::error::Error;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use ipnet::Ipv4Net;
use smolvm_bench::dns;
use smolvm_network::{
    ContentConfig, EventLog, Gateway, GatewayConfig, HOST_NAME, Limits, LinkConfig, Mode,
    NetworkPolicy, PolicyHandle, Rule, UpstreamConfig,
};
use smolvm_sandbox::network::GATEWAY_MAC;

use super::path::{PREFIX_LENGTH, Path};
use super::process::{self, Process};
use super::server::Servers;

/// Rules of a policy with many, of each of four kinds.
const RULES_OF_A_KIND: usize = 250;

/// Starts the gateway of `path`, at the other end of `link`.
pub(crate) fn spawn(
    path: Path,
    servers: Servers,
    link: UnixStream,
    log: File,
) -> Result<Process, Box<dyn Error>> {
    let child = Command::new(std::env::current_exe()?)
        .arg("gateway")
        .args([
            path.index().to_string(),
            servers.http.to_string(),
            servers.dns.to_string(),
        ])
        .stdin(Stdio::from(OwnedFd::from(link)))
        .stdout(Stdio::from(log))
        .spawn()?;
    Ok(Process::new(child))
}

/// Runs a gateway between the link on standard input and the log on standard output, until this
/// process is killed.
pub(crate) fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let [path, http, dns] = words else {
        return Err("usage: smolvm-bench gateway PATH HTTP_PORT DNS_PORT".into());
    };
    let path = *Path::ALL
        .get(path.parse::<usize>()?)
        .ok_or("no such path")?;
    let servers = Servers {
        http: http.parse()?,
        dns: dns.parse()?,
    };
    process::raise_descriptor_limit()?;
    let link = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let log = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    link.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (sink, _log) = EventLog::start(log)?;
        let config = GatewayConfig {
            link: link_of(path)?,
            policy: PolicyHandle::new(&policy(path, servers)?),
            upstream: UpstreamConfig::Servers(vec![SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                servers.dns,
            ))]),
            content: ContentConfig::default(),
            log: sink,
            limits: Limits {
                // The limit is not what is measured.
                dns_queries_per_second: u32::MAX,
                ..Limits::default()
            },
            causes: None,
            peers: None,
        };
        let _gateway = Gateway::start(tokio::net::UnixStream::from_std(link)?, config);
        std::future::pending().await
    })
}

fn link_of(path: Path) -> Result<LinkConfig, Box<dyn Error>> {
    Ok(LinkConfig {
        guest_mac: path.mac(),
        gateway_mac: GATEWAY_MAC,
        guest: vec![path.guest().into()],
        gateway: vec![Ipv4Net::new(path.router(), PREFIX_LENGTH)?.into()],
        host: vec![path.host().into()],
        mtu: path.mtu(),
    })
}

/// Returns a policy that allows the servers, and with [`Path::Restricted`] has 1,000 rules.
fn policy(path: Path, servers: Servers) -> Result<NetworkPolicy, Box<dyn Error>> {
    let mut rules = vec![
        format!("allow {HOST_NAME}:{}", servers.http),
        format!("allow {HOST_NAME}:{}/udp", servers.dns),
    ];
    let mut mode = Mode::Open;
    if path == Path::Restricted {
        mode = Mode::Restricted;
        rules.push(format!("allow *.{}", dns::DOMAIN));
        for number in 0..RULES_OF_A_KIND {
            rules.push(format!("allow host{number}.example.org:443"));
            rules.push(format!("allow 10.1.{number}.0/24:5432"));
            rules.push(format!("deny *.host{number}.example.net"));
            rules.push(format!("deny 192.0.2.{number}"));
        }
        rules.truncate(4 * RULES_OF_A_KIND);
    }
    let rules: Vec<Rule> = rules
        .iter()
        .map(|rule| rule.parse())
        .collect::<Result<_, _>>()?;
    Ok(NetworkPolicy::new(mode, rules)?)
}
