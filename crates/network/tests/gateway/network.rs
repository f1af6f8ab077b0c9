//! A guest with its gateway and what the gateway logs.

use smolvm_network::{
    CauseQuestion, ContentConfig, Event, EventLog, Gateway, GatewayConfig, Limits, LinkConfig,
    Mode, NetworkPolicy, PeersConfig, PolicyHandle, Record, Rule, UpstreamConfig, Verdict,
};
use tokio::sync::mpsc;

use crate::guest::{ADDRESS, GATEWAY, GATEWAY_MAC, Guest, MAC, MTU};

/// A guest with its gateway.
pub(crate) struct Network {
    pub(crate) guest: Guest,
    pub(crate) gateway: Gateway,
    pub(crate) policy: PolicyHandle,
    _log: EventLog,
    directory: tempfile::TempDir,
}

impl Network {
    pub(crate) fn new(mode: &str, rules: &[&str], limits: Limits) -> Self {
        Self::start(mode, rules, limits, None, None)
    }

    pub(crate) fn with_peers(
        mode: &str,
        rules: &[&str],
        limits: Limits,
        peers: Option<PeersConfig>,
    ) -> Self {
        Self::start(mode, rules, limits, peers, None)
    }

    /// Returns one that asks for the causes of events, and its questions.
    pub(crate) fn asking(mode: &str, rules: &[&str]) -> (Self, mpsc::Receiver<CauseQuestion>) {
        let (questions, asked) = mpsc::channel(8);
        let network = Self::start(mode, rules, Limits::default(), None, Some(questions));
        (network, asked)
    }

    fn start(
        mode: &str,
        rules: &[&str],
        limits: Limits,
        peers: Option<PeersConfig>,
        causes: Option<mpsc::Sender<CauseQuestion>>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = std::fs::File::create(directory.path().join("network.log")).expect("file");
        let (sink, log) = EventLog::start(file).expect("log");
        let (ours, theirs) = tokio::io::duplex(256 * 1024);
        let policy = PolicyHandle::new(&policy(mode, rules));
        let config = GatewayConfig {
            link: link(),
            policy: policy.clone(),
            upstream: UpstreamConfig::Servers(Vec::new()),
            content: ContentConfig::default(),
            log: sink,
            causes,
            limits,
            peers,
        };
        Self {
            guest: Guest::new(ours),
            gateway: Gateway::start(theirs, config),
            policy,
            _log: log,
            directory,
        }
    }

    /// Lets the guest live until the log has an event that `select` takes.
    pub(crate) async fn logged<T>(&mut self, select: impl Fn(Event) -> Option<T>) -> T {
        self.recorded(|record| select(record.event)).await
    }

    /// Lets the guest live until the log has a record that `select` takes.
    pub(crate) async fn recorded<T>(&mut self, select: impl Fn(Record) -> Option<T>) -> T {
        let path = self.directory.path().join("network.log");
        let find = || {
            let text = std::fs::read_to_string(&path).expect("log");
            text.lines()
                .filter_map(|line| serde_json::from_str::<Record>(line).ok())
                .filter_map(&select)
                .last()
        };
        self.guest.until(|_| find()).await
    }

    /// Returns bytes sent, bytes received and the reason of a connection's end.
    pub(crate) async fn end_of_connection(&mut self) -> (u64, u64, String) {
        self.logged(|event| match event {
            Event::Closed {
                sent_bytes,
                received_bytes,
                reason,
                ..
            } => Some((sent_bytes, received_bytes, reason)),
            _ => None,
        })
        .await
    }

    /// Returns the verdict on a connection.
    pub(crate) async fn verdict(&mut self) -> Verdict {
        self.logged(|event| match event {
            Event::Connection { verdict, .. } => Some(verdict),
            _ => None,
        })
        .await
    }

    /// Returns how many frames were dropped for this reason.
    pub(crate) async fn dropped(&mut self, why: &str) -> u64 {
        self.logged(|event| match event {
            Event::Dropped { reason, frames } if reason == why => Some(frames),
            _ => None,
        })
        .await
    }
}

fn link() -> LinkConfig {
    let address = |text: &str| text.parse().expect("address");
    LinkConfig {
        guest_mac: MAC,
        gateway_mac: GATEWAY_MAC,
        guest: vec![address(ADDRESS), address("fd73:6d6f:6c76::2")],
        gateway: vec![
            format!("{GATEWAY}/24").parse().expect("address"),
            "fd73:6d6f:6c76::1/64".parse().expect("address"),
        ],
        host: Vec::new(),
        mtu: MTU,
    }
}

pub(crate) fn policy(mode: &str, rules: &[&str]) -> NetworkPolicy {
    let mode = match mode {
        "open" => Mode::Open,
        "restricted" => Mode::Restricted,
        _ => Mode::Off,
    };
    let rule = |rule: &&str| rule.parse::<Rule>().expect("a rule");
    NetworkPolicy::new(mode, rules.iter().map(rule).collect()).expect("few rules")
}
