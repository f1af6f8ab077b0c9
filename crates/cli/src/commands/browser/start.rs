//! `browser start`: a browser that outlives the command.

use std::ffi::OsString;
use std::time::Duration;

use smolvm_sandbox::{
    AskedBrowser, BrowserConfig, BrowserSession, DEFAULT_BROWSER_DISK_MIB,
    DEFAULT_BROWSER_MEMORY_MIB, DEFAULT_BROWSER_VCPUS, DEFAULT_TIMEOUT_MINUTES, DEFAULT_VIEWPORT,
    EngineChoice,
};

use super::session_json;
use crate::commands::env::pair;
use crate::context::Context;
use crate::failure::Failure;
use crate::interrupts::Interrupts;
use crate::output::Report;
use crate::{table, values};

/// `browser start` as typed. What is legal, the library says.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its name; a random one when not given.
    #[arg(long, value_name = "NAME")]
    session_id: Option<String>,

    /// Give it a display that people can watch and use.
    #[arg(long)]
    live: bool,

    /// Whether its profile is kept: ephemeral or persistent [default: persistent with
    /// --profile-id].
    #[arg(long, value_name = "MODE")]
    profile_mode: Option<String>,

    /// Name of the profile that is kept: cookies, logins, settings.
    #[arg(long, value_name = "NAME")]
    profile_id: Option<String>,

    /// Minutes after which it ends, whoever uses it.
    #[arg(long, value_name = "MINUTES", default_value_t = DEFAULT_TIMEOUT_MINUTES)]
    timeout_minutes: u64,

    /// Width of the page, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = DEFAULT_VIEWPORT.0)]
    viewport_width: u64,

    /// Height of the page, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = DEFAULT_VIEWPORT.1)]
    viewport_height: u64,

    /// Record a video of the display.
    #[arg(long)]
    record_video: bool,

    /// Let no page save files.
    #[arg(long)]
    no_downloads: bool,

    /// A name that pages may come from, as in example.com or *.example.com; can be given more than
    /// once, and then nothing else can be reached.
    #[arg(
        long = "allow-domain",
        value_name = "RULE",
        visible_alias = "allowed-domain"
    )]
    allowed_domains: Vec<String>,

    /// A variable of its environment; NAME alone takes smolvm's own; can be given more than once.
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env_vars: Vec<OsString>,

    /// Its memory, in MiB.
    #[arg(long, value_name = "MIB", alias = "memory", default_value_t = DEFAULT_BROWSER_MEMORY_MIB)]
    memory_mib: u64,

    /// Size of its disk, in MiB.
    #[arg(long, value_name = "MIB", alias = "disk-size", default_value_t = DEFAULT_BROWSER_DISK_MIB)]
    disk_size_mib: u64,

    /// Its virtual CPUs.
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_BROWSER_VCPUS)]
    cpus: u64,

    /// What runs it: auto, kvm or qemu [default: SMOLVM_BACKEND, else auto].
    #[arg(long, alias = "backend", value_parser = values::engine)]
    engine: Option<EngineChoice>,

    /// Time that the guest, and then the browser, have to come up [default: as long as they need].
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    boot_timeout: Option<Duration>,
}

/// Starts a browser. When that fails or a signal asks for the end, nothing is left of it.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Report, Failure> {
    let limit = args.boot_timeout;
    let asked = args.asked(context)?;
    let config = BrowserConfig::new(&asked)?;
    let mut interrupts = Interrupts::listen()?;
    let activity = context.activity("starting browser");
    let create = BrowserSession::create(
        context.installation.clone(),
        config,
        asked.env_vars,
        activity.progress(),
    );
    let session = create.await?;
    let outcome = tokio::select! {
        started = session.start(activity.progress(), limit) => started.map_err(Failure::from),
        signal = interrupts.next() => Err(Failure::interrupted(signal)),
    };
    let outcome = match outcome {
        Ok(info) => session
            .release()
            .await
            .map(|()| info)
            .map_err(Failure::from),
        failed => failed,
    };
    drop(activity);
    let info = match outcome {
        Ok(info) => info,
        Err(failure) => {
            // What is left all the same goes with this process, whose it is.
            let _ended = session.discard().await;
            return Err(failure);
        }
    };
    let mut pairs = vec![("session", info.session_id.to_string())];
    pairs.extend(info.cdp_url().map(|url| ("CDP", url)));
    pairs.extend(info.viewer_url().map(|url| ("live view", url)));
    pairs.extend(info.display_url().map(|url| ("VNC", url)));
    pairs.push((
        "stop it",
        format!("smolvm browser stop {}", info.session_id),
    ));
    Ok(Report::new(session_json(&info), table::pairs(&pairs)))
}

impl Args {
    fn asked(self, context: &Context) -> Result<AskedBrowser, Failure> {
        let is_persistent = self.profile_mode.is_none() && self.profile_id.is_some();
        let has_domains = !self.allowed_domains.is_empty();
        let env_vars = self.env_vars.into_iter().map(pair);
        Ok(AskedBrowser {
            session_id: self.session_id,
            engine: self.engine.unwrap_or(context.settings.engine),
            browser: None,
            mode: self.live.then(|| "live".to_owned()),
            profile_mode: self
                .profile_mode
                .or_else(|| is_persistent.then(|| "persistent".to_owned())),
            profile_id: self.profile_id,
            timeout_minutes: Some(self.timeout_minutes),
            viewport_width: Some(self.viewport_width),
            viewport_height: Some(self.viewport_height),
            viewport: None,
            record_video: self.record_video,
            denies_downloads: self.no_downloads,
            network_policy_id: None,
            env_vars: env_vars.collect::<Result<_, _>>()?,
            memory_mib: Some(self.memory_mib),
            disk_mib: Some(self.disk_size_mib),
            vcpus: Some(self.cpus),
            allowed_domains: has_domains.then_some(self.allowed_domains),
        })
    }
}
