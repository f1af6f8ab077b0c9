//! The network of the running sandbox: its gateway, its policy and its log.

use std::io;

use smolvm_network::{
    ContentConfig, EventLog, Gateway, GatewayConfig, NetworkPolicy, PolicyHandle, UpstreamConfig,
};
use smolvm_protocol::control::NetworkChange;

use crate::SandboxSpec;
use crate::bounded_log::{BoundedLog, MAX_NETWORK_LOG_BYTES};
use crate::engine::{NetworkDevice, Stream};
use crate::network::{self, NetworkError};
use crate::record::SandboxDir;

/// The gateway of a sandbox, and what it decides by.
#[derive(Debug)]
pub(super) struct Network {
    policy: NetworkPolicy,
    handle: PolicyHandle,
    gateway: Gateway,
    log: EventLog,
}

impl Network {
    /// Starts the gateway on the link of a machine.
    pub(super) fn start(
        link: Box<dyn Stream>,
        device: NetworkDevice,
        spec: &SandboxSpec,
        directory: &SandboxDir,
    ) -> io::Result<Self> {
        let (sink, log) = EventLog::start(BoundedLog::append(
            directory.network_log(),
            MAX_NETWORK_LOG_BYTES,
        )?)?;
        let handle = PolicyHandle::new(&spec.network);
        let config = GatewayConfig {
            link: network::gateway_side(device),
            policy: handle.clone(),
            upstream: UpstreamConfig::System,
            content: ContentConfig::default(),
            log: sink,
            limits: network::limits_of(spec),
        };
        Ok(Self {
            policy: spec.network.clone(),
            handle,
            gateway: Gateway::start(link, config),
            log,
        })
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
        self.policy = policy;
        Ok(())
    }

    /// Ends all connections and waits until the log is written.
    pub(super) async fn finish(self) {
        self.gateway.end().await;
        let log = self.log;
        // Everything that could record is gone, so this takes as long as writing does.
        let _panicked = tokio::task::spawn_blocking(move || log.finish()).await;
    }
}
