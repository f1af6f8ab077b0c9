//! Checks of what runs guests: the processor, KVM, QEMU, and what confines them.

use smolvm_sandbox::FileRestriction;
use smolvm_sandbox::accelerator::{self, AcceleratorChoice, AcceleratorError};
use smolvm_sandbox::engine::Accelerator;
use smolvm_sandbox::engine::qemu::{self, MIN_VERSION};
use smolvm_sandbox::probe::KvmVerdict;
use smolvm_sandbox::{EngineChoice, Installation};

use super::Check;
use crate::hints::INSTALL_QEMU;
use crate::text;

/// Number of the group `root` (group(5)).
const ROOT_GROUP: u32 = 0;

/// What choosing an accelerator came to.
pub(super) type Choice = Result<AcceleratorChoice, AcceleratorError>;

/// Probes the host, whatever was known of it.
pub(super) async fn accelerator(installation: &Installation) -> Choice {
    accelerator::choose_afresh(installation).await
}

pub(super) fn architecture() -> Check {
    let architecture = std::env::consts::ARCH;
    if architecture == "x86_64" {
        Check::pass("processor", architecture)
    } else {
        Check::fail(
            "processor",
            format!("{architecture}; guests of this version are x86_64"),
            "use an x86_64 host",
        )
    }
}

/// Checks KVM, without which sandboxes work, but slower.
pub(super) fn kvm(choice: &Choice) -> Check {
    let choice = match choice {
        Ok(choice) => choice,
        Err(error) => {
            return Check::fail(
                "kvm",
                text::chain(error),
                "smolvm-vmm belongs beside smolvm; SMOLVM_VMM names it elsewhere",
            );
        }
    };
    let slower = format!(
        "{}; guests run in software emulation, slower",
        choice.reason
    );
    match &choice.report.kvm {
        KvmVerdict::Usable { .. } => Check::pass("kvm", choice.reason.clone()),
        KvmVerdict::Absent if choice.report.cpu.has_vmx || choice.report.cpu.has_svm => {
            Check::warn(
                "kvm",
                slower,
                "load its module: sudo modprobe kvm_intel, or kvm_amd",
            )
        }
        KvmVerdict::Absent => Check::warn(
            "kvm",
            slower,
            "switch virtualization on in the firmware, or nested virtualization in the hypervisor \
             this host is a guest of",
        ),
        KvmVerdict::NoPermission {
            group_id,
            group_name,
        } => {
            // Nobody should join root's group for this: the device is given to a group of its own.
            let fix = match group_name.as_deref() {
                Some(group) if *group_id != ROOT_GROUP => {
                    format!("sudo usermod -aG {group} \"$USER\", then log in again")
                }
                _ => "sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm && sudo usermod -aG kvm \
                      \"$USER\", then log in again"
                    .to_owned(),
            };
            Check::warn("kvm", slower, fix)
        }
        KvmVerdict::Busy { .. } => Check::warn(
            "kvm",
            slower,
            "end the other hypervisor on this host, such as VirtualBox",
        ),
        KvmVerdict::Emulated { .. } | KvmVerdict::Failing { .. } => Check::warn(
            "kvm",
            slower,
            "nothing on this host; a host with hardware virtualization has a KVM that is usable",
        ),
    }
}

/// Checks QEMU and its own confinement; the engine `kvm` does without.
pub(super) async fn qemu(installation: &Installation, engine: EngineChoice) -> Vec<Check> {
    let Some(program) = &installation.qemu else {
        let detail = "qemu-system-x86_64 is not installed";
        return vec![match engine {
            EngineChoice::Kvm => Check::pass("qemu", format!("{detail}, and not needed")),
            _ => Check::fail("qemu", detail, INSTALL_QEMU),
        }];
    };
    let facts = match qemu::inspect(program).await {
        Ok(facts) => facts,
        Err(error) => {
            let detail = format!("{} cannot be used: {error}", program.display());
            return vec![Check::fail("qemu", detail, INSTALL_QEMU)];
        }
    };
    let detail = format!("{}, {}", program.display(), facts.version_text);
    let version = if facts.version >= MIN_VERSION {
        Check::pass("qemu", detail)
    } else {
        let (major, minor) = MIN_VERSION;
        let fix = format!("install version {major}.{minor} or newer");
        Check::fail("qemu", detail, fix)
    };
    let seccomp = if facts.has_seccomp {
        Check::pass("qemu-seccomp", "QEMU can restrict its own system calls")
    } else {
        Check::fail(
            "qemu-seccomp",
            "this QEMU is built without -sandbox, which machines are started with",
            INSTALL_QEMU,
        )
    };
    vec![version, seccomp]
}

/// Returns the engine that a request means. On a host that cannot be probed that is QEMU.
pub(super) fn resolved(requested: EngineChoice, choice: &Choice) -> EngineChoice {
    let accelerator = choice.as_ref().map(|choice| choice.accelerator);
    requested.resolved(accelerator.unwrap_or(Accelerator::SoftwareEmulation))
}

/// Says which engine is used, and why.
pub(super) fn engine(
    choice: &Choice,
    requested: EngineChoice,
    installation: &Installation,
) -> Check {
    let fail = || Check::fail("engine", "none can run yet", "see the checks above");
    let Ok(found) = choice else {
        return fail();
    };
    match (requested.resolved(found.accelerator), found.accelerator) {
        (EngineChoice::Kvm, Accelerator::Kvm) => Check::pass("engine", "kvm"),
        (EngineChoice::Kvm, Accelerator::SoftwareEmulation) => Check::fail(
            "engine",
            format!("kvm is asked for, and cannot be: {}", found.reason),
            "leave the choice to SmolVM, or use QEMU: --engine qemu",
        ),
        _ if installation.qemu.is_none() => fail(),
        (_, Accelerator::Kvm) => Check::pass("engine", "qemu with KVM"),
        (_, Accelerator::SoftwareEmulation) => Check::pass(
            "engine",
            "qemu with software emulation, since KVM is not usable",
        ),
    }
}

/// Checks whether the host's kernel can confine the VMM to its files.
pub(super) fn file_restriction() -> Check {
    match smolvm_sandbox::file_restriction() {
        FileRestriction::Full => Check::pass("landlock", "the kernel confines VMMs to their files"),
        FileRestriction::Partial => Check::pass(
            "landlock",
            "the kernel confines VMMs to their files; a newer one could confine more",
        ),
        FileRestriction::None => Check::warn(
            "landlock",
            "the kernel cannot confine VMMs to their files",
            "boot a kernel of 5.13 or newer with Landlock in its list of security modules (lsm=)",
        ),
    }
}

/// Checks which namespaces of their own VMMs get; they are confined without as well.
pub(super) async fn namespaces(installation: &Installation) -> Check {
    let fix = "allow user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone, \
               kernel.apparmor_restrict_unprivileged_userns), or take it as it is: VMMs are \
               confined by the other layers";
    let found = match smolvm_sandbox::try_namespaces(&installation.vmm).await {
        Ok(found) => found,
        Err(error) => {
            let detail = format!("cannot be tried: {error}");
            return Check::warn("namespaces", detail, "install smolvm anew");
        }
    };
    let user = if found.has_user { "user, " } else { "" };
    let own = format!("VMMs have {user}network, mount, ipc and uts namespaces of their own");
    match (found.has_network, found.has_root) {
        (true, true) => Check::pass("namespaces", format!("{own}, and see their files only")),
        (true, false) => Check::pass("namespaces", own),
        (false, _) => Check::warn("namespaces", "this host allows VMMs none of their own", fix),
    }
}
