//! `kvm`: runs a command where KVM works, for everything that needs the engine `kvm`.
//!
//! Where this host's KVM passes the probe, that is here. Elsewhere a QEMU that emulates a processor
//! with SVM boots this host's own kernel on this host's own files (virtme-ng), and the command runs
//! there, with a real KVM, ten to fifteen times slower than on metal:
//!
//! ```text
//!   this host                                    nested host
//!     target/kvm/disk.img  ── virtio-blk ──>       /run/smolvm-kvm: programs, cache; hot, writable
//!     everything else      ── 9p, read-only ──>    everything else
//!     target/kvm/out/      <── 9p ───────────      what the command says, and its exit status
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::command::{CommandError, check, line, run as run_command};
use crate::packages::Purpose;
use crate::workspace::Workspace;
use crate::{Run, TaskResult, build, packages, python};

/// What boots a kernel on the host's own files.
const TOOLS: &[&str] = &["pip>=24", "virtme-ng>=1.30"];

/// Where the disk is in the nested host.
const MOUNTED: &str = "/run/smolvm-kvm";

/// The programs that are measured and tested, which are wanted without the 9p in between.
const PROGRAMS: [&str; 3] = ["smolvm", "smolvm-vmm", "smolvm-agent"];

/// What of the cache guests boot from; the browser's image is too large for what is tested here.
const CACHED: [&str; 5] = ["kernel", "initramfs", "overlay", "root-image", "locks"];

/// Which of the cache's kernels guests boot, where the user has chosen one.
const KERNEL_CHOICE: &str = "kernel-choice.json";

/// Size of the disk. It is sparse.
const DISK_SIZE: &str = "8G";

/// A processor that QEMU emulates with SVM and nested paging.
const PROCESSOR: &str = "EPYC,+svm,+npt";

/// How often the nested host is woken, and what the command says is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// What wakes the nested host: it comes to the standard input there, with an interrupt.
///
/// QEMU 7.2, which emulates it, now and then leaves it halted although its timer's interrupt is pending
/// and interrupts are allowed; why is not known. An idle host would wait for ever then; the next
/// interrupt, whatever it is, brings the missed one as well.
const WAKING: &[u8] = b"\n";

/// How long the nested host may say nothing; the slowest test takes a minute there.
const PATIENCE: Duration = Duration::from_secs(600);

/// Reads the words after the name.
pub(crate) fn parse(words: &[String]) -> Option<Run> {
    let command = match words {
        [dashes, command @ ..] if dashes == "--" => command,
        command => command,
    };
    if command.is_empty() {
        return None;
    }
    let command = command.to_vec();
    Some(Box::new(move |workspace| {
        packages::run_for(workspace, Purpose::TestOnKvm)?;
        build::run(workspace)?;
        run(workspace, &command, &[])
    }))
}

/// Runs `command` where KVM works; `extra` files come to the nested host's disk as well, where
/// `smolvm` and they are in `PATH`.
pub(crate) fn run(workspace: &Workspace, command: &[String], extra: &[PathBuf]) -> TaskResult {
    let programs = PROGRAMS.map(|name| workspace.release().join(name));
    let programs: Vec<PathBuf> = programs.into_iter().chain(extra.iter().cloned()).collect();
    let directory = workspace.target().join("kvm");
    let disk = Disk::new(&directory)?;
    if is_usable(&workspace.release().join("smolvm-vmm")) {
        eprintln!("KVM is usable on this host");
        let bin = disk.staged("bin", &programs)?;
        let mut command = shell(command);
        command.env("PATH", with_first(&bin)?);
        command.env("SMOLVM_TEST_PROGRAMS", bin);
        run_command(command.current_dir(workspace.root()))?;
        return Ok(());
    }
    eprintln!("KVM is not usable on this host: the command runs in an emulated one, where it is");
    disk.staged("bin", &programs)?;
    disk.stage_cache()?;
    disk.make()?;
    let script = script(workspace.root(), &disk.out(), command);
    let path = directory.join("script");
    fs::write(&path, script)?;
    let tools = workspace.target().join("python/kvm");
    python::environment(&tools, TOOLS)?;
    nested(&python::program(&tools, "vng"), &disk, &path)
}

