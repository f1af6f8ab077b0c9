//! What is measured: SmolVM, through its library and its command.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use smolvm_image::NoProgress;
use smolvm_network::HOST_NAME;
use smolvm_sandbox::accelerator::{self, AcceleratorChoice};
use smolvm_sandbox::engine::Accelerator;
use smolvm_sandbox::message::{Command as GuestCommand, Exec};
use smolvm_sandbox::{
    EngineChoice, Installation, Lifetime, Mode, NetworkPolicy, Output, Sandbox, SandboxId,
    SandboxSpec,
};
use tokio::runtime::Runtime;

/// How long everything of a deleted sandbox may take to go before the measurement is given up.
const DELETE_PATIENCE: Duration = Duration::from_secs(10);

/// SmolVM with everything prepared.
#[derive(Debug)]
pub(crate) struct Subject {
    installation: Arc<Installation>,
    _data: tempfile::TempDir,
    kernel: smolvm_image::Kernel,
    choice: AcceleratorChoice,
    tsc_khz: u64,
}

impl Subject {
    /// Finds the programs of target/release and prepares kernel and image.
    pub(crate) fn prepare(runtime: &Runtime) -> Result<Self, Box<dyn Error>> {
        let programs = std::env::current_exe()?
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default();
        let data = tempfile::tempdir()?;
        let qemu = find("qemu-system-x86_64").ok_or("qemu-system-x86_64 is not installed")?;
        let installation = Arc::new(Installation {
            data_dir: data.path().to_owned(),
            cache_dir: cache_dir()?,
            smolvm: programs.join("smolvm"),
            vmm: programs.join("smolvm-vmm"),
            agent: programs.join("smolvm-agent"),
            qemu: Some(qemu),
        });
        let cache = smolvm_image::Cache::open(&installation.cache_dir)?;
        smolvm_image::root_image(&cache, &smolvm_image::ImageName::default(), &NoProgress)?;
        let kernel = smolvm_image::kernel(&cache, &NoProgress)?;
        let choice = runtime.block_on(accelerator::choose(&installation))?;
        let tsc_khz = choice.tsc_khz()?;
        Ok(Self {
            installation,
            _data: data,
            kernel,
            choice,
            tsc_khz,
        })
    }

    pub(crate) const fn engine(&self) -> &'static str {
        if self.is_kvm() {
            "qemu (KVM)"
        } else {
            "qemu (software emulation)"
        }
    }

    pub(crate) const fn is_kvm(&self) -> bool {
        matches!(self.choice.accelerator, Accelerator::Kvm)
    }

    pub(crate) const fn tsc_khz(&self) -> u64 {
        self.tsc_khz
    }

    pub(crate) fn kernel(&self) -> &Path {
        &self.kernel.image
    }

    /// Returns the modules that a network device takes, in loading order.
    pub(crate) fn network_modules(&self) -> impl Iterator<Item = &Path> {
        let modules = self.kernel.boot_modules.iter();
        modules
            .chain(&self.kernel.network_modules)
            .map(PathBuf::as_path)
    }

    /// Returns the program of the network's measurements that runs in a guest.
    pub(crate) fn bench_guest(&self) -> PathBuf {
        self.installation
            .smolvm
            .with_file_name("smolvm-bench-guest")
    }

    pub(crate) fn kernel_package(&self) -> &str {
        &self.kernel.package
    }

    pub(crate) fn qemu(&self) -> &Path {
        self.installation
            .qemu
            .as_deref()
            .unwrap_or_else(|| Path::new("qemu-system-x86_64"))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.installation.smolvm);
        command
            .args(arguments)
            .env("SMOLVM_DATA_DIR", &self.installation.data_dir)
            .env("SMOLVM_CACHE_DIR", &self.installation.cache_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    /// Creates a sandbox that boots, runs a command in it, and returns the time until its line was
    /// here.
    pub(crate) fn cold_run(&self, engine: EngineChoice) -> Result<Duration, Box<dyn Error>> {
        self.run_until_line(engine, &["--cold"])
    }

    /// Does the same with one that goes on from a template, if there is one.
    pub(crate) fn warm_run(&self, engine: EngineChoice) -> Result<Duration, Box<dyn Error>> {
        self.run_until_line(engine, &[])
    }

    fn run_until_line(
        &self,
        engine: EngineChoice,
        options: &[&str],
    ) -> Result<Duration, Box<dyn Error>> {
        use std::io::BufRead as _;

        let engine = ["run", "--engine", engine.as_str()];
        let words = [&engine, options, &["--", "echo", "ready"]].concat();
        let begun = Instant::now();
        let mut child = self.command(&words).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        std::io::BufReader::new(output).read_line(&mut line)?;
        let elapsed = begun.elapsed();
        child.wait()?;
        if line == "ready\n" {
            Ok(elapsed)
        } else {
            Err(format!("unexpected {line:?}").into())
        }
    }

    /// Runs `true` through the `smolvm` command.
    pub(crate) fn exec_command(&self, id: &SandboxId) -> Result<Duration, Box<dyn Error>> {
        let begun = Instant::now();
        let status = self
            .command(&["exec", id.as_str(), "--", "true"])
            .status()?;
        if status.success() {
            Ok(begun.elapsed())
        } else {
            Err(format!("{status}").into())
        }
    }

    /// Starts a sandbox through the library.
    pub(crate) async fn start(&self) -> Result<Sandbox, Box<dyn Error>> {
        let mut spec = SandboxSpec::new(SandboxId::random(), Lifetime::Leased);
        spec.engine = EngineChoice::Qemu;
        self.start_as(spec).await
    }

    /// Starts one on an engine, which may reach a port of the host's loopback.
    pub(crate) async fn start_on(
        &self,
        engine: EngineChoice,
        port: u16,
    ) -> Result<Sandbox, Box<dyn Error>> {
        let mut spec = SandboxSpec::new(SandboxId::random(), Lifetime::Leased);
        spec.engine = engine;
        // What is counted until its first command's result is that of a boot.
        spec.boots_cold = true;
        let rule = format!("allow {HOST_NAME}:{port}").parse()?;
        spec.network = NetworkPolicy::new(Mode::Restricted, vec![rule])?;
        self.start_as(spec).await
    }

    async fn start_as(&self, spec: SandboxSpec) -> Result<Sandbox, Box<dyn Error>> {
        let installation = Arc::clone(&self.installation);
        let sandbox = Sandbox::create(installation, spec, Arc::new(NoProgress)).await?;
        sandbox.start(Arc::new(NoProgress)).await?;
        Ok(sandbox)
    }

    /// Starts a sandbox and returns how long it takes to be gone: files, VMM and supervisor.
    pub(crate) async fn delete(&self) -> Result<Duration, Box<dyn Error>> {
        let sandbox = self.start().await?;
        let status = sandbox.status().await?;
        let pids: Vec<u32> = [Some(status.supervisor_pid), status.vmm_pid]
            .into_iter()
            .flatten()
            .collect();
        let directory = sandbox.info()?.directory;
        let begun = Instant::now();
        sandbox.delete().await?;
        loop {
            let elapsed = begun.elapsed();
            let is_gone = !directory.exists() && !pids.iter().any(|pid| is_alive(*pid));
            if is_gone {
                return Ok(elapsed);
            }
            if elapsed > DELETE_PATIENCE {
                return Err("a deleted sandbox is still there".into());
            }
            std::thread::yield_now();
        }
    }
}

