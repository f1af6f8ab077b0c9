//! `job`: commands that outlive the connection that started them.

use serde_json::{Value, json};
use smolvm_sandbox::message::{Exec, JobStatus, StartJob};
use smolvm_sandbox::{EndReason, ErrorKind, JobEvent, Output, SandboxId, random_job_name};
use tokio::io::AsyncWriteExt as _;

use super::program_args::ProgramArgs;
use crate::context::Context;
use crate::failure::{BROKEN_PIPE, Failure};
use crate::interrupts::Interrupts;
use crate::output::{self, Report};
use crate::table::table;
use crate::{text, values};

/// Output that is kept of a job unless it is asked otherwise: a long build's log.
const DEFAULT_BUFFER_KIB: u32 = 1024;

/// `job` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a command that goes on by itself, and print the job's name.
    Start(Box<StartArgs>),
    /// Show a job's output from a byte on, until the job has ended; exit with its exit code.
    Attach(JobArgs),
    /// List the jobs of a sandbox.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Kill a job, if it runs, and forget its output.
    #[command(visible_alias = "rm")]
    Remove(RemoveArgs),
}

/// `job start` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// The job's name; a random one when not given.
    #[arg(long, value_name = "NAME")]
    job: Option<String>,

    /// KiB of output that are kept; older output is lost.
    #[arg(long, value_name = "KIB", default_value_t = DEFAULT_BUFFER_KIB, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    buffer: u32,

    #[command(flatten)]
    program: ProgramArgs,
}

/// `job attach` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct JobArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Name of the job.
    job: String,

    /// Bytes of output that were seen already, of both outputs together.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    cursor: u64,
}

/// `job list` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,
}

/// `job remove` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Name of the sandbox.
    #[arg(value_parser = values::sandbox_id)]
    name: SandboxId,

    /// Name of the job.
    job: String,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "job.start",
            Self::Attach(_) => "job.attach",
            Self::List(_) => "job.list",
            Self::Remove(_) => "job.remove",
        }
    }
}

/// Starts, attaches, lists or removes.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Start(args) => start(*args, context).await,
        Command::Attach(args) => attach(args, context).await,
        Command::List(args) => list(args, context).await,
        Command::Remove(args) => remove(args, context).await,
    }
}

async fn start(args: StartArgs, context: &Context) -> Result<Report, Failure> {
    let id = args.job.unwrap_or_else(random_job_name);
    if args.program.is_connected() {
        let message = "a job has neither a terminal nor standard input";
        return Err(Failure::new(ErrorKind::InvalidInput, message)
            .hint("leave out --interactive and --tty, or use: smolvm exec"));
    }
    let exec = Exec {
        stdin: false,
        ..args.program.exec(&context.settings)?
    };
    let job = StartJob {
        id: id.clone(),
        exec,
        buffer_bytes: args.buffer * 1024,
    };
    let pid = context.sandbox(&args.name)?.start_job(job).await?;
    Ok(Report::new(
        json!({"vm_id": args.name, "job": id, "pid": pid}),
        format!("{id}\n"),
    ))
}

async fn attach(args: JobArgs, context: &Context) -> Result<Report, Failure> {
    if context.settings.is_json {
        let message = "output that is followed is no JSON document";
        return Err(Failure::new(ErrorKind::InvalidInput, message).hint("leave out --json"));
    }
    let mut interrupts = Interrupts::listen()?;
    let sandbox = context.sandbox(&args.name)?;
    let mut attached = sandbox.attach_job(&args.job, args.cursor).await?;
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let event = tokio::select! {
            event = attached.output.next() => event?,
            signal = interrupts.next() => {
                let cursor = attached.output.cursor();
                output::error_line(&format!(
                    "detached; go on with: smolvm job attach {} {} --cursor {cursor}",
                    args.name, args.job
                ));
                return Err(Failure::quiet(u8::try_from(128 + signal).unwrap_or(BROKEN_PIPE)));
            }
        };
        let written = match event {
            JobEvent::Output(Output::Stdout(bytes)) => write(&mut stdout, &bytes).await,
            JobEvent::Output(Output::Stderr(bytes)) => write(&mut stderr, &bytes).await,
            JobEvent::Output(Output::End(end)) => {
                return Ok(Report {
                    exit_code: u8::try_from(end.reason.exit_code()).unwrap_or(u8::MAX),
                    ..Report::default()
                });
            }
            JobEvent::Lost(bytes) => {
                output::error_line(&format!("[{bytes} bytes of output are not kept any more]"));
                Ok(())
            }
        };
        if written.is_err() {
            return Err(Failure::quiet(BROKEN_PIPE));
        }
    }
}

async fn write<W: tokio::io::AsyncWrite + Unpin>(
    sink: &mut W,
    bytes: &[u8],
) -> std::io::Result<()> {
    sink.write_all(bytes).await?;
    sink.flush().await
}

async fn list(args: ListArgs, context: &Context) -> Result<Report, Failure> {
    let jobs = context.sandbox(&args.name)?.list_jobs().await?;
    let rows: Vec<[String; 4]> = jobs.iter().map(row).collect();
    let text = if rows.is_empty() {
        format!("{} has no jobs\n", args.name)
    } else {
        table(["JOB", "PID", "STATUS", "OUTPUT"], &rows)
    };
    let documents: Vec<Value> = jobs.iter().map(job_json).collect();
    Ok(Report::new(
        json!({"vm_id": args.name, "jobs": documents}),
        text,
    ))
}

fn row(job: &JobStatus) -> [String; 4] {
    [
        text::printable(job.id.as_bytes()),
        job.pid.to_string(),
        status(job).to_owned(),
        text::size(job.written),
    ]
}

fn status(job: &JobStatus) -> &'static str {
    job.exit
        .map_or("running", |exit| EndReason::Guest(exit.reason).as_str())
}

fn job_json(job: &JobStatus) -> Value {
    json!({
        "job": job.id,
        "pid": job.pid,
        "status": status(job),
        "exit_code": job.exit.map(|exit| EndReason::Guest(exit.reason).exit_code()),
        "oldest_byte": job.oldest,
        "written_bytes": job.written,
    })
}

async fn remove(args: RemoveArgs, context: &Context) -> Result<Report, Failure> {
    context.sandbox(&args.name)?.remove_job(&args.job).await?;
    Ok(Report::new(
        json!({"vm_id": args.name, "job": args.job}),
        format!("removed {}\n", args.job),
    ))
}
