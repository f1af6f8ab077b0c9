//! The choice between KVM and software emulation: by running a probe, never by flags.
//!
//! The probe is a process of its own (`smolvm-vmm probe`). Its report holds until the host is
//! booted again or the probe changes, and is kept in the cache for that long.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smolvm_protocol::probe::{KvmVerdict, PROBE_VERSION, ProbeReport};

use crate::engine::Accelerator;
use crate::process;
use crate::record::{read_json, write_json};
use crate::{ErrorKind, Installation};

/// Changes with every boot of the host (proc(5), `/proc/sys/kernel/random/boot_id`).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why the host could not be probed.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// The probe could not be run to its end.
    #[error("run the host probe {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The probe's report is not one.
    #[error("read the host probe's report")]
    Report(#[source] serde_json::Error),
    /// The probe is of another build.
    #[error("read the host probe's report: it has version {found}, expected {PROBE_VERSION}")]
    Version {
        /// The report's version.
        found: u32,
    },
    /// The time stamp counter could not be measured, and an emulated guest needs it.
    #[error("measure the host's time stamp counter")]
    NoClock,
}

impl AcceleratorError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Run { .. } | Self::Report(_) | Self::Version { .. } => ErrorKind::Host,
            Self::NoClock => ErrorKind::Unsupported,
        }
    }
}

/// How to run machines on this host, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceleratorChoice {
    /// What executes the instructions.
    pub accelerator: Accelerator,
    /// Why, in words for people.
    pub reason: String,
    /// What the probe found.
    pub report: ProbeReport,
}

