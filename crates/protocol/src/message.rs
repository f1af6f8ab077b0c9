//! Operations on a guest: what the host asks of the agent, and what the agent answers.
//!
//! Each yamux stream carries one operation. The host's first frame is a [`Request`]; the agent
//! answers with [`Event`]s and data frames in the order that the request's documentation gives.
//! Instead of any answer there may be one [`Event::Refused`], after which the stream ends.
//!
//! Guest paths, arguments and environment values are bytes, not text: Linux gives them no
//! encoding.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// What the host wants from the agent; the first frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Opens the session: both sides say who they are. Answer: [`Event::Hello`].
    Hello(HostHello),
    /// Runs a command.
    ///
    /// The host may then send [`FrameKind::Input`](crate::FrameKind::Input) frames followed by
    /// one [`FrameKind::End`](crate::FrameKind::End), and [`Control`] messages at any time. The
    /// agent sends [`Event::Started`], then output frames, then [`Event::Exited`]. When the host
    /// drops the stream before that, the command and everything it started are killed.
    Exec(Exec),
    /// Reads a file. Answer: [`Event::Attributes`], output frames, then an end frame.
    ReadFile {
        /// Absolute path of the file.
        path: ByteBuf,
    },
    /// Writes a file atomically: input frames and an end frame go to a temporary file beside it,
    /// which then takes its place. Answer: [`Event::Done`].
    WriteFile(WriteFile),
    /// Describes a file. Answer: [`Event::Attributes`].
    Stat {
        /// Absolute path of the file.
        path: ByteBuf,
        /// Whether to describe what a symbolic link points to, rather than the link.
        follow: bool,
    },
    /// Lists a directory. Answer: any number of [`Event::Entry`], in no order, then
    /// [`Event::Done`].
    List {
        /// Absolute path of the directory.
        path: ByteBuf,
    },
    /// Makes a directory. Answer: [`Event::Done`].
    MakeDirectory {
        /// Absolute path of the directory.
        path: ByteBuf,
        /// Permission bits, at most `0o7777`.
        mode: u32,
        /// Whether missing parents are made too, and an existing directory is fine.
        parents: bool,
    },
    /// Removes a file or directory. Answer: [`Event::Done`].
    Remove {
        /// Absolute path of what is removed; a symbolic link itself, never its target.
        path: ByteBuf,
        /// Whether a directory goes with everything in it.
        recursive: bool,
    },
    /// Reads a file or a directory tree as a tar archive whose one top-level name is the last
    /// component of `path`. Answer: output frames, then an end frame.
    ReadTree {
        /// Absolute path of the file or directory.
        path: ByteBuf,
    },
    /// Unpacks a tar archive, sent as input frames and an end frame, into a directory.
    /// Answer: [`Event::Done`].
    WriteTree {
        /// Absolute path of the directory that receives the archive's entries.
        path: ByteBuf,
    },
    /// Gives a file or directory another name on the same file system. Answer: [`Event::Done`].
    Move {
        /// Absolute path of what is moved; a symbolic link itself, never its target.
        from: ByteBuf,
        /// Absolute path that it gets.
        to: ByteBuf,
        /// Whether a file that is there already is replaced.
        replace: bool,
    },
    /// Starts a job: a command that outlives the stream. Answer: [`Event::Started`], then
    /// [`Event::Done`].
    StartJob(StartJob),
    /// Attaches to a job. Answer: [`Event::Job`], then its output from the cursor on as output
    /// frames, with an [`Event::Lost`] before the first byte that is still kept where the cursor
    /// is older than that; in the end [`Event::Exited`]. The host may send input and
    /// [`Control`]s as with [`Request::Exec`]. Dropping the stream leaves the job as it is.
    AttachJob {
        /// The job's name.
        id: String,
        /// Bytes of output, of both kinds together, that the host has had already.
        cursor: u64,
    },
    /// Lists the jobs. Answer: any number of [`Event::Job`], in no order, then [`Event::Done`].
    ListJobs,
    /// Kills a job that runs, with everything it started, and forgets it and its output.
    /// Answer: [`Event::Done`].
    RemoveJob {
        /// The job's name.
        id: String,
    },
    /// Connects to a TCP port inside the guest. Answer: [`Event::Connected`]; after it the stream
    /// carries raw bytes both ways without frames, and each side's close is a half-close.
    Connect(Connect),
    /// Tells which commands have opened sockets. The host sends one [`Socket`] after the other and
    /// waits for the answer to each, an [`Event::Owner`], until it drops the stream.
    FindOwners,
    /// Has the guest finish what a start leaves for later, and write what it has to write, so that
    /// it can be recorded and started from there. Answer: [`Event::Done`]. The agent closes its
    /// port when the host has closed it, opens it again, and waits for another host.
    Settle,
    /// Ends all processes, syncs and unmounts the file systems and powers the machine off.
    /// Answer: [`Event::Done`] once that has begun.
    Shutdown,
}

