//! Runs `smolvm-vmm run` with kernels of a few instructions: guests that do what no kernel should.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use smolvm_protocol::vmm::{
    AGENT_FD, CONSOLE_FD, CONTROL_FD, MachineDescription, MachineEnd, MachineStats, Reply, Request,
};
use tempfile::TempDir;

/// How long a monitor may take for an answer, on an emulated host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Exits enough for what grows with them to be seen.
const MANY_EXITS: u64 = 20_000;

/// Memory that the monitor itself may have, in KiB.
const MONITOR_KIB: u64 = 16 * 1024;

/// Does nothing, for ever.
const SPIN: &[u8] = b"\xeb\xfe"; // jmp $

/// An exception without a table of handlers.
const TRIPLE_FAULT: &[u8] = b"\x0f\x0b"; // ud2

/// Writes 1 to the reset register, port 0x602.
const RESET: &[u8] = b"\x66\xba\x02\x06\xb0\x01\xee\xeb\xfe"; // mov dx; mov al; out; jmp $

/// Writes to the serial port, for ever.
const FLOOD: &[u8] = b"\x66\xba\xf8\x03\xb0x\xee\xeb\xfd"; // mov dx; mov al; out; jmp to out

/// Writes numbers of a linear congruential generator to all registers of all places for devices,
/// then powers off.
const GARBAGE: &[u8] = b"\
    \xbf\x00\x00\x00\xd0\
    \xb9\x00\x48\x00\x00\
    \x69\xc0\x0d\x66\x19\x00\
    \x05\x5f\xf3\x6e\x3c\
    \x89\x07\
    \x83\xc7\x04\
    \xe2\xee\
    \x66\xba\x00\x06\xb0\x34\xee\xeb\xfe";
// mov edi, 0xd0000000; mov ecx, 18 pages; imul eax; add eax; mov [edi], eax; add edi, 4; loop;
// mov dx, 0x600; mov al, 0x34; out; jmp $

/// Writes the first four bytes of the generation ID to the serial port whenever they change.
const GENERATION: &[u8] = b"\
    \xbe\x00\xf0\x0f\x00\
    \x31\xdb\
    \x8b\x06\x39\xd8\x74\xfa\
    \x89\xc3\
    \x66\xba\xf8\x03\
    \xb9\x04\x00\x00\x00\
    \xee\xc1\xe8\x08\xe2\xfa\
    \xeb\xe7";
// mov esi, 0xff000; xor ebx, ebx; again: mov eax, [esi]; cmp; je again; mov ebx, eax; mov dx;
// mov ecx, 4; next: out; shr eax, 8; loop next; jmp again

/// A monitor and the machine that it runs.
struct Machine {
    monitor: Child,
    control: BufReader<UnixStream>,
    console: UnixStream,
    _agent: UnixStream,
    _files: TempDir,
}

