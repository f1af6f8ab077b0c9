//! QEMU's command line for a [`BootPlan`].

use std::ffi::OsString;
use std::path::Path;

use smolvm_protocol::vmm::{AGENT_FD, CONSOLE_FD, CONTROL_FD, NETWORK_FD};
use smolvm_protocol::{
    AGENT_PORT, HOSTNAME_PARAMETER, OVERLAY_DISK_SERIAL, ROOT_DISK_SERIAL, ROOT_PARAMETER,
    ROOT_SHARED,
};

use super::qmp::AGENT_DEVICE;
use crate::engine::{Accelerator, BootPlan, NetworkDevice, Origin};

/// Returns the arguments after the program's name.
pub(super) fn of(plan: &BootPlan, accelerator: Accelerator, tsc_khz: u64) -> Vec<OsString> {
    let mut line = CommandLine::default();
    machine(&mut line, plan, accelerator);
    kernel(&mut line, plan, accelerator, tsc_khz);
    connections(&mut line);
    network(&mut line, plan.network);
    let has_overlay = plan.overlay.is_some();
    line.disk("root", &plan.root_image, ROOT_DISK_SERIAL, has_overlay);
    if let Some(overlay) = &plan.overlay {
        line.disk("overlay", overlay, OVERLAY_DISK_SERIAL, false);
    }
    for (index, drive) in plan.extra_drives.iter().enumerate() {
        let id = format!("extra{index}");
        line.disk(&id, drive, &format!("smolvm-{id}"), false);
    }
    line.0
}

