//! The guest: SmolVM's kernel on SmolVM's machine, with a network device for each way out, and
//! with nothing in it but busybox and the program that does what it is told.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path as FilePath, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use smolvm_bench::workload::{Reply, Workload};

use super::gateway;
use super::path::{PREFIX_LENGTH, Path};
use super::process::Process;
use super::server::Servers;
use crate::baseline::Baseline;
use crate::initramfs::{Tree, unpack_package};
use crate::subject::Subject;

/// How long the guest may take for anything it is told, and to boot.
const PATIENCE: Duration = Duration::from_secs(120);

/// The first descriptor that QEMU and passt find a link at.
const FIRST_FD: i32 = 3;

/// The machine, and who is at the other end of its links.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Process,
    input: ChildStdin,
    lines: Receiver<String>,
    /// At the place of its path; QEMU is its own.
    back_ends: [Option<Process>; Path::ALL.len()],
    _directory: tempfile::TempDir,
}

impl Machine {
    /// Boots the guest and waits until it listens.
    pub(crate) fn boot(
        subject: &Subject,
        baseline: &Baseline,
        servers: Servers,
    ) -> Result<Self, Box<dyn Error>> {
        let directory = tempfile::tempdir()?;
        let initramfs = make_initramfs(subject, baseline, directory.path())?;
        let mut links = Vec::new();
        let mut back_ends = [const { None }; Path::ALL.len()];
        for path in Path::ALL {
            let (ours, theirs) = UnixStream::pair()?;
            back_ends[path.index()] = match path {
                Path::Gateway | Path::Restricted => {
                    let log = File::create(directory.path().join(path.index().to_string()))?;
                    Some(gateway::spawn(path, servers, theirs, log)?)
                }
                Path::Slirp => None,
                Path::Passt => Some(spawn_passt(theirs, directory.path())?),
            };
            links.push(ours);
        }
        let mut qemu = qemu(subject, &initramfs)
            .fd_mappings(mappings(links))?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = qemu.stdin.take().ok_or("no input")?;
        let lines = lines_of(qemu.stdout.take().ok_or("no output")?);
        let machine = Self {
            qemu: Process::new(qemu),
            input,
            lines,
            back_ends,
            _directory: directory,
        };
        machine.reply()?;
        Ok(machine)
    }

    /// Has the guest do something. Returns how long it took, by the host's clock: under software
    /// emulation the guest's has ticks of 4 ms.
    pub(crate) fn run(&mut self, workload: &Workload) -> Result<Duration, Box<dyn Error>> {
        let mut line = serde_json::to_vec(workload)?;
        line.push(b'\n');
        let begun = Instant::now();
        self.input.write_all(&line)?;
        self.reply()
            .map_err(|error| format!("{workload:?}: {error}"))?;
        Ok(begun.elapsed())
    }

    /// Returns QEMU's process.
    pub(crate) const fn qemu(&self) -> &Process {
        &self.qemu
    }

    /// Returns the process at the other end of a path's link, if it is one of its own.
    pub(crate) const fn back_end(&self, path: Path) -> Option<&Process> {
        self.back_ends[path.index()].as_ref()
    }

    fn reply(&self) -> Result<(), Box<dyn Error>> {
        loop {
            let line = self.lines.recv_timeout(PATIENCE)?;
            // The kernel says something now and then, too.
            match serde_json::from_str(&line) {
                Ok(Reply::Done) => return Ok(()),
                Ok(Reply::Failed { error }) => return Err(error.into()),
                Err(_) => {}
            }
        }
    }
}

/// Starts passt at the other end of `link`.
fn spawn_passt(link: UnixStream, directory: &FilePath) -> Result<Process, Box<dyn Error>> {
    unpack_package("passt", directory)?;
    let [guest, router] = [Path::Passt.guest(), Path::Passt.router()].map(|ip| ip.to_string());
    let child = Command::new(directory.join("usr/bin/passt"))
        .args(["--foreground", "--quiet", "--ipv4-only"])
        .args(["--fd", &FIRST_FD.to_string()])
        .args(["--address", &guest, "--netmask", &PREFIX_LENGTH.to_string()])
        .args(["--gateway", &router])
        .fd_mappings(mappings(vec![link]))?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Process::new(child))
}

fn mappings(links: Vec<UnixStream>) -> Vec<FdMapping> {
    let numbers = FIRST_FD..;
    links
        .into_iter()
        .zip(numbers)
        .map(|(link, child_fd)| FdMapping {
            parent_fd: OwnedFd::from(link),
            child_fd,
        })
        .collect()
}