impl AcceleratorChoice {
    /// Returns the frequency of the host's time stamp counter, in kHz.
    ///
    /// # Errors
    ///
    /// [`AcceleratorError::NoClock`] when the probe could not measure it.
    pub fn tsc_khz(&self) -> Result<u64, AcceleratorError> {
        self.report
            .tsc
            .as_ref()
            .map(|tsc| tsc.khz)
            .ok_or(AcceleratorError::NoClock)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptReport {
    boot_id: String,
    probe: String,
    report: ProbeReport,
}

/// Returns how to run machines on this host, probing it when it was not probed since its boot.
///
/// # Errors
///
/// When the probe is missing or broken.
pub async fn choose(installation: &Installation) -> Result<AcceleratorChoice, AcceleratorError> {
    let report = match kept_report(installation) {
        Some(report) => report,
        None => probe_afresh(installation).await?,
    };
    Ok(decide(report))
}

/// Probes the host whatever is known of it, and keeps the report.
///
/// # Errors
///
/// When the probe is missing or broken.
pub async fn choose_afresh(
    installation: &Installation,
) -> Result<AcceleratorChoice, AcceleratorError> {
    probe_afresh(installation).await.map(decide)
}

async fn probe_afresh(installation: &Installation) -> Result<ProbeReport, AcceleratorError> {
    let line = process::run_probe(&installation.vmm)
        .await
        .map_err(|source| AcceleratorError::Run {
            program: installation.vmm.clone(),
            source,
        })?;
    let report: ProbeReport = serde_json::from_str(&line).map_err(AcceleratorError::Report)?;
    if report.version != PROBE_VERSION {
        return Err(AcceleratorError::Version {
            found: report.version,
        });
    }
    keep_report(installation, &report);
    Ok(report)
}

fn decide(report: ProbeReport) -> AcceleratorChoice {
    let (accelerator, reason) = match &report.kvm {
        KvmVerdict::Usable { speed } => (
            Accelerator::Kvm,
            format!(
                "KVM ran the probe at {} % of native time",
                speed.ratio_percent
            ),
        ),
        verdict => (Accelerator::SoftwareEmulation, why_not_kvm(verdict)),
    };
    AcceleratorChoice {
        accelerator,
        reason,
        report,
    }
}

/// Says in one sentence why KVM is not used.
fn why_not_kvm(verdict: &KvmVerdict) -> String {
    match verdict {
        KvmVerdict::Usable { .. } => "KVM is usable".to_owned(),
        KvmVerdict::Absent => "this host has no /dev/kvm".to_owned(),
        KvmVerdict::NoPermission { group_id: 0, .. } => {
            "/dev/kvm is there, but only root may open it".to_owned()
        }
        KvmVerdict::NoPermission {
            group_id,
            group_name,
        } => {
            let group = group_name.clone().unwrap_or_else(|| group_id.to_string());
            format!("/dev/kvm is there, but only root and the group '{group}' may open it")
        }
        KvmVerdict::Busy { .. } => {
            "/dev/kvm is there, but another hypervisor holds the processor".to_owned()
        }
        KvmVerdict::Emulated { speed, .. } => format!(
            "/dev/kvm is there but not usable: it interprets guest kernels instead of running \
             them ({} times slower than native in the probe)",
            (speed.ratio_percent / 100).max(1),
        ),
        KvmVerdict::Failing { step, .. } => {
            format!("/dev/kvm is there but not usable: the probe failed at {step:?}")
        }
    }
}

fn kept_path(installation: &Installation) -> PathBuf {
    installation.cache_dir.join("host-probe.json")
}

fn kept_report(installation: &Installation) -> Option<ProbeReport> {
    let kept: KeptReport = read_json(&kept_path(installation)).ok()?;
    let is_current = kept.report.version == PROBE_VERSION
        && kept.boot_id == boot_id()?
        && kept.probe == identity(&installation.vmm)?;
    is_current.then_some(kept.report)
}

fn keep_report(installation: &Installation, report: &ProbeReport) {
    let (Some(boot_id), Some(probe)) = (boot_id(), identity(&installation.vmm)) else {
        return;
    };
    let kept = KeptReport {
        boot_id,
        probe,
        report: report.clone(),
    };
    // Without the kept report the next command probes again, which is slower but not wrong.
    if let Err(error) = write_json(&kept_path(installation), &kept) {
        tracing::debug!(%error, "host probe's report not kept");
    }
}

fn boot_id() -> Option<String> {
    fs::read_to_string(BOOT_ID)
        .ok()
        .map(|id| id.trim().to_owned())
}

/// Returns what changes when a program, or the right to open /dev/kvm, changes.
fn identity(program: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;

    let program = fs::metadata(program).ok()?;
    let program = format!(
        "{}-{}-{}-{:o}",
        program.ino(),
        program.size(),
        program.mtime_nsec(),
        program.mode()
    );
    let kvm = fs::metadata("/dev/kvm").map(|device| device_identity(&device));
    let kvm = kvm.unwrap_or_default();
    let user = rustix::process::geteuid().as_raw();
    let groups = rustix::process::getgroups()
        .map(|groups| groups.len())
        .unwrap_or_default();
    Some(format!("{program} kvm:{kvm} user:{user} groups:{groups}"))
}

/// Returns what decides who may open a device. Its times say nothing: udev handles the device anew
/// each time that a virtual machine comes or goes.
fn device_identity(device: &fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;

    let (uid, gid) = (device.uid(), device.gid());
    format!("{:x}-{uid}-{gid}-{:o}", device.rdev(), device.mode())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use smolvm_protocol::probe::{LoopSpeed, ProbeFailure, ProbeStep};

    use super::*;

    #[test]
    fn device_that_was_only_used_is_the_same_and_one_with_other_rights_is_not() {
        let device = tempfile::NamedTempFile::new().expect("a file");
        let identity = || device_identity(&device.as_file().metadata().expect("it is open"));
        let before = identity();
        let file = device.as_file();
        file.set_modified(SystemTime::UNIX_EPOCH)
            .expect("it is ours");
        assert_eq!(identity(), before);
        let rights = fs::Permissions::from_mode(0o640);
        file.set_permissions(rights).expect("it is ours");
        assert_ne!(identity(), before);
    }

    #[test]
    fn reason_says_what_is_in_the_way() {
        let denied = |group_id: u32, group_name: Option<&str>| KvmVerdict::NoPermission {
            group_id,
            group_name: group_name.map(str::to_owned),
        };
        let speed = LoopSpeed {
            instructions: 60_000,
            guest_ns: 4_000_000,
            native_ns: 100_000,
            ratio_percent: 4_000,
        };
        let emulated = KvmVerdict::Emulated {
            speed,
            instruction_failure: None,
        };
        let failing = KvmVerdict::Failing {
            step: ProbeStep::CreateVm,
            failure: ProbeFailure::ProbeCrashed,
        };
        let busy = KvmVerdict::Busy {
            step: ProbeStep::CreateVm,
        };
        for (verdict, words) in [
            (KvmVerdict::Absent, "has no /dev/kvm"),
            (denied(104, Some("kvm")), "only root and the group 'kvm'"),
            (denied(104, None), "only root and the group '104'"),
            (denied(0, Some("root")), "only root may open it"),
            (busy, "another hypervisor"),
            (emulated, "40 times slower"),
            (failing, "the probe failed at CreateVm"),
        ] {
            let reason = why_not_kvm(&verdict);
            assert!(reason.contains(words), "{reason}");
        }
    }
}