fn machine(line: &mut CommandLine, plan: &BootPlan, accelerator: Accelerator) {
    // ACPI names the virtio-mmio devices: the stock kernel's driver takes none on its command
    // line. The timer (PIT) stays where there is no KVM clock: the guest measures its local APIC
    // timer against it. The real-time clock stays everywhere: the kernel waits seconds for the
    // answer of one that is missing.
    let (machine, accel, cpu) = match accelerator {
        Accelerator::Kvm => ("microvm,acpi=on,pit=off,pic=off,rtc=on", "kvm", "host"),
        // `max` has what programs of today expect of a processor, such as SSE4 and AVX2.
        Accelerator::SoftwareEmulation => ("microvm,acpi=on,rtc=on", "tcg", "max"),
    };
    match memory_file(plan) {
        None => line.option("-machine", machine),
        Some((file, is_shared)) => {
            line.option("-machine", &format!("{machine},memory-backend=memory"));
            let mut backend = OsString::from(format!(
                "memory-backend-file,id=memory,size={}M,share={},mem-path=",
                plan.memory.get(),
                if is_shared { "on" } else { "off" },
            ));
            backend.push(doubled_commas(file));
            line.0.extend(["-object".into(), backend]);
        }
    }
    if matches!(plan.origin, Origin::Recording(_)) {
        // What it goes on from, QMP says.
        line.option("-incoming", "defer");
    }
    line.option("-accel", accel);
    line.option("-cpu", cpu);
    line.option("-smp", &plan.vcpus.get().to_string());
    line.option("-m", &format!("{}M", plan.memory.get()));
    line.flag("-no-user-config");
    line.flag("-nodefaults");
    line.flag("-no-reboot");
    line.option("-display", "none");
    // QEMU's own filter (qemu(1), `-sandbox`): no obsolete system calls, no new programs, no
    // raised privileges, no changed priorities.
    line.option(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
}

/// Returns the file with the guest's memory, if it is in one, and whether what the guest writes goes
/// there.
fn memory_file(plan: &BootPlan) -> Option<(&Path, bool)> {
    match &plan.origin {
        Origin::Kernel => None,
        Origin::ToBeRecorded(recording) => Some((&recording.memory, true)),
        Origin::Recording(recording) => Some((&recording.memory, false)),
    }
}

fn kernel(line: &mut CommandLine, plan: &BootPlan, accelerator: Accelerator, tsc_khz: u64) {
    line.path("-kernel", &plan.kernel);
    line.path("-initrd", &plan.initramfs);
    line.option("-append", &kernel_command_line(plan, accelerator, tsc_khz));
}

/// Returns the kernel's command line (kernel, Documentation/admin-guide/kernel-parameters.txt).
fn kernel_command_line(plan: &BootPlan, accelerator: Accelerator, tsc_khz: u64) -> String {
    let mut parameters = vec![
        "console=ttyS0".to_owned(),
        "quiet".to_owned(),
        // A guest that panics ends at once (negative: no delay) and the machine with it.
        "panic=-1".to_owned(),
        "reboot=t".to_owned(),
        // There is no PCI bus; looking for one takes a tenth of the boot.
        "pci=off".to_owned(),
        "cryptomgr.notests".to_owned(),
        // The processor's random numbers seed the guest's: it must not wait for entropy.
        "random.trust_cpu=on".to_owned(),
        // Making and removing the control group of each command waits for RCU; a guest is small
        // enough that hurrying it costs nothing.
        "rcupdate.rcu_expedited=1".to_owned(),
        format!("{HOSTNAME_PARAMETER}={}", plan.hostname),
    ];
    if accelerator == Accelerator::SoftwareEmulation {
        // Without a KVM clock the kernel measures the counter against the PIT, which fails now
        // and then when the host is busy, and then it waits forever for a timer it never set up.
        parameters.push(format!("tsc_early_khz={tsc_khz}"));
        // The kernel would watch the counter with timer interrupts, which the guest misses
        // whenever the host is busy, and then go by those interrupts: minutes an hour slow.
        parameters.push("tsc=reliable".to_owned());
    }
    if plan.overlay.is_none() {
        parameters.push(format!("{ROOT_PARAMETER}={ROOT_SHARED}"));
    }
    if !plan.boot_args.is_empty() {
        parameters.push(plan.boot_args.clone());
    }
    parameters.join(" ")
}

fn connections(line: &mut CommandLine) {
    line.option("-chardev", &format!("socket,id=console,fd={CONSOLE_FD}"));
    line.option("-serial", "chardev:console");
    line.option("-chardev", &format!("socket,id=qmp,fd={CONTROL_FD}"));
    line.option("-mon", "chardev=qmp,mode=control");
    line.option("-device", "virtio-serial-device");
    line.option("-chardev", &format!("socket,id=agent,fd={AGENT_FD}"));
    line.option(
        "-device",
        &format!("virtserialport,id={AGENT_DEVICE},chardev=agent,name={AGENT_PORT}"),
    );
}

/// The network device, or none: without a word of it QEMU makes one of its own.
///
/// Only QEMU's `stream` back end takes a connected socket of ours (QEMU 7.2, qapi/net.json,
/// `NetdevStreamOptions`). It has no header for checksums and segmentation (net/stream.c), so
/// every frame is complete in both directions, and only a large MTU makes few of many.
fn network(line: &mut CommandLine, device: Option<NetworkDevice>) {
    let Some(NetworkDevice { mac, mtu }) = device else {
        line.option("-nic", "none");
        return;
    };
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    line.option(
        "-netdev",
        &format!("stream,id=net,server=off,addr.type=fd,addr.str={NETWORK_FD}"),
    );
    // The link is always up, and the guest has nothing to say to the device: without a state of
    // the link and without a queue for commands, the interface is ready as soon as it is on.
    let features = "status=off,guest_announce=off,ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,\
                    ctrl_vlan=off,ctrl_mac_addr=off";
    line.option(
        "-device",
        &format!("virtio-net-device,netdev=net,mac={mac},host_mtu={mtu},{features}"),
    );
}

/// QEMU's arguments while they are put together.
#[derive(Default)]
struct CommandLine(Vec<OsString>);

impl CommandLine {
    fn flag(&mut self, name: &str) {
        self.0.push(name.into());
    }

    fn option(&mut self, name: &str, value: &str) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn path(&mut self, name: &str, value: &Path) {
        self.0.push(name.into());
        self.0.push(value.into());
    }

    fn disk(&mut self, id: &str, file: &Path, serial: &str, is_read_only: bool) {
        // A guest that fills the host's disk, or meets a bad sector, sees an I/O error; by
        // default QEMU would stop the machine and wait for somebody.
        let mut drive = OsString::from(format!(
            "if=none,id={id},format=raw,cache=writeback,discard=unmap,werror=report,\
             rerror=report,readonly={},file=",
            if is_read_only { "on" } else { "off" },
        ));
        drive.push(doubled_commas(file));
        self.0.push("-drive".into());
        self.0.push(drive);
        self.option(
            "-device",
            &format!("virtio-blk-device,drive={id},serial={serial}"),
        );
    }
}

/// Returns `path` as the value of a QEMU option, in which a comma is written twice (qemu(1)).
fn doubled_commas(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

    let bytes = path.as_os_str().as_bytes().iter();
    let doubled = bytes.flat_map(|&byte| std::iter::repeat_n(byte, 1 + usize::from(byte == b',')));
    OsString::from_vec(doubled.collect())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn comma_in_a_path_does_not_become_an_option() {
        assert_eq!(
            doubled_commas(Path::new("/a,readonly=off")),
            "/a,,readonly=off"
        );
    }

    fn plan() -> BootPlan {
        BootPlan {
            engine: crate::engine::EnginePlan::Fake(crate::engine::fake::Script::default()),
            kernel: "/vmlinux".into(),
            initramfs: "/initramfs".into(),
            root_image: "/root-image".into(),
            overlay: Some("/overlay".into()),
            extra_drives: Vec::new(),
            boot_args: String::new(),
            hostname: "box".to_owned(),
            vcpus: crate::DEFAULT_VCPUS,
            memory: crate::DEFAULT_MEMORY,
            network: None,
            origin: Origin::Kernel,
        }
    }

    fn disks(plan: &BootPlan) -> Vec<String> {
        let arguments = of(plan, Accelerator::Kvm, 0);
        let texts = arguments.iter().map(|text| text.to_string_lossy());
        texts
            .filter(|text| text.contains("file=") || text.contains("serial="))
            .map(|text| text.into_owned())
            .collect()
    }

    #[test]
    fn machine_has_the_network_device_of_its_plan_and_no_other() {
        let texts = |plan: &BootPlan| -> String {
            let arguments = of(plan, Accelerator::Kvm, 0);
            arguments.join(OsStr::new(" ")).to_string_lossy().into()
        };
        let without = texts(&plan());
        assert!(without.contains("-nic none"), "{without}");
        assert!(!without.contains("virtio-net"), "{without}");
        let with = texts(&BootPlan {
            network: Some(NetworkDevice {
                mac: [2, 0, 0, 0, 0xab, 1],
                mtu: 9000,
            }),
            ..plan()
        });
        assert!(!with.contains("-nic"), "{with}");
        assert!(with.contains("addr.type=fd,addr.str=6 "), "{with}");
        assert!(
            with.contains("netdev=net,mac=02:00:00:00:ab:01,host_mtu=9000"),
            "{with}"
        );
    }

    #[test]
    fn emulated_guest_is_told_its_clock() {
        let line = kernel_command_line(&plan(), Accelerator::SoftwareEmulation, 2_596_100);
        assert!(
            line.contains(" tsc_early_khz=2596100 tsc=reliable"),
            "{line}"
        );
        assert!(line.contains(" smolvm.hostname=box"), "{line}");
    }

    #[test]
    fn guest_on_kvm_measures_its_own_clock() {
        let line = kernel_command_line(&plan(), Accelerator::Kvm, 2_596_100);
        assert!(!line.contains("tsc"), "{line}");
        assert!(!line.contains("smolvm.root"), "{line}");
    }

    #[test]
    fn only_the_root_below_an_overlay_is_read_only() {
        let below = disks(&plan());
        assert!(
            below[0].contains("readonly=on,file=/root-image"),
            "{below:?}"
        );
        let shared = BootPlan {
            overlay: None,
            extra_drives: vec!["/data".into()],
            boot_args: "mitigations=off".to_owned(),
            ..plan()
        };
        let line = kernel_command_line(&shared, Accelerator::Kvm, 0);
        assert!(
            line.ends_with(" smolvm.root=shared mitigations=off"),
            "{line}"
        );
        let disks = disks(&shared);
        assert!(
            disks[0].contains("readonly=off,file=/root-image"),
            "{disks:?}"
        );
        assert!(disks[2].contains("readonly=off,file=/data"), "{disks:?}");
        assert!(disks[3].ends_with("serial=smolvm-extra0"), "{disks:?}");
        assert_eq!(disks.len(), 4, "{disks:?}");
    }
}
