//! `ssh`: the host's own ssh client, joined to a guest's ssh server without a port on the host.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use smolvm_sandbox::{ErrorKind, SandboxId};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::values;

/// Where an ssh server listens (RFC 4253 §4.1).
const SSH_PORT: u16 = 22;

/// `ssh` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the sandbox; its image must have an ssh server.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Who logs in.
    #[arg(short, long, visible_alias = "ssh-user", default_value = "root")]
    user: String,

    /// The private key [default: the one that smolvm.utils.ensure_ssh_key makes].
    #[arg(short = 'i', long, visible_aliases = ["ssh-key", "key-path"], value_name = "FILE")]
    identity: Option<PathBuf>,

    /// A command to run instead of a shell.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

/// Becomes ssh.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let sandbox = context.sandbox(&args.name)?;
    // Asked here, so that a missing server is told in plain words.
    drop(sandbox.dial(SSH_PORT).await.map_err(|error| {
        Failure::from(error).hint(format!(
            "ssh needs an image with a server; every image has a shell: smolvm shell {}",
            args.name
        ))
    })?);
    let error = client(&args, context, sandbox.info()?.directory).exec();
    let failure = Failure::new(ErrorKind::Host, format!("start ssh: {error}"));
    Err(failure.hint("install it: sudo apt-get install openssh-client"))
}

fn client(args: &Args, context: &Context, directory: PathBuf) -> Command {
    let mut proxy = OsString::from("ProxyCommand=exec ");
    proxy.push(quoted(&context.installation.smolvm));
    proxy.push(format!(" port connect {} {SSH_PORT}", args.name));
    let mut known_hosts = OsString::from("UserKnownHostsFile=");
    known_hosts.push(quoted(&directory.join("known_hosts")));
    let mut ssh = Command::new("ssh");
    ssh.arg("-o").arg(proxy);
    // The way to the guest is the supervisor's own socket: nobody can stand in between. The key
    // is remembered with the sandbox, and goes with it.
    ssh.arg("-o").arg(known_hosts);
    ssh.args([
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "LogLevel=ERROR",
    ]);
    let identity = args.identity.clone().or_else(|| {
        let key = context.settings.ssh_key.clone();
        key.filter(|key| key.is_file())
    });
    if let Some(identity) = identity {
        ssh.arg("-i").arg(identity);
        ssh.args(["-o", "IdentitiesOnly=yes"]);
    }
    ssh.arg("-l")
        .arg(&args.user)
        .arg("--")
        .arg(args.name.as_str());
    ssh.args(&args.command);
    ssh
}

/// Quotes a path for the shell that runs a ProxyCommand, and for ssh_config(5), whose tokens
/// begin with a per cent sign.
fn quoted(path: &std::path::Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%");
    format!(
        "\"{}\"",
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('$', "\\$")
    )
}
