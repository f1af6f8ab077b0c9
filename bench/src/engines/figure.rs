//! What guests are asked to do, on one engine as on the other.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use smolvm_bench::disk::Pattern;
use smolvm_bench::workload::Workload;
use smolvm_sandbox::Sandbox;

use crate::network::server::Servers;
use crate::subject;

/// Where the program is in the guest that does what it is told.
const PROGRAM: &str = "/root/smolvm-bench-guest";

/// The file that is written and read, on the sandbox's own disk.
const FILE: &str = "/root/smolvm-bench-file";

/// Its size, in bytes.
const FILE_BYTES: u64 = 32 << 20;

/// Bytes that are read or written in blocks anywhere in it: 1,000 blocks of 4 KiB.
const RANDOM_BYTES: u64 = 1000 * 4096;

/// Bytes that go over the network or the agent's port, each way.
const STREAM_BYTES: u64 = 16 << 20;

/// Bytes of a mebibyte.
const MIB: u64 = 1 << 20;

/// Something that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    SequentialWrite,
    SequentialRead,
    RandomWrite,
    RandomRead,
    Upload,
    Download,
    Output,
}

/// Where guests find the server on the host's loopback.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileServer(SocketAddr);

impl FileServer {
    /// Asks a guest for the address by which it knows the host.
    pub(super) async fn find(sandbox: &Sandbox, servers: Servers) -> Result<Self, Box<dyn Error>> {
        let words = ["getent", "ahostsv4", "host.smolvm.internal"];
        let output = subject::output(sandbox, &words).await?;
        let output = String::from_utf8(output)?;
        let address = output.split_whitespace().next().ok_or("no address")?;
        Ok(Self((address.parse::<IpAddr>()?, servers.http).into()))
    }
}

/// Brings the program into a sandbox.
pub(super) async fn prepare(sandbox: &Sandbox, program: &Path) -> Result<(), Box<dyn Error>> {
    sandbox.copy_in(program, Path::new(PROGRAM)).await?;
    Ok(())
}

impl Figure {
    /// All of them; the file is written first.
    pub(super) const ALL: [Self; 7] = [
        Self::SequentialWrite,
        Self::SequentialRead,
        Self::RandomWrite,
        Self::RandomRead,
        Self::Upload,
        Self::Download,
        Self::Output,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SequentialWrite => "disk, writes of 128 KiB in a row",
            Self::SequentialRead => "disk, reads of 128 KiB in a row",
            Self::RandomWrite => "disk, writes of 4 KiB anywhere",
            Self::RandomRead => "disk, reads of 4 KiB anywhere",
            Self::Upload => "network, guest -> host",
            Self::Download => "network, host -> guest",
            Self::Output => "agent's port, output of a command",
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::RandomWrite | Self::RandomRead => "/s",
            _ => "MiB/s",
        }
    }

    /// Whether our own monitor has to be at least as fast. What comes in from the network is bounded by
    /// the gateway, which both have.
    pub(super) const fn is_promised(self) -> bool {
        !matches!(self, Self::Download)
    }

    /// Returns how many of its unit one measurement has.
    fn count(self) -> u32 {
        let count = match self {
            Self::SequentialWrite | Self::SequentialRead => FILE_BYTES / MIB,
            Self::RandomWrite | Self::RandomRead => RANDOM_BYTES / 4096,
            Self::Upload | Self::Download | Self::Output => STREAM_BYTES / MIB,
        };
        u32::try_from(count).expect("a few")
    }

    /// Returns how long one of its unit takes.
    pub(super) async fn measure(
        self,
        sandbox: &Sandbox,
        server: FileServer,
    ) -> Result<Duration, Box<dyn Error>> {
        let elapsed = match self.workload(server.0) {
            Some(workload) => in_guest(sandbox, &workload).await?,
            None => of_output(sandbox).await?,
        };
        Ok(elapsed / self.count())
    }

    fn workload(self, server: SocketAddr) -> Option<Workload> {
        let path = FILE.into();
        let (pattern, bytes) = match self {
            Self::SequentialWrite | Self::SequentialRead => (Pattern::Sequential, FILE_BYTES),
            _ => (Pattern::Random, RANDOM_BYTES),
        };
        Some(match self {
            Self::SequentialWrite | Self::RandomWrite => Workload::WriteFile {
                path,
                pattern,
                bytes,
            },
            Self::SequentialRead | Self::RandomRead => Workload::ReadFile {
                path,
                pattern,
                bytes,
            },
            Self::Upload => Workload::Upload {
                to: server,
                bytes: STREAM_BYTES,
            },
            Self::Download => Workload::Download {
                from: server,
                bytes: STREAM_BYTES,
            },
            Self::Output => return None,
        })
    }
}

/// Has the guest do something, and returns how long it took by the guest's clock, which KVM keeps.
async fn in_guest(sandbox: &Sandbox, workload: &Workload) -> Result<Duration, Box<dyn Error>> {
    let workload = serde_json::to_string(workload)?;
    let output = subject::output(sandbox, &[PROGRAM, &workload]).await?;
    let seconds: f64 = String::from_utf8(output)?.trim().parse()?;
    Ok(Duration::try_from_secs_f64(seconds)?)
}

async fn of_output(sandbox: &Sandbox) -> Result<Duration, Box<dyn Error>> {
    let bytes = STREAM_BYTES.to_string();
    let begun = Instant::now();
    let output = subject::output(sandbox, &["head", "-c", &bytes, "/dev/zero"]).await?;
    let elapsed = begun.elapsed();
    if u64::try_from(output.len())? == STREAM_BYTES {
        Ok(elapsed)
    } else {
        Err("the output has another length".into())
    }
}