/// Asks the probe whether this host's KVM can be believed.
fn is_usable(vmm: &Path) -> bool {
    let report = Command::new(vmm).arg("probe").output();
    report.is_ok_and(|report| {
        String::from_utf8_lossy(&report.stdout).contains("\"verdict\":\"usable\"")
    })
}

/// Returns a command that a shell runs, as people write it.
fn shell(command: &[String]) -> Command {
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(quoted(command));
    shell
}

fn with_first(directory: &Path) -> Result<OsString, env::JoinPathsError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let rest = env::split_paths(&path);
    env::join_paths([directory.to_owned()].into_iter().chain(rest))
}

/// The nested host's own disk, and where what it writes for this host is.
struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// Makes the directory, without what an earlier run has left.
    fn new(directory: &Path) -> io::Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        let disk = Self {
            directory: directory.to_owned(),
        };
        for made in ["files/home", "files/data", "files/tmp", "out"] {
            fs::create_dir_all(directory.join(made))?;
        }
        Ok(disk)
    }

    fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    fn out(&self) -> PathBuf {
        self.directory.join("out")
    }

    fn image(&self) -> PathBuf {
        self.directory.join("disk.img")
    }

    /// Copies `files` into the disk's directory `name`, and returns where that is on this host.
    fn staged(&self, name: &str, files: &[PathBuf]) -> Result<PathBuf, Box<dyn std::error::Error>> {
        let into = self.files().join(name);
        fs::create_dir_all(&into)?;
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--sparse=always", "--target-directory"]);
        copy.arg(&into).args(files);
        let status = copy.status();
        let status = status.map_err(|source| CommandError::Start {
            line: line(&copy),
            source,
        })?;
        check(&copy, status)?;
        Ok(into)
    }

    /// Copies what guests boot from; it has been prepared.
    fn stage_cache(&self) -> TaskResult {
        let cache = cache_dir()?;
        for name in CACHED {
            let entries = match fs::read_dir(cache.join(name)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            };
            let is_wanted = |path: &PathBuf| !path.to_string_lossy().contains("/browser-");
            let paths = entries.flatten().map(|entry| entry.path());
            let paths: Vec<PathBuf> = paths.filter(is_wanted).collect();
            if !paths.is_empty() {
                self.staged(&format!("cache/{name}"), &paths)?;
            }
        }
        let choice = cache.join(KERNEL_CHOICE);
        if choice.exists() {
            self.staged("cache", &[choice])?;
        }
        Ok(())
    }

    /// Makes a file system of the files.
    fn make(&self) -> TaskResult {
        let mut make = Command::new("mke2fs");
        make.env("PATH", with_first(Path::new("/usr/sbin"))?);
        make.args(["-q", "-t", "ext4", "-E", "root_owner=0:0", "-d"]);
        run_command(make.arg(self.files()).arg(self.image()).arg(DISK_SIZE))?;
        Ok(())
    }
}

/// Returns where `smolvm` caches what guests boot from.
fn cache_dir() -> Result<PathBuf, &'static str> {
    if let Some(directory) = env::var_os("SMOLVM_CACHE_DIR") {
        return Ok(directory.into());
    }
    if let Some(directory) = env::var_os("XDG_CACHE_HOME") {
        return Ok(PathBuf::from(directory).join("smolvm"));
    }
    let home = env::var_os("HOME").ok_or("neither SMOLVM_CACHE_DIR nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/smolvm"))
}

/// Returns what the nested host does.
fn script(root: &Path, out: &Path, command: &[String]) -> String {
    let (root, out) = (root.display(), out.display());
    let command = quoted(command);
    format!(
        "#!/bin/bash\n\
         cat <&0 >/dev/null & exec >'{out}/said' 2>&1 </dev/null\n\
         mkdir -p {MOUNTED} && modprobe virtio_blk && mount /dev/vda {MOUNTED} || exit\n\
         export HOME={MOUNTED}/home TMPDIR={MOUNTED}/tmp PATH={MOUNTED}/bin:$PATH\n\
         export SMOLVM_CACHE_DIR={MOUNTED}/cache SMOLVM_DATA_DIR={MOUNTED}/data\n\
         export SMOLVM_TEST_PROGRAMS={MOUNTED}/bin\n\
         mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug\n\
         cd '{root}'\n\
         {command}\n\
         echo $? >'{out}/status'\n"
    )
}