/// What the host says of itself when it opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHello {
    /// The generation the host speaks; see [`crate::GENERATION`].
    pub generation: u32,
    /// The oldest generation the host still understands.
    pub oldest_generation: u32,
    /// The host's wall clock, in nanoseconds since the Unix epoch. The agent sets the guest's
    /// clock to it.
    pub unix_time_ns: u64,
    /// Processes and threads that all commands together may have; unlimited when absent.
    #[serde(default)]
    pub max_processes: Option<u32>,
    /// The network the guest is to have. When absent, an earlier one stays, and a guest that has
    /// had none gets none.
    #[serde(default)]
    pub network: Option<GuestNetwork>,
    /// A certificate authority, in PEM, that the guest's programs are to trust beside the public
    /// ones. When absent, an earlier one stays.
    #[serde(default)]
    pub ca_certificate: Option<String>,
    /// Environment variables of every command that is not given others of their names. When absent,
    /// earlier ones stay.
    #[serde(default)]
    pub variables: Option<Vec<(String, String)>>,
    /// Who a guest is that was recorded and started from there; others of the same recording are
    /// somebody else. When absent, it stays who it was.
    #[serde(default)]
    pub identity: Option<Identity>,
}

/// Who a guest is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its host name.
    pub hostname: String,
    /// Random bytes, of this guest alone: its kernel makes its random numbers anew with them. See
    /// [`SEED_BYTES`].
    pub seed: ByteBuf,
}

/// Bytes of an [`Identity::seed`]: as many as the state of the kernel's generator has
/// (Linux drivers/char/random.c, `BLAKE2S_HASH_SIZE`).
pub const SEED_BYTES: usize = 32;

/// Capability of an agent that knows [`Request::Settle`] and does what [`HostHello::identity`] says.
pub const IDENTITY_CAPABILITY: &str = "identity";

/// Capability of an agent that does what [`HostHello::network`] and
/// [`HostHello::ca_certificate`] say; an older one would skip both without a word.
pub const NETWORK_CAPABILITY: &str = "network";

/// How a guest's network interface is configured. An agent that cannot configure it refuses the
/// hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// Hardware address of the interface that this is for.
    pub mac: [u8; 6],
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: u16,
    /// The interface's IPv4 address.
    pub ipv4: InterfaceAddress<Ipv4Addr>,
    /// Its IPv6 address; ignored by a guest whose kernel has IPv6 switched off.
    #[serde(default)]
    pub ipv6: Option<InterfaceAddress<Ipv6Addr>>,
    /// Name servers, the first one preferred; with none, the guest keeps its own.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Names that the guest knows without asking, each with its address.
    #[serde(default)]
    pub hosts: Vec<(IpAddr, String)>,
}

/// An address of an interface, and the way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress<A> {
    /// The address.
    pub address: A,
    /// Leading bits that all addresses on the link have in common.
    pub prefix_length: u8,
    /// Where packets for all other addresses go.
    pub gateway: A,
}