/// Runs `true` and returns the time until its end was here.
pub(crate) async fn exec_true(sandbox: &Sandbox) -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    run(sandbox, &["true"]).await?;
    Ok(begun.elapsed())
}

/// Returns what starting one program costs inside the guest: a shell starts `count` of them.
pub(crate) async fn guest_start(sandbox: &Sandbox, count: u32) -> Result<Duration, Box<dyn Error>> {
    let script = |count| format!("i=0; while [ $i -lt {count} ]; do /bin/true; i=$((i+1)); done");
    let begun = Instant::now();
    run(sandbox, &["sh", "-c", &script(0)]).await?;
    let empty = begun.elapsed();
    let begun = Instant::now();
    run(sandbox, &["sh", "-c", &script(count)]).await?;
    Ok(begun.elapsed().saturating_sub(empty) / count)
}

/// Returns the supervisor's resident memory, in MiB.
pub(crate) async fn supervisor_resident_mib(sandbox: &Sandbox) -> Result<f64, Box<dyn Error>> {
    let pid = sandbox.status().await?.supervisor_pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .ok_or("no VmRSS")?;
    let kib = line.split_whitespace().nth(1).ok_or("no number")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Returns the process ID of a sandbox's VMM.
pub(crate) async fn vmm_pid(sandbox: &Sandbox) -> Result<u32, Box<dyn Error>> {
    let status = sandbox.status().await?;
    Ok(status.vmm_pid.ok_or("the engine has no process")?)
}

async fn run(sandbox: &Sandbox, words: &[&str]) -> Result<(), Box<dyn Error>> {
    output(sandbox, words).await.map(|_output| ())
}

/// Runs a command that has to succeed, and returns its output.
pub(crate) async fn output(sandbox: &Sandbox, words: &[&str]) -> Result<Vec<u8>, Box<dyn Error>> {
    let words = words
        .iter()
        .map(|word| ByteBuf::from(word.as_bytes()))
        .collect();
    let exec = Exec::of(GuestCommand::Arguments(words));
    let mut process = sandbox.exec(exec).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match process.output.next().await? {
            Output::Stdout(bytes) => stdout.extend(bytes),
            Output::Stderr(bytes) => stderr.extend(bytes),
            Output::End(end) => {
                return match end.reason.exit_code() {
                    0 => Ok(stdout),
                    code => {
                        let stderr = String::from_utf8_lossy(&stderr);
                        Err(format!("the command ended with {code}: {stderr}").into())
                    }
                };
            }
        }
    }
}

/// Returns whether a process exists and is more than an entry waiting to be collected (proc(5)).
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .starts_with(" Z")
    })
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

fn cache_dir() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(directory) = std::env::var_os("SMOLVM_CACHE_DIR") {
        return Ok(directory.into());
    }
    let home = std::env::var_os("HOME").ok_or("HOME is not set")?;
    Ok(Path::new(&home).join(".cache/smolvm"))
}