/// Returns words as a shell reads them.
fn quoted(words: &[String]) -> String {
    let words = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")));
    words.collect::<Vec<_>>().join(" ")
}

/// Boots the nested host, shows what the command says, and fails as it does.
fn nested(vng: &Command, disk: &Disk, script: &Path) -> TaskResult {
    let mut boot = Command::new(vng.get_program());
    let (out, image) = (disk.out(), disk.image());
    boot.args(["--run".as_ref(), nested_kernel()?.as_os_str()])
        // With two processors, emulated hosts have died and guests in them have reset.
        .args(["--disable-kvm", "--cpus", "1", "--memory", "4G"])
        .arg("--force-9p")
        .arg("--rwdir")
        .arg(&out)
        .arg(format!(
            "--qemu-opts=-cpu {PROCESSOR} -drive file={},format=raw,if=virtio",
            image.display()
        ))
        .arg("--")
        .args(["bash".as_ref(), script.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    eprintln!("$ {}", line(&boot));
    let mut child = boot.spawn()?;
    let shown = show(&mut child, &out.join("said"));
    let status = child.wait()?;
    shown?;
    match fs::read_to_string(out.join("status")) {
        Ok(status) if status.trim() == "0" => Ok(()),
        Ok(status) => Err(format!("the command failed ({})", status.trim()).into()),
        Err(_) => Err(format!("the nested host ended before the command did ({status})").into()),
    }
}

/// Returns a kernel of this host's that can have its files from this host: the cloud kernels cannot.
fn nested_kernel() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let modules = fs::read_dir("/lib/modules")?.flatten();
    let releases = modules.filter(|release| release.path().join("kernel/fs/9p").is_dir());
    let kernels = releases.map(|release| Path::new("/boot").join(named(&release.file_name())));
    let newest = kernels.filter(|kernel| kernel.is_file()).max();
    newest.ok_or_else(|| "there is no kernel with 9p in /boot: install linux-image-amd64".into())
}

fn named(release: &OsString) -> OsString {
    let mut name = OsString::from("vmlinuz-");
    name.push(release);
    name
}

/// Copies what comes into the file `said` to this program's output until the child has ended, and
/// keeps the nested host awake. Ends a child that has said nothing for too long.
fn show(child: &mut Child, said: &Path) -> io::Result<()> {
    let mut wake = child.stdin.take();
    let mut file = None;
    let mut last = Instant::now();
    loop {
        // Asked for first: what it said before its end is then shown as well.
        let has_ended = child.try_wait()?.is_some();
        if file.is_none() {
            file = File::open(said).ok();
        }
        if let Some(file) = &mut file {
            let mut text = Vec::new();
            if file.read_to_end(&mut text)? > 0 {
                last = Instant::now();
            }
            io::stdout().write_all(&text)?;
            io::stdout().flush()?;
        }
        if has_ended {
            return Ok(());
        }
        if last.elapsed() > PATIENCE {
            child.kill()?;
            let silence = PATIENCE.as_secs();
            return Err(io::Error::other(format!(
                "the nested host was ended: it had said nothing for {silence} s"
            )));
        }
        // An emulator that has ended needs no waking.
        let _ = wake.as_mut().map(|wake| wake.write_all(WAKING));
        thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn command_may_follow_two_dashes_and_must_be_there() {
        assert!(parse(&words(&["--", "true"])).is_some());
        assert!(parse(&words(&["true", "--", "x"])).is_some());
        assert!(parse(&words(&["--"])).is_none());
        assert!(parse(&words(&[])).is_none());
    }

    #[test]
    fn words_stay_words_in_the_shell() {
        let command = words(&["printf", "%s|", "a b", "it's", "$HOME", ""]);
        let output = shell(&command).output().expect("bash");
        assert_eq!(output.stdout, b"a b|it's|$HOME||");
    }
}