/// What the agent says of itself when a session opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// The generation the agent speaks; see [`crate::GENERATION`].
    pub generation: u32,
    /// The oldest generation the agent still understands.
    pub oldest_generation: u32,
    /// The agent's version, for people.
    pub version: String,
    /// Names of what this agent can do beyond the operations of its generation, such as
    /// [`NETWORK_CAPABILITY`].
    pub capabilities: Vec<String>,
    /// Release of the guest's kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// When the steps of the guest's boot ended.
    pub boot: BootTimes,
}

/// When the steps of a guest's boot ended, in milliseconds of the guest's monotonic clock, which
/// starts with its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootTimes {
    /// The agent's first instruction as PID 1.
    pub agent_started_ms: u64,
    /// Kernel modules loaded.
    pub modules_loaded_ms: u64,
    /// Root and overlay mounted and switched to.
    pub root_ready_ms: u64,
    /// The agent's port opened.
    pub port_opened_ms: u64,
}

/// A command to run in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// What to run.
    pub command: Command,
    /// Environment variables set on top of the user's defaults (`HOME`, `USER`, `LOGNAME`,
    /// `SHELL`, `PATH`, and `TERM` on a terminal) and on [`HostHello::variables`].
    #[serde(default)]
    pub environment: Vec<(ByteBuf, ByteBuf)>,
    /// Absolute working directory; the user's home when absent.
    #[serde(default)]
    pub working_directory: Option<ByteBuf>,
    /// Who runs it: `name`, `uid`, `name:group` or `uid:gid`; root when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Whether the host will send input. Otherwise standard input is `/dev/null`.
    #[serde(default)]
    pub stdin: bool,
    /// The terminal to run it on. Without one, output and error output are separate pipes; with
    /// one, both arrive as [`FrameKind::Output`](crate::FrameKind::Output).
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Milliseconds after which the command and everything it started are killed.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// What the command and everything it starts may use together.
    #[serde(default)]
    pub limits: Limits,
}

impl Exec {
    /// Returns the request for a command with nothing else asked for: as root, in its home, without
    /// input, terminal, deadline or limits.
    #[must_use]
    pub fn of(command: Command) -> Self {
        Self {
            command,
            environment: Vec::new(),
            working_directory: None,
            user: None,
            stdin: false,
            terminal: None,
            timeout_ms: None,
            limits: Limits::default(),
        }
    }
}

/// What one command may use of its guest. Enforced by its cgroup; absent is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory in MiB; more ends in [`ExitReason::OutOfMemory`].
    pub memory_mib: Option<u32>,
    /// Processor time in hundredths of one CPU: 50 is half a CPU, 200 two.
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

/// A job to start: a command that outlives the connection that started it, with its output kept
/// in the guest for whoever attaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartJob {
    /// Its name, unique in the guest: 1 to 64 of `a-z`, `0-9`, `-` and `_`.
    pub id: String,
    /// The command.
    pub exec: Exec,
    /// Bytes of output that are kept; older ones are lost. See [`MAX_JOB_BUFFER_BYTES`].
    pub buffer_bytes: u32,
}

/// Most output that an agent keeps of all jobs together, in bytes. It lies in the guest's memory.
pub const MAX_JOB_BUFFER_BYTES: u32 = 64 * 1024 * 1024;

/// Most jobs that an agent knows at a time, ended ones included.
pub const MAX_JOBS: usize = 64;

/// How a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub id: String,
    /// The command's process ID in the guest.
    pub pid: u32,
    /// How it ended, once it has.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// The oldest byte of output that is kept.
    pub oldest: u64,
    /// Bytes of output so far, of both kinds together.
    pub written: u64,
}