fn qemu(subject: &Subject, initramfs: &FilePath) -> Command {
    // As crates/sandbox has them, engine/qemu/arguments.rs.
    let [machine, accelerator, cpu] = if subject.is_kvm() {
        ["microvm,acpi=on,pit=off,pic=off,rtc=on", "kvm", "host"]
    } else {
        ["microvm,acpi=on,rtc=on", "tcg", "max"]
    };
    let mut qemu = Command::new(subject.qemu());
    qemu.args(["-machine", machine, "-accel", accelerator, "-cpu", cpu])
        .args(["-smp", "1", "-m", "512M", "-no-user-config", "-nodefaults"])
        .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(subject.kernel())
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 reboot=t pci=off cryptomgr.notests \
             random.trust_cpu=on tsc_early_khz={}",
            subject.tsc_khz()
        ));
    for path in Path::ALL {
        qemu.args([
            "-netdev",
            &back_end_option(path),
            "-device",
            &device_option(path),
        ]);
    }
    qemu
}

fn back_end_option(path: Path) -> String {
    let id = path.index();
    match path {
        Path::Gateway | Path::Restricted | Path::Passt => {
            let fd = FIRST_FD + i32::from(path as u8);
            format!("stream,id=net{id},server=off,addr.type=fd,addr.str={fd}")
        }
        Path::Slirp => {
            let (network, host) = (path.router(), path.host());
            format!("user,id=net{id},net={network}/{PREFIX_LENGTH},host={host},ipv6=off")
        }
    }
}

fn device_option(path: Path) -> String {
    let id = path.index();
    let mac = path.mac().map(|byte| format!("{byte:02x}")).join(":");
    // As crates/sandbox has it, engine/qemu/arguments.rs.
    format!(
        "virtio-net-device,netdev=net{id},mac={mac},host_mtu={},status=off,guest_announce=off,\
         ctrl_vq=off,ctrl_rx=off,ctrl_rx_extra=off,ctrl_vlan=off,ctrl_mac_addr=off",
        path.mtu()
    )
}

/// Returns the lines that the guest prints, which a thread reads as they come.
fn lines_of(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = sync_channel(1);
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    lines
}

fn make_initramfs(
    subject: &Subject,
    baseline: &Baseline,
    directory: &FilePath,
) -> Result<PathBuf, Box<dyn Error>> {
    let initramfs = directory.join("initramfs");
    let mut tree = Tree::new(directory.join("tree"), baseline.busybox())?;
    for name in ["proc", "sys", "modules"] {
        tree.directory(name)?;
    }
    let mut script = String::from(
        "#!/bin/busybox sh\n\
         alias ip='/bin/busybox ip'\n\
         /bin/busybox mount -t proc proc /proc\n\
         /bin/busybox mount -t sysfs sysfs /sys\n\
         /bin/busybox mount -t devtmpfs devtmpfs /dev\n",
    );
    for module in subject.network_modules() {
        let name = module.file_name().ok_or("a module without a name")?;
        let name = format!("modules/{}", name.to_string_lossy());
        tree.copy(module, &name)?;
        script.push_str(&format!("/bin/busybox insmod /{name}\n"));
    }
    for path in Path::ALL {
        script.push_str(&set_up(path));
    }
    tree.copy(&subject.bench_guest(), "bin/guest")?;
    script.push_str(
        "/bin/busybox stty -F /dev/ttyS0 -echo\n\
         exec /bin/guest < /dev/ttyS0 > /dev/ttyS0 2> /dev/null\n",
    );
    tree.pack(&script, &initramfs)?;
    Ok(initramfs)
}

/// Returns the commands that set up a path's device, which only its hardware address tells.
fn set_up(path: Path) -> String {
    let mac = path.mac().map(|byte| format!("{byte:02x}")).join(":");
    let (guest, router, host, mtu) = (path.guest(), path.router(), path.host(), path.mtu());
    let mut commands = format!(
        "device=$(/bin/busybox grep -l {mac} /sys/class/net/*/address)\n\
         device=${{device%/address}}\n\
         device=${{device##*/}}\n\
         ip link set $device mtu {mtu} up\n\
         ip address add {guest}/{PREFIX_LENGTH} dev $device\n"
    );
    if host != router {
        commands.push_str(&format!("ip route add {host} via {router}\n"));
    }
    commands
}
