//! A real guest with a network, and this process at the other end of its link.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use smolvm_image::NoProgress;
use smolvm_protocol::message::{Command, Event, Exec, Exit, ExitReason, Request};
use smolvm_protocol::{Frame, FrameCodec, FrameKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::codec::Framed;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::engine::engine_of;
use crate::multiplexer::{AgentSession, GuestSettings, SessionError};
use crate::network::{self, GATEWAY_IPV4, GUEST_IPV4, GUEST_MAC, MTU};
use crate::record::SandboxDir;
use crate::{Installation, Lifetime, Sandbox, SandboxId, SandboxSpec, plan};

/// Longest time anything may take: a boot is a few seconds on a busy host.
const PATIENCE: Duration = Duration::from_secs(120);

/// The gateway's hardware address; any other than the guest's will do.
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Where the parts of a frame begin (RFC 894, RFC 791 §3.1, RFC 826).
const ETHERTYPE: usize = 12;
const PACKET: usize = 14;
const IPV4_PROTOCOL: usize = PACKET + 9;
const IPV4_ADDRESSES: usize = PACKET + 12;
const UDP: usize = PACKET + 20;
const UDP_DATA: usize = UDP + 8;
const ARP_OPERATION: usize = PACKET + 6;
const ARP_SENDER: usize = PACKET + 8;
const ARP_TARGET_IP: usize = PACKET + 24;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const PROTOCOL_UDP: u8 = 17;

/// A guest with a network, booted without a supervisor.
struct Guest {
    session: AgentSession,
    /// Datagrams that the guest has sent to the gateway, as frames.
    datagrams: mpsc::Receiver<Vec<u8>>,
    _machine: Box<dyn Machine>,
    _connection: AbortOnDropHandle<()>,
    _gateway: AbortOnDropHandle<()>,
    _sandbox: Sandbox,
    _data_dir: tempfile::TempDir,
}

impl Guest {
    async fn boot() -> Self {
        let data_dir = tempfile::tempdir().expect("directory");
        let installation = Arc::new(installation(data_dir.path()));
        let spec = SandboxSpec::new(SandboxId::random(), Lifetime::Persistent);
        let sandbox = Sandbox::create(
            Arc::clone(&installation),
            spec.clone(),
            Arc::new(NoProgress),
        )
        .await
        .expect("created");
        let path = data_dir.path().join("sandboxes").join(spec.id.as_str());
        let directory = SandboxDir::new(path);
        let plan = plan::resolve(&spec, &directory, &installation, Arc::new(NoProgress)).await;
        let mut plan = plan.expect("resolved").boot;
        plan.network = Some(network::device());
        let mut machine = engine_of(&plan.engine).boot(&plan).await.expect("booted");
        let link = machine.take_network().expect("a link");
        assert!(machine.take_network().is_none(), "there is one link");
        let (sender, datagrams) = mpsc::channel(16);
        let gateway = tokio::spawn(echo(link, sender));
        let stream = machine.take_agent_stream().expect("a stream");
        let (session, connection) = AgentSession::start(stream);
        Self {
            session,
            datagrams,
            _machine: machine,
            _connection: connection,
            _gateway: AbortOnDropHandle::new(gateway),
            _sandbox: sandbox,
            _data_dir: data_dir,
        }
    }

    async fn hello(&self, settings: GuestSettings) -> Result<(), SessionError> {
        let hello = self.session.hello(settings);
        let answer = tokio::time::timeout(PATIENCE, hello).await;
        answer.expect("the guest answers in time").map(drop)
    }

    /// Runs a line of shell and returns what it prints; it must succeed.
    async fn sh(&self, line: &str) -> String {
        let stream = self.session.open().await.expect("a stream");
        let mut stream = Framed::new(stream, FrameCodec);
        let request = Frame::message(&Request::Exec(shell(line))).expect("small");
        stream.send(request).await.expect("sent");
        let mut output = Vec::new();
        loop {
            let next = tokio::time::timeout(PATIENCE, stream.next()).await;
            let frame = next
                .expect("in time")
                .expect("it goes on")
                .expect("a frame");
            if frame.kind != FrameKind::Message {
                output.extend_from_slice(&frame.payload);
                continue;
            }
            match frame.parse().expect("an event") {
                Event::Started { .. } => {}
                Event::Exited(Exit { reason, .. }) => {
                    let output = String::from_utf8_lossy(&output).into_owned();
                    assert_eq!(reason, ExitReason::Exited { code: 0 }, "{line}: {output}");
                    return output;
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}

fn installation(data_dir: &Path) -> Installation {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release");
    let cache_dir = std::env::var_os("SMOLVM_CACHE_DIR").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").expect("a home"));
    Installation {
        data_dir: data_dir.to_owned(),
        cache_dir: cache_dir.unwrap_or_else(|| home().join(".cache/smolvm")),
        smolvm: programs.join("smolvm"),
        vmm: programs.join("smolvm-vmm"),
        agent: programs.join("smolvm-agent"),
        qemu: Some(PathBuf::from("/usr/bin/qemu-system-x86_64")),
    }
}

fn shell(line: &str) -> Exec {
    Exec::of(Command::Shell {
        script: line.as_bytes().to_vec().into(),
        login: false,
    })
}

fn with_network() -> GuestSettings {
    GuestSettings {
        network: Some(network::guest_side(network::device())),
        ..GuestSettings::default()
    }
}

/// Plays a gateway that answers ARP, and sends every UDP datagram back where it came from.
async fn echo(mut link: Box<dyn Stream>, datagrams: mpsc::Sender<Vec<u8>>) {
    while let Ok(length) = link.read_u32().await {
        let mut frame = vec![0; usize::try_from(length).expect("64 bits")];
        link.read_exact(&mut frame).await.expect("a whole frame");
        let answer = match [frame[ETHERTYPE], frame[ETHERTYPE + 1]] {
            ETHERTYPE_ARP if frame[ARP_TARGET_IP..][..4] == GATEWAY_IPV4.octets() => {
                arp_reply(&frame)
            }
            ETHERTYPE_IPV4 if frame[IPV4_PROTOCOL] == PROTOCOL_UDP => {
                datagrams.send(frame.clone()).await.expect("room");
                sent_back(&frame)
            }
            // What a kernel says by itself, such as that it has joined a multicast group.
            _ => continue,
        };
        link.write_u32(length).await.expect("written");
        link.write_all(&answer).await.expect("written");
    }
}

fn arp_reply(request: &[u8]) -> Vec<u8> {
    let mut reply = request.to_vec();
    reply[..6].copy_from_slice(&GUEST_MAC);
    reply[6..ETHERTYPE].copy_from_slice(&GATEWAY_MAC);
    reply[ARP_OPERATION + 1] = 2;
    reply[ARP_SENDER..][..6].copy_from_slice(&GATEWAY_MAC);
    reply[ARP_SENDER + 6..][..4].copy_from_slice(&GATEWAY_IPV4.octets());
    reply[ARP_SENDER + 10..][..10].copy_from_slice(&request[ARP_SENDER..][..10]);
    reply
}

/// Exchanges sender and receiver, which leaves all checksums right.
fn sent_back(frame: &[u8]) -> Vec<u8> {
    let mut back = frame.to_vec();
    for (start, length) in [(0, 6), (IPV4_ADDRESSES, 4), (UDP, 2)] {
        back[start..][..2 * length].rotate_left(length);
    }
    back
}

#[tokio::test]
async fn guest_has_the_addresses_routes_and_name_server_that_its_host_gives_it() {
    let guest = Guest::boot().await;
    guest.hello(with_network()).await.expect("set up");
    let interface = guest
        .sh("ip -br link show eth0; ip -br address show eth0")
        .await;
    assert!(interface.contains("02:73:6d:6f:6c:76"), "{interface}");
    assert!(interface.contains("172.16.0.2/24"), "{interface}");
    assert!(interface.contains("fd73:6d6f:6c76::2/64"), "{interface}");
    let routes = guest.sh("ip route; ip -6 route").await;
    assert!(
        routes.contains("default via 172.16.0.1 dev eth0"),
        "{routes}"
    );
    assert!(
        routes.contains("default via fd73:6d6f:6c76::1 dev eth0"),
        "{routes}"
    );
    // An address that is still being checked cannot be used.
    let tentative = guest.sh("ip address show tentative").await;
    assert_eq!(tentative, "");
    let resolver = guest.sh("cat /etc/resolv.conf").await;
    assert!(
        resolver.ends_with("\nnameserver 172.16.0.1\n"),
        "{resolver}"
    );
    assert_eq!(guest.sh("cat /sys/class/net/eth0/mtu").await, "65520\n");
}

#[tokio::test]
async fn largest_packet_passes_both_ways() {
    const SCRIPT: &str = "python3 -c '
import socket
guest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
guest.settimeout(60)
guest.connect((\"172.16.0.1\", 7))
for size in (1, 1472, 1473, 65492):
    sent = bytes(i % 251 for i in range(size))
    guest.send(sent)
    print(size, guest.recv(70000) == sent)
'";
    let mut guest = Guest::boot().await;
    guest.hello(with_network()).await.expect("set up");
    assert_eq!(
        guest.sh(SCRIPT).await,
        "1 True\n1472 True\n1473 True\n65492 True\n"
    );
    let mut largest = Vec::new();
    while let Ok(datagram) = guest.datagrams.try_recv() {
        largest = datagram;
    }
    assert_eq!(largest.len(), usize::from(MTU) + PACKET);
    assert_eq!(largest.len() - UDP_DATA, 65_492);
    assert_eq!(largest[6..ETHERTYPE], GUEST_MAC);
    assert_eq!(largest[IPV4_ADDRESSES..][..4], GUEST_IPV4.octets());
}

#[tokio::test]
async fn later_hello_gives_the_guest_another_identity() {
    let guest = Guest::boot().await;
    guest.hello(with_network()).await.expect("set up");
    let mut other = network::guest_side(network::device());
    other.ipv4.address = [172, 16, 5, 9].into();
    other.ipv4.gateway = [172, 16, 5, 1].into();
    other.ipv6 = None;
    other.hosts = vec![(other.ipv4.gateway.into(), "host.smolvm.internal".to_owned())];
    for _ in 0..2 {
        let settings = GuestSettings {
            network: Some(other.clone()),
            ..GuestSettings::default()
        };
        guest.hello(settings).await.expect("set up again");
    }
    let addresses = guest.sh("ip -br address show eth0 scope global").await;
    assert_eq!(
        addresses.split_whitespace().collect::<Vec<_>>(),
        ["eth0", "UP", "172.16.5.9/24"]
    );
    let routes = guest.sh("ip route show default").await;
    assert_eq!(
        routes.trim(),
        "default via 172.16.5.1 dev eth0 proto static"
    );
    let known = guest.sh("getent hosts host.smolvm.internal").await;
    assert!(known.starts_with("172.16.5.1 "), "{known}");
    let blocks = guest.sh("grep -c smolvm.internal /etc/hosts").await;
    assert_eq!(blocks, "1\n");
}

#[tokio::test]
async fn certificate_authority_reaches_the_programs_of_the_guest() {
    const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\nAQ==\n-----END CERTIFICATE-----\n";
    let guest = Guest::boot().await;
    guest.hello(with_network()).await.expect("set up");
    let without = guest
        .sh("echo $SSL_CERT_FILE; wc -l < /etc/ssl/certs/ca-certificates.crt")
        .await;
    let public: usize = without
        .trim()
        .parse()
        .expect("no variable, a number of lines");
    assert!(public > 1000, "{without}");
    let settings = GuestSettings {
        ca_certificate: Some(AUTHORITY.to_owned()),
        ..GuestSettings::default()
    };
    guest.hello(settings).await.expect("installed");
    let lines = guest
        .sh("wc -l < $SSL_CERT_FILE; tail -n 4 $REQUESTS_CA_BUNDLE")
        .await;
    assert_eq!(lines, format!("{}\n{AUTHORITY}# smolvm: end\n", public + 5));
    assert_eq!(guest.sh("cat $NODE_EXTRA_CA_CERTS").await, AUTHORITY);
}

#[tokio::test]
async fn network_that_cannot_be_set_up_is_refused_with_the_reason() {
    let guest = Guest::boot().await;
    let mut absent = network::guest_side(network::device());
    absent.mac = [2, 0, 0, 0, 0, 9];
    let settings = GuestSettings {
        network: Some(absent),
        ..GuestSettings::default()
    };
    let Err(SessionError::Refused(refusal)) = guest.hello(settings).await else {
        panic!("not refused");
    };
    assert_eq!(
        refusal.message,
        "the guest has no interface with the address 02:00:00:00:00:09"
    );
    guest
        .hello(GuestSettings::default())
        .await
        .expect("no network is fine");
    guest.sh("mount -t tmpfs -o ro tmpfs /etc").await;
    let Err(SessionError::Refused(refusal)) = guest.hello(with_network()).await else {
        panic!("not refused");
    };
    assert!(
        refusal
            .message
            .starts_with("/etc/resolv.conf cannot be written"),
        "{}",
        refusal.message
    );
}