/// What an [`Exec`] runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// A program and its arguments; the program is looked up in `PATH` unless it has a slash.
    Arguments(Vec<ByteBuf>),
    /// A line for the user's shell.
    Shell {
        /// The line, as after `sh -c`.
        script: ByteBuf,
        /// Whether the shell reads its profile first, as after `sh -lc`.
        login: bool,
    },
    /// The user's shell itself, as a login shell.
    LoginShell,
}

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What the host may send while a command runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Sends a signal to the command's process group.
    Signal {
        /// Linux signal number, 1 to 64.
        number: i32,
    },
    /// Changes the size of its terminal.
    Resize(TerminalSize),
    /// Kills the command and everything it started.
    Kill,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Absolute path of the file.
    pub path: ByteBuf,
    /// Permission bits of a new file, at most `0o7777`; an existing file keeps its own.
    pub mode: u32,
    /// Whether missing parent directories are made.
    #[serde(default)]
    pub parents: bool,
}

/// A TCP connection to make inside the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// Port, 1 to 65535.
    pub port: u16,
}

/// A socket of the guest's, as the host sees it: by what it carries, and both its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// Its protocol.
    pub protocol: SocketProtocol,
    /// The guest's end.
    pub source: SocketAddr,
    /// The other one.
    pub destination: SocketAddr,
}

/// Protocol of a [`Socket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The command that opened a socket: one that the agent started, or something that it started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Number of the command among those that the agent has started, from 1.
    pub number: u64,
    /// Its process ID in the guest.
    pub pid: u32,
    /// Name of the program, at most [`MAX_PROGRAM_CHARS`]. None of its arguments: they can be
    /// secrets.
    pub program: String,
    /// The job that it is the command of.
    #[serde(default)]
    pub job: Option<String>,
    /// Whether it has ended, and left behind what opened the socket or still has it.
    pub has_ended: bool,
}

/// Longest name of a program in an [`Owner`], in characters.
pub const MAX_PROGRAM_CHARS: usize = 64;

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The session is open.
    Hello(AgentHello),
    /// The command runs.
    Started {
        /// Its process ID in the guest.
        pid: u32,
    },
    /// The command is over; the last frame of its stream.
    Exited(Exit),
    /// The operation is complete.
    Done,
    /// The connection is made; raw bytes follow.
    Connected,
    /// What a file is.
    Attributes(Attributes),
    /// How a job is.
    Job(JobStatus),
    /// Whose a socket is; nobody's where it is not known.
    Owner(Option<Owner>),
    /// Output that is not kept any more.
    Lost {
        /// How much.
        bytes: u64,
    },
    /// One entry of a directory.
    Entry {
        /// Its name: no slash, not `.` or `..`.
        name: ByteBuf,
        /// What it is; the entry itself where it is a symbolic link.
        attributes: Attributes,
    },
    /// The operation is refused or failed; the last frame of the stream.
    Refused(Refusal),
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Why it ended.
    pub reason: ExitReason,
    /// Wall-clock milliseconds from start to end, in the guest.
    pub elapsed_ms: u64,
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// It exited by itself.
    Exited {
        /// Its exit status, 0 to 255.
        code: i32,
    },
    /// A signal ended it that neither the agent nor the kernel's out-of-memory killer sent.
    Signalled {
        /// Linux signal number.
        number: i32,
    },
    /// Its time was up; everything it started was killed.
    TimedOut,
    /// The guest ran out of memory and the kernel killed it or a process it started.
    OutOfMemory,
    /// The host asked for its end with [`Control::Kill`].
    Killed,
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// What kind of file.
    pub kind: FileKind,
    /// Bytes of content.
    pub size: u64,
    /// Permission bits, at most `0o7777`.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Last change of the content, in nanoseconds since the Unix epoch.
    pub modified_unix_ns: i64,
    /// What a symbolic link points to.
    #[serde(default)]
    pub target: Option<ByteBuf>,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Device, socket or FIFO.
    Other,
}

/// Why an operation was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What a program can act on.
    pub code: RefusalCode,
    /// One line for people, such as `/etc/x: no such file or directory`.
    pub message: String,
}

