//! `browser`: sessions of Chromium in sandboxes of their own.

mod start;

use std::process::{Command as HostCommand, Stdio};

use serde_json::{Value, json};
use smolvm_sandbox::{
    BrowserError, BrowserInfo, BrowserSession, BrowserStatus, ErrorKind, SandboxId,
};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Report;
use crate::table::table;
use crate::values;

/// Programs that open a URL in the user's own browser (xdg-utils; macOS's has another name).
const OPENER: &str = "xdg-open";

/// `browser` as typed.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a browser, which runs until it is stopped or its time is over.
    Start(start::Args),
    /// Stop browsers; what they leave comes to the host.
    Stop(StopArgs),
    /// List browsers.
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Show where a browser is watched, and open that page.
    Open(OpenArgs),
    /// Show what a browser and the programs around it have logged.
    Logs(LogsArgs),
}

/// `browser stop` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Names of the sessions.
    #[arg(required_unless_present = "all", value_name = "SESSION", value_parser = values::sandbox_id)]
    sessions: Vec<SandboxId>,

    /// All there are.
    #[arg(short, long, conflicts_with = "sessions")]
    all: bool,
}

/// `browser list` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those in this state.
    #[arg(long, value_parser = status)]
    status: Option<BrowserStatus>,
}

/// `browser open` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct OpenArgs {
    /// Name of the session.
    #[arg(value_name = "SESSION", value_parser = values::sandbox_id)]
    session: SandboxId,
}

/// `browser logs` as typed.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Name of the session.
    #[arg(value_name = "SESSION", value_parser = values::sandbox_id)]
    session: SandboxId,

    /// Only the last lines of each log.
    #[arg(short = 'n', long, value_name = "LINES", default_value_t = 100)]
    tail: u32,
}

impl Command {
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "browser.start",
            Self::Stop(_) => "browser.stop",
            Self::List(_) => "browser.list",
            Self::Open(_) => "browser.open",
            Self::Logs(_) => "browser.logs",
        }
    }
}

/// Starts, stops, lists, opens or shows the logs of browsers.
pub(crate) async fn run(command: Command, context: &Context) -> Result<Report, Failure> {
    match command {
        Command::Start(args) => start::run(args, context).await,
        Command::Stop(args) => stop(args, context).await,
        Command::List(args) => list(args, context).await,
        Command::Open(args) => open(args, context).await,
        Command::Logs(args) => logs(args, context).await,
    }
}

async fn stop(args: StopArgs, context: &Context) -> Result<Report, Failure> {
    let sessions = if args.all {
        let known = BrowserSession::list(&context.installation).await?;
        known.into_iter().map(|info| info.session_id).collect()
    } else {
        args.sessions
    };
    let mut stopped = Vec::new();
    let mut lines = String::new();
    for id in sessions {
        let activity = context.activity(&format!("stopping browser {id}"));
        let outcome = async { session(&id, context)?.stop().await }.await;
        drop(activity);
        match outcome {
            // One of all that has ended meanwhile is as good as stopped.
            Err(BrowserError::NotFound { .. }) if args.all => continue,
            outcome => outcome?,
        }
        lines.push_str(&format!("{id} is stopped\n"));
        stopped.push(id);
    }
    Ok(Report::new(json!({"stopped": stopped}), lines))
}

async fn list(args: ListArgs, context: &Context) -> Result<Report, Failure> {
    let mut sessions = BrowserSession::list(&context.installation).await?;
    sessions.retain(|info| args.status.is_none_or(|status| info.status == status));
    let status = args.status.map(BrowserStatus::as_str);
    let documents: Vec<Value> = sessions.iter().map(session_json).collect();
    let data = json!({"filters": {"status": status}, "sessions": documents});
    if sessions.is_empty() {
        let text = "There are no browser sessions. Start one: smolvm browser start\n";
        return Ok(Report::new(data, text));
    }
    let rows: Vec<[String; 4]> = sessions.iter().map(row).collect();
    let headings = ["SESSION", "STATUS", "CDP", "PROFILE"];
    Ok(Report::new(data, table(headings, &rows)))
}

fn row(info: &BrowserInfo) -> [String; 4] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        info.session_id.to_string(),
        info.status.as_str().to_owned(),
        or_none(info.cdp_url()),
        or_none(info.config.profile_id.as_ref().map(ToString::to_string)),
    ]
}

async fn open(args: OpenArgs, context: &Context) -> Result<Report, Failure> {
    let info = session(&args.session, context)?.info().await?;
    let Some(url) = info.viewer_url() else {
        let message = format!("browser session '{}' has no live view", args.session);
        return Err(Failure::new(ErrorKind::Conflict, message)
            .hint("start one that has: smolvm browser start --live"));
    };
    // Not a promise: whoever has no desktop takes the URL to where there is one.
    let opened = HostCommand::new(OPENER)
        .arg(&url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok();
    let text = format!("{url}\n");
    let mut data = session_json(&info);
    data["opened"] = json!(opened);
    Ok(Report::new(data, text))
}

async fn logs(args: LogsArgs, context: &Context) -> Result<Report, Failure> {
    let lines = session(&args.session, context)?.logs(args.tail).await?;
    let text = lines.iter().map(|line| format!("{line}\n"));
    let text = text.collect::<String>();
    Ok(Report::new(json!({"lines": lines}), text))
}

fn session(id: &SandboxId, context: &Context) -> Result<BrowserSession, BrowserError> {
    BrowserSession::open(context.installation.clone(), id.clone())
}

/// Returns what programs are told of a session: the keys of both generations.
fn session_json(info: &BrowserInfo) -> Value {
    json!({
        "session_id": info.session_id,
        "vm_id": info.vm_id,
        "status": info.status.as_str(),
        "reason": info.reason,
        "cdp_url": info.cdp_url(),
        "live_url": info.viewer_url(),
        "viewer_url": info.viewer_url(),
        "display_url": info.display_url(),
        "profile_id": info.config.profile_id,
        "expires_at_unix_ms": info.expires_at_unix_ms,
        "artifacts_dir": info.artifacts_dir,
    })
}

fn status(name: &str) -> Result<BrowserStatus, String> {
    let mut all = BrowserStatus::ALL.into_iter();
    all.find(|status| status.as_str() == name).ok_or_else(|| {
        let names = BrowserStatus::ALL.map(BrowserStatus::as_str);
        format!("there are these: {}", names.join(", "))
    })
}