impl Machine {
    /// Boots a machine whose kernel is `code`, entered in 32-bit protected mode.
    fn boot(code: &[u8]) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let (kernel, initramfs) = (files.path().join("kernel"), files.path().join("initramfs"));
        std::fs::write(&kernel, elf(code)).expect("written");
        std::fs::write(&initramfs, [0; 16]).expect("written");
        let (control, their_control) = UnixStream::pair().expect("sockets");
        let (console, their_console) = UnixStream::pair().expect("sockets");
        let (agent, their_agent) = UnixStream::pair().expect("sockets");
        for ours in [&control, &console] {
            ours.set_read_timeout(Some(PATIENCE)).expect("set");
        }
        let mappings = [
            (their_agent, AGENT_FD),
            (their_control, CONTROL_FD),
            (their_console, CONSOLE_FD),
        ];
        let mappings = mappings.map(|(parent, child_fd)| FdMapping {
            parent_fd: OwnedFd::from(parent),
            child_fd,
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_smolvm-vmm"));
        command.arg("run").stdin(Stdio::null());
        command.fd_mappings(mappings.into()).expect("distinct");
        let mut machine = Self {
            monitor: command.spawn().expect("built"),
            control: BufReader::new(control),
            console,
            _agent: agent,
            _files: files,
        };
        // The monitor's ends are to be its own: it ends with ours.
        drop(command);
        let booted = machine.ask(&Request::Boot(MachineDescription {
            kernel,
            initramfs,
            command_line: String::new(),
            vcpus: 1,
            memory_mib: 16,
            disks: Vec::new(),
            network: None,
        }));
        assert_eq!(booted, Reply::Done);
        machine
    }

    fn ask(&mut self, request: &Request) -> Reply {
        let mut line = serde_json::to_vec(request).expect("JSON");
        line.push(b'\n');
        self.control.get_mut().write_all(&line).expect("sent");
        self.reply()
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.control.read_line(&mut line).expect("a reply in time");
        serde_json::from_str(&line).expect("a reply")
    }

    fn stats(&mut self) -> MachineStats {
        match self.ask(&Request::Stats) {
            Reply::Stats(stats) => stats,
            other => panic!("{other:?}"),
        }
    }

    /// Returns how the machine has ended, once it has.
    fn end(mut self) -> MachineEnd {
        let Reply::Ended(end) = self.reply() else {
            panic!("the machine has not ended");
        };
        assert!(self.monitor.wait().expect("waited for").success());
        end
    }

    /// Returns how much memory the monitor has beside its guest's, in KiB.
    fn own_kib(&self) -> u64 {
        let status = format!("/proc/{}/status", self.monitor.id());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB"));
        size.expect("a size").parse().expect("a number")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.monitor.kill();
        let _reaped = self.monitor.wait();
    }
}

/// Returns an ELF file with a PVH entry whose code is entered at 1 MiB.
fn elf(code: &[u8]) -> Vec<u8> {
    const START: u64 = 0x10_0000;
    let mut bytes = vec![0; 0x2000];
    let mut put = |offset: usize, value: &[u8]| {
        bytes[offset..offset + value.len()].copy_from_slice(value);
    };
    put(0, b"\x7fELF\x02\x01\x01");
    put(18, &62_u16.to_le_bytes()); // e_machine: EM_X86_64
    put(24, &START.to_le_bytes()); // e_entry
    put(32, &64_u64.to_le_bytes()); // e_phoff
    put(54, &56_u16.to_le_bytes()); // e_phentsize
    put(56, &2_u16.to_le_bytes()); // e_phnum
    // PT_LOAD, then PT_NOTE: type, offset, address, sizes.
    let size = (code.len() as u64).to_le_bytes();
    put(64, &1_u32.to_le_bytes());
    put(72, &0x1800_u64.to_le_bytes());
    put(88, &START.to_le_bytes());
    put(96, &size);
    put(104, &size);
    put(120, &4_u32.to_le_bytes());
    put(128, &0x1000_u64.to_le_bytes());
    put(152, &20_u64.to_le_bytes());
    // XEN_ELFNOTE_PHYS32_ENTRY (xen.git, xen/include/public/elfnote.h).
    let note = [4_u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0000];
    put(0x1000, &note.map(u32::to_le_bytes).concat());
    put(0x1800, code);
    bytes
}

#[test]
#[ignore = "needs KVM: make test-kvm"]
fn spinning_guest_is_paused_resumed_and_killed() {
    let mut machine = Machine::boot(SPIN);
    for _ in 0..3 {
        assert_eq!(machine.ask(&Request::Pause), Reply::Done);
        assert_eq!(machine.ask(&Request::Resume), Reply::Done);
    }
    // It may have been paused again before it went on.
    assert!(machine.stats().other_exits >= 1, "it was not called out");
    machine.monitor.kill().expect("it runs");
    machine.monitor.wait().expect("it ends");
}

#[test]
#[ignore = "needs KVM: make test-kvm"]
fn guest_that_resets_ends_instead_of_starting_again() {
    for code in [TRIPLE_FAULT, RESET] {
        assert_eq!(Machine::boot(code).end(), MachineEnd::Reset);
    }
}

#[test]
#[ignore = "needs KVM: make test-kvm"]
fn flood_of_the_console_that_nobody_reads_costs_no_memory_and_no_answer() {
    let mut machine = Machine::boot(FLOOD);
    while machine.stats().port_exits < MANY_EXITS {}
    let own_kib = machine.own_kib();
    assert!(own_kib < MONITOR_KIB, "{own_kib} KiB");
    assert_eq!(machine.ask(&Request::Pause), Reply::Done);
}

#[test]
#[ignore = "needs KVM: make test-kvm"]
fn garbage_in_every_register_ends_nothing_but_what_the_guest_ends() {
    assert_eq!(Machine::boot(GARBAGE).end(), MachineEnd::PoweredOff);
}

#[test]
#[ignore = "needs KVM: make test-kvm"]
fn guest_sees_another_generation_id_when_it_is_renewed() {
    let mut machine = Machine::boot(GENERATION);
    let mut ids = [[0; 4]; 2];
    machine.console.read_exact(&mut ids[0]).expect("the first");
    assert_eq!(machine.ask(&Request::RenewGenerationId), Reply::Done);
    machine.console.read_exact(&mut ids[1]).expect("the next");
    assert_ne!(ids[0], ids[1]);
}