/// Kind of a [`Refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The agent does not know this operation.
    UnknownRequest,
    /// The request or a frame after it breaks the protocol.
    Malformed,
    /// The generations of host and agent have nothing in common.
    Incompatible,
    /// A value of the request is not legal.
    InvalidInput,
    /// The file, directory or port does not exist.
    NotFound,
    /// The guest's kernel denies it.
    PermissionDenied,
    /// It exists already.
    AlreadyExists,
    /// A directory is needed.
    NotADirectory,
    /// Something other than a directory is needed.
    IsADirectory,
    /// The directory is not empty.
    NotEmpty,
    /// The guest's disk is full.
    NoSpace,
    /// The command does not exist.
    CommandNotFound,
    /// The command exists and cannot be executed.
    NotExecutable,
    /// The arguments and environment exceed what the guest's kernel takes.
    ArgumentsTooLong,
    /// The user or group does not exist in the guest.
    UnknownUser,
    /// Nothing listens on the port.
    ConnectionRefused,
    /// The guest is out of processes, memory or descriptors.
    ResourcesExhausted,
    /// The guest is shutting down.
    ShuttingDown,
    /// A port of the host is in use. Said by supervisors only.
    PortTaken,
    /// The host refuses it or fails. Said by supervisors only.
    Host,
    /// Any other failure of the guest's kernel or file system.
    Io,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Frame, FrameError, FrameKind};

    fn any_bytes() -> impl Strategy<Value = ByteBuf> {
        proptest::collection::vec(any::<u8>(), 0..64).prop_map(ByteBuf::from)
    }

    fn any_exec() -> impl Strategy<Value = Exec> {
        let command = prop_oneof![
            proptest::collection::vec(any_bytes(), 0..6).prop_map(Command::Arguments),
            (any_bytes(), any::<bool>())
                .prop_map(|(script, login)| Command::Shell { script, login }),
            Just(Command::LoginShell),
        ];
        let terminal = proptest::option::of(
            (any::<u16>(), any::<u16>()).prop_map(|(rows, columns)| TerminalSize { rows, columns }),
        );
        (
            command,
            proptest::collection::vec((any_bytes(), any_bytes()), 0..4),
            proptest::option::of(any_bytes()),
            proptest::option::of(".*"),
            any::<bool>(),
            terminal,
            proptest::option::of(any::<u64>()),
        )
            .prop_map(
                |(command, environment, working_directory, user, stdin, terminal, timeout_ms)| {
                    Exec {
                        command,
                        environment,
                        working_directory,
                        user,
                        stdin,
                        terminal,
                        timeout_ms,
                        limits: Limits::default(),
                    }
                },
            )
    }

    fn any_request() -> impl Strategy<Value = Request> {
        prop_oneof![
            any_exec().prop_map(Request::Exec),
            any_bytes().prop_map(|path| Request::ReadFile { path }),
            (any_bytes(), any::<u32>(), any::<bool>()).prop_map(|(path, mode, parents)| {
                Request::MakeDirectory {
                    path,
                    mode,
                    parents,
                }
            }),
            any::<u16>().prop_map(|port| Request::Connect(Connect { port })),
            Just(Request::Shutdown),
        ]
    }

    proptest! {
        #[test]
        fn requests_round_trip(request in any_request()) {
            let frame = Frame::message(&request).expect("small request");
            prop_assert_eq!(frame.parse::<Request>().expect("own encoding"), request);
        }

        #[test]
        fn arbitrary_bytes_never_panic_the_decoder(
            bytes in proptest::collection::vec(any::<u8>(), 0..512),
        ) {
            let frame = Frame { kind: FrameKind::Message, payload: bytes.into() };
            let _request = frame.parse::<Request>();
            let _event = frame.parse::<Event>();
            let _control = frame.parse::<Control>();
        }
    }

    #[test]
    fn array_that_announces_four_billion_entries_is_refused_without_allocating_them() {
        // MessagePack: map of 1, key "list", then array32 with 0xffffffff entries and no content.
        let mut bytes = vec![0x81, 0xa9];
        bytes.extend_from_slice(b"arguments");
        bytes.extend_from_slice(&[0xdd, 0xff, 0xff, 0xff, 0xff]);
        let frame = Frame {
            kind: FrameKind::Message,
            payload: bytes.into(),
        };
        assert!(matches!(
            frame.parse::<Command>(),
            Err(FrameError::Decode(_))
        ));
    }

    #[test]
    fn fields_added_by_a_newer_side_are_ignored() {
        #[derive(Serialize)]
        struct NewerHello {
            generation: u32,
            oldest_generation: u32,
            unix_time_ns: u64,
            added_later: &'static str,
        }
        let newer = NewerHello {
            generation: 9,
            oldest_generation: 1,
            unix_time_ns: 5,
            added_later: "unknown here",
        };
        let frame = Frame::message(&newer).expect("small");
        let hello: HostHello = frame.parse().expect("unknown fields are skipped");
        assert_eq!(
            hello,
            HostHello {
                generation: 9,
                oldest_generation: 1,
                unix_time_ns: 5,
                max_processes: None,
                network: None,
                ca_certificate: None,
                variables: None,
                identity: None,
            }
        );
    }

    #[test]
    fn network_of_a_hello_survives_the_wire() {
        let hello = Request::Hello(HostHello {
            generation: 1,
            oldest_generation: 1,
            unix_time_ns: 5,
            max_processes: None,
            network: Some(GuestNetwork {
                mac: [2, 0, 0, 0, 0, 1],
                mtu: u16::MAX,
                ipv4: InterfaceAddress {
                    address: Ipv4Addr::new(10, 0, 0, 2),
                    prefix_length: 24,
                    gateway: Ipv4Addr::new(10, 0, 0, 1),
                },
                ipv6: Some(InterfaceAddress {
                    address: Ipv6Addr::LOCALHOST,
                    prefix_length: 64,
                    gateway: Ipv6Addr::UNSPECIFIED,
                }),
                dns: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                hosts: vec![(Ipv4Addr::LOCALHOST.into(), "name".to_owned())],
            }),
            ca_certificate: Some("-----BEGIN CERTIFICATE-----".to_owned()),
            variables: Some(vec![("KEY".to_owned(), "placeholder".to_owned())]),
            identity: None,
        });
        let frame = Frame::message(&hello).expect("small");
        assert_eq!(frame.parse::<Request>().expect("own encoding"), hello);
    }

    #[test]
    fn question_for_an_owner_and_its_answer_survive_the_wire() {
        let socket = Socket {
            protocol: SocketProtocol::Udp,
            source: (Ipv6Addr::LOCALHOST, 40_000).into(),
            destination: (Ipv4Addr::LOCALHOST, 53).into(),
        };
        let frame = Frame::message(&socket).expect("small");
        assert_eq!(frame.parse::<Socket>().expect("own encoding"), socket);
        let owner = Owner {
            number: 7,
            pid: 211,
            program: "curl".to_owned(),
            job: Some("build".to_owned()),
            has_ended: false,
        };
        for event in [Event::Owner(Some(owner)), Event::Owner(None)] {
            let frame = Frame::message(&event).expect("small");
            assert_eq!(frame.parse::<Event>().expect("own encoding"), event);
        }
    }

    #[test]
    fn operation_of_a_newer_side_is_a_decoding_error() {
        #[derive(Serialize)]
        #[serde(rename_all = "snake_case")]
        enum NewerRequest {
            Teleport { path: String },
        }
        let request = NewerRequest::Teleport { path: "/".into() };
        let frame = Frame::message(&request).expect("small");
        assert!(matches!(
            frame.parse::<Request>(),
            Err(FrameError::Decode(_))
        ));
    }
}
