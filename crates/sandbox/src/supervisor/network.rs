//! The network of the running sandbox: its gateway, its policy and its log.

use std::io;
use std::sync::Arc;

use smolvm_network::{
    CauseQuestion, Event, EventLog, EventSink, Gateway, GatewayConfig, NetworkPolicy, PolicyHandle,
    UpstreamConfig,
};
use smolvm_protocol::control::NetworkChange;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::causes;
use super::peers::PeerSocket;
use crate::SandboxSpec;
use crate::bounded_log::{BoundedLog, MAX_NETWORK_LOG_BYTES};
use crate::engine::{NetworkDevice, Stream};
use crate::multiplexer::AgentSession;
use crate::network::{self, NetworkError};
use crate::peers::Membership;
use crate::record::SandboxDir;
use crate::secrets::Content;
use crate::text;

/// Longest description of a policy in the log, in characters: some ten rules.
const MAX_SUMMARY_CHARS: usize = 500;

/// The gateway of a sandbox, and what it decides by.
#[derive(Debug)]
pub(super) struct Network {
    policy: NetworkPolicy,
    handle: PolicyHandle,
    gateway: Gateway,
    sink: EventSink,
    log: EventLog,
    causes: Causes,
    ca_certificate: Option<String>,
    /// Absent where the sandbox is in no private network.
    membership: Option<Arc<Membership>>,
    /// Where peers connect, while they may.
    peers: Option<PeerSocket>,
}

/// Questions of the gateway's for causes, and who has the agent answer them.
#[derive(Debug)]
enum Causes {
    /// The agent has not answered anything yet.
    Waiting(mpsc::Receiver<CauseQuestion>),
    Answered(AbortOnDropHandle<()>),
}

impl Network {
    /// Starts the gateway on the link of a machine.
    pub(super) fn start(
        link: Box<dyn Stream>,
        device: NetworkDevice,
        spec: &SandboxSpec,
        directory: &SandboxDir,
        content: Content,
    ) -> io::Result<Self> {
        let (sink, log) = EventLog::start(BoundedLog::append(
            directory.network_log(),
            MAX_NETWORK_LOG_BYTES,
        )?)?;
        let (questions, asked) = mpsc::channel(causes::MAX_QUESTIONS);
        let handle = PolicyHandle::new(&spec.network);
        let membership = Membership::begin(spec, directory)?.map(Arc::new);
        let config = GatewayConfig {
            link: network::gateway_side(device),
            policy: handle.clone(),
            upstream: UpstreamConfig::System,
            content: content.config,
            log: sink.clone(),
            causes: Some(questions),
            limits: network::limits_of(spec),
            peers: membership.as_ref().map(Membership::config),
        };
        Ok(Self {
            policy: spec.network.clone(),
            handle,
            gateway: Gateway::start(link, config),
            sink,
            log,
            causes: Causes::Waiting(asked),
            ca_certificate: content.ca_certificate,
            membership,
            peers: None,
        })
    }

    /// Lets peers connect from now on.
    pub(super) fn open_to_peers(&mut self, directory: &SandboxDir) {
        let Some(membership) = &self.membership else {
            return;
        };
        let door = self.gateway.door();
        match PeerSocket::open(directory, Arc::clone(membership), door) {
            Ok(socket) => self.peers = Some(socket),
            Err(error) => tracing::error!(%error, "peers cannot connect"),
        }
    }

    /// Lets no more peers connect. What they have open stays.
    pub(super) fn close_to_peers(&mut self) {
        self.peers = None;
    }

    /// Returns the certificate authority, in PEM, that the guest is to trust.
    pub(super) fn ca_certificate(&self) -> Option<String> {
        self.ca_certificate.clone()
    }

    /// Has the agent tell what causes events from now on.
    pub(super) fn ask_for_causes(self, agent: AgentSession) -> Self {
        let causes = match self.causes {
            Causes::Waiting(asked) => {
                let task = tokio::spawn(causes::answer(asked, agent));
                Causes::Answered(AbortOnDropHandle::new(task))
            }
            answered => answered,
        };
        Self { causes, ..self }
    }

    /// Changes what may be reached, now and after the next start.
    pub(super) fn change(
        &mut self,
        change: &NetworkChange,
        directory: &SandboxDir,
    ) -> Result<(), NetworkError> {
        let policy = network::changed(&self.policy, change)?;
        directory.write_network(&policy)?;
        self.handle.set(&policy);
        self.sink.record(Event::Policy {
            summary: summary(&policy),
        });
        self.policy = policy;
        Ok(())
    }

    /// Ends all connections and waits until the log is written.
    pub(super) async fn finish(self) {
        let Self {
            gateway,
            sink,
            log,
            causes,
            ..
        } = self;
        gateway.end().await;
        // A question keeps the log open until it is answered or dropped.
        match causes {
            Causes::Waiting(asked) => drop(asked),
            Causes::Answered(task) => {
                task.abort();
                // However it ended, it is gone, and its questions with it.
                let _aborted = task.await;
            }
        }
        drop(sink);
        // Everything that could record is gone, so this takes as long as writing does.
        let _panicked = tokio::task::spawn_blocking(move || log.finish()).await;
    }
}

/// Returns a policy in one line for people, of bounded length.
fn summary(policy: &NetworkPolicy) -> String {
    let rules = policy.rules().iter().map(ToString::to_string);
    let rules: Vec<String> = rules.collect();
    let line = match rules.is_empty() {
        true => policy.mode().to_string(),
        false => format!("{}: {}", policy.mode(), rules.join(", ")),
    };
    text::excerpt(&line, MAX_SUMMARY_CHARS)
}
