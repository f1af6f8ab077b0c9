//! One browser session, as its user holds it: created, started, used, ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smolvm_image::{BROWSER_IMAGE, Progress};
use tokio::sync::Mutex;

use super::artifacts::{self, ArtifactError};
use super::cdp::{CDP_PORT, PageError};
use super::computer::Computer;
use super::config::{BrowserConfig, sandbox_of_profile};
use super::hand::Hand;
use super::info::{BrowserInfo, BrowserStatus, has_launcher, status};
use super::input::{InputError, Viewport};
use super::launcher::{self, Readiness, Report};
use super::record::{BrowserPorts, BrowserRecord, Records};
use super::screenshots::{self, ImageFormat};
use crate::exec::{ExecError, Output};
use crate::record::unix_time_ms;
use crate::text::{Tail, chain};
use crate::{
    AccessError, CreateError, ErrorKind, Installation, Lifetime, Sandbox, SandboxId, SandboxSpec,
    SandboxState, StartError, StoreError,
};

/// Port of the live view's page on the guest's loopback.
const VIEWER_PORT: u16 = 6080;

/// Port of the live view's VNC server on the guest's loopback.
const VNC_PORT: u16 = 5900;

/// How long a guest may take to shut down once its browser has ended.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Longest time to wait for a sandbox to be gone that another process is still starting.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(15);

/// How long a guest may take to say how its browser is, and what it has logged.
const STATUS_PATIENCE: Duration = Duration::from_secs(5);

/// Lines of each log that a failure repeats.
const FAILURE_LINES: u32 = 8;

/// Lines of all logs together that are returned at most.
const MAX_LOG_LINES: usize = 100_000;

/// Why a browser session could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// No session has this name.
    #[error("browser session '{id}' not found")]
    NotFound {
        /// The name.
        id: SandboxId,
    },
    /// A session has this name already.
    #[error("browser session '{id}' already exists")]
    AlreadyExists {
        /// The name.
        id: SandboxId,
    },
    /// Another session has the profile.
    #[error("profile '{profile_id}' is in use by browser session '{session}'")]
    ProfileInUse {
        /// The profile.
        profile_id: SandboxId,
        /// The profile's sandbox.
        vm_id: SandboxId,
        /// The session, or the sandbox where that has none.
        session: SandboxId,
    },
    /// Network policies by name are reserved.
    #[error("network_policy_id is reserved; use allowed_domains")]
    Reserved,
    /// The session is not in a state in which this can be done.
    #[error("browser session '{id}' is {}{}", status.as_str(), because(reason.as_ref()))]
    NotReady {
        /// The session.
        id: SandboxId,
        /// Its state.
        status: BrowserStatus,
        /// Why it is in that state, where that is known.
        reason: Option<String>,
    },
    /// The browser did not come up.
    #[error("start the browser: {reason}")]
    Failed {
        /// Why not, as its launcher says.
        reason: String,
        /// The last lines of its logs.
        log: Vec<String>,
    },
    /// The session was stopped while it was being started.
    #[error("browser session '{id}' was stopped while it started")]
    Stopped {
        /// The session.
        id: SandboxId,
    },
    /// Its sandbox could not be created.
    #[error(transparent)]
    Create(Box<CreateError>),
    /// Its sandbox could not be started.
    #[error(transparent)]
    Start(Box<StartError>),
    /// Its launcher could not be started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Its sandbox could not be reached.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it leaves could not be had.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Its page could not be used.
    #[error(transparent)]
    Page(#[from] PageError),
    /// That cannot be done with mouse and keyboard.
    #[error(transparent)]
    Input(#[from] InputError),
}

impl From<CreateError> for BrowserError {
    fn from(error: CreateError) -> Self {
        Self::Create(Box::new(error))
    }
}

impl From<StartError> for BrowserError {
    fn from(error: StartError) -> Self {
        Self::Start(Box::new(error))
    }
}

fn because(reason: Option<&String>) -> String {
    reason
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default()
}

impl BrowserError {
    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. }
            | Self::ProfileInUse { .. }
            | Self::NotReady { .. }
            | Self::Stopped { .. } => ErrorKind::Conflict,
            Self::Reserved => ErrorKind::Unsupported,
            Self::Failed { .. } => ErrorKind::GuestFailed,
            Self::Create(error) => error.kind(),
            Self::Start(error) => error.kind(),
            Self::Exec(error) => error.kind(),
            Self::Access(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Artifact(error) => error.kind(),
            Self::Page(error) => error.kind(),
            Self::Input(error) => error.kind(),
        }
    }

    /// Returns the last lines of the browser's logs or of the guest's console.
    #[must_use]
    pub fn log(&self) -> &[String] {
        match self {
            Self::Failed { log, .. } => log,
            Self::Start(error) => error.console_tail(),
            _ => &[],
        }
    }
}

/// A handle on one browser session, for any number of tasks at once.
#[derive(Debug)]
pub struct BrowserSession {
    records: Records,
    session_id: SandboxId,
    sandbox: Arc<Sandbox>,
    /// Variables of the browser, which only its creator knows; guards starts against each other.
    env_vars: Mutex<Option<BTreeMap<String, String>>>,
    /// What its pages are used with; guards actions against each other.
    hand: Mutex<Hand>,
}

impl BrowserSession {
    /// Creates a session and its sandbox; starts nothing. It ends with this handle, unless that
    /// lets go of it.
    ///
    /// # Errors
    ///
    /// When its name or its profile is taken, or its sandbox cannot be made. Nothing is left.
    pub async fn create(
        installation: Arc<Installation>,
        config: BrowserConfig,
        env_vars: BTreeMap<String, String>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, BrowserError> {
        let records = Records::open(&installation.data_dir)?;
        records.reap()?;
        let given = config.session_id.clone();
        let session_id = given.unwrap_or_else(random_session_id);
        if records.read(&session_id)?.is_some() {
            return Err(BrowserError::AlreadyExists { id: session_id });
        }
        let profile_id = config.profile_id.clone();
        let vm_id = profile_id
            .as_ref()
            .map_or_else(|| session_id.clone(), sandbox_of_profile);
        let expires_at = expiry(&config);
        let record = BrowserRecord::new(
            session_id.clone(),
            vm_id.clone(),
            config,
            expires_at,
            token(),
        );
        // Where the guest's archive goes has to be there before the guest ends.
        records.make_directory(&session_id)?;
        let spec = spec(&record, records.directory(&session_id));
        let sandbox = match Sandbox::create(installation, spec, progress).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                records.forget(&session_id);
                return Err(in_use(error, profile_id, vm_id, &records));
            }
        };
        sandbox.set_initial_env(env_vars.clone()).await;
        let session = Self {
            records,
            session_id,
            sandbox: Arc::new(sandbox),
            env_vars: Mutex::new(Some(env_vars)),
            hand: Mutex::default(),
        };
        match session.records.add(&record) {
            Ok(true) => Ok(session),
            outcome => {
                session.sandbox.delete().await?;
                outcome?;
                let id = session.session_id;
                Err(BrowserError::AlreadyExists { id })
            }
        }
    }

    /// Returns a handle on the session `session_id`, of this process or of another.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NotFound`], also for a session that has ended.
    pub fn open(
        installation: Arc<Installation>,
        session_id: SandboxId,
    ) -> Result<Self, BrowserError> {
        let records = Records::open(&installation.data_dir)?;
        records.reap()?;
        let not_found = |id| BrowserError::NotFound { id };
        let Some(record) = records.read(&session_id)? else {
            return Err(not_found(session_id));
        };
        let sandbox = match Sandbox::open(installation, record.vm_id) {
            Err(StoreError::NotFound { .. }) => return Err(not_found(session_id)),
            sandbox => sandbox?,
        };
        Ok(Self::of_sandbox(records, session_id, Arc::new(sandbox)))
    }

    /// Returns the same session on the handle `sandbox`, which another handle on it owns.
    #[must_use]
    pub fn with_sandbox(self, sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox, ..self }
    }

    fn of_sandbox(records: Records, session_id: SandboxId, sandbox: Arc<Sandbox>) -> Self {
        Self {
            records,
            session_id,
            sandbox,
            env_vars: Mutex::new(None),
            hand: Mutex::default(),
        }
    }

    /// Returns what is known of all sessions, by name.
    ///
    /// # Errors
    ///
    /// When the records cannot be read.
    pub async fn list(installation: &Arc<Installation>) -> Result<Vec<BrowserInfo>, BrowserError> {
        let records = Records::open(&installation.data_dir)?;
        records.reap()?;
        let mut sessions = Vec::new();
        for record in records.list()? {
            let Ok(sandbox) = Sandbox::open(installation.clone(), record.vm_id) else {
                // Ended between the two looks.
                continue;
            };
            let session = Self::of_sandbox(records.clone(), record.session_id, Arc::new(sandbox));
            match session.info().await {
                Err(BrowserError::NotFound { .. }) => {}
                info => sessions.push(info?),
            }
        }
        Ok(sessions)
    }

    /// Returns the session's name.
    #[must_use]
    pub const fn id(&self) -> &SandboxId {
        &self.session_id
    }

    /// Returns the session's sandbox.
    #[must_use]
    pub const fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }

    /// Returns where the session's finished downloads are copied to.
    #[must_use]
    pub fn downloads_dir(&self) -> PathBuf {
        self.records.directory(&self.session_id).join("downloads")
    }

    /// Returns what is known of the session.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NotFound`] when it has ended.
    pub async fn info(&self) -> Result<BrowserInfo, BrowserError> {
        let record = self.record()?;
        let sandbox = match self.sandbox.info() {
            Err(StoreError::NotFound { .. }) => None,
            info => Some(info?),
        };
        let launcher = if has_launcher(&record, sandbox.as_ref()) {
            self.launcher_report().await
        } else {
            Report::default()
        };
        let (status, reason) = status(&record, sandbox.as_ref(), launcher);
        Ok(BrowserInfo {
            status,
            reason,
            artifacts_dir: self.records.directory(&self.session_id),
            session_id: record.session_id,
            vm_id: record.vm_id,
            config: record.config,
            ports: record.ports,
            expires_at_unix_ms: record.expires_at_unix_ms,
            token: record.token,
        })
    }

    fn record(&self) -> Result<BrowserRecord, BrowserError> {
        let id = self.session_id.clone();
        self.records.read(&id)?.ok_or(BrowserError::NotFound { id })
    }

    /// Returns how the launcher says that the session is. A guest that does not say is taken to be
    /// busy.
    async fn launcher_report(&self) -> Report {
        let asked = tokio::time::timeout(STATUS_PATIENCE, launcher::report(&self.sandbox)).await;
        asked.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Boots the sandbox, starts the browser and waits until it takes commands. A session that is
    /// ready stays as it is. Guest and browser have `limit` each, or as long as they need.
    ///
    /// # Errors
    ///
    /// When the session has failed before, is another process's, or guest or browser do not come
    /// up. It is then in state `error`, or gone where its guest did not boot.
    pub async fn start(
        &self,
        progress: Arc<dyn Progress>,
        limit: Option<Duration>,
    ) -> Result<BrowserInfo, BrowserError> {
        let starting = self.env_vars.lock().await;
        let info = self.info().await?;
        let env_vars = match (info.status, &*starting) {
            (BrowserStatus::Ready, _) => return Ok(info),
            (BrowserStatus::Created, Some(env_vars)) => env_vars,
            (status, _) => {
                return Err(BrowserError::NotReady {
                    id: self.session_id.clone(),
                    status,
                    reason: info.reason,
                });
            }
        };
        if info.config.network_policy_id.is_some() {
            return Err(BrowserError::Reserved);
        }
        let mut record = self.record()?;
        if let Err(error) = self.bring_up(&mut record, env_vars, progress, limit).await {
            record.failure = Some(chain(&error));
            // One that was stopped meanwhile has no record any more.
            if self.records.read(&self.session_id)?.is_some() {
                self.records.write(&record)?;
            }
            return Err(error);
        }
        self.records.write(&record)?;
        self.info().await
    }

    async fn bring_up(
        &self,
        record: &mut BrowserRecord,
        env_vars: &BTreeMap<String, String>,
        progress: Arc<dyn Progress>,
        limit: Option<Duration>,
    ) -> Result<(), BrowserError> {
        const STEP: &str = "starting the browser";

        self.sandbox.start_within(progress.clone(), limit).await?;
        record.expires_at_unix_ms = expiry(&record.config);
        progress.started(STEP, None);
        launcher::start(&self.sandbox, record, env_vars).await?;
        let patience = limit.unwrap_or(launcher::READY_PATIENCE);
        let ready = tokio::time::timeout(patience, launcher::await_ready(&self.sandbox)).await;
        match ready {
            Ok(Ok(Readiness::Ready)) => {}
            Ok(Ok(Readiness::Stopped)) => {
                let id = self.session_id.clone();
                return Err(BrowserError::Stopped { id });
            }
            Ok(Ok(Readiness::Failed(reason))) => return Err(self.failed(reason).await),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {
                let seconds = patience.as_secs_f64();
                return Err(self
                    .failed(format!("it was not ready after {seconds} s"))
                    .await);
            }
        }
        record.ports = Some(self.forward(record).await?);
        progress.finished(STEP);
        Ok(())
    }

    /// Says why the browser did not come up.
    async fn failed(&self, reason: String) -> BrowserError {
        let is_running = self
            .sandbox
            .info()
            .is_ok_and(|info| info.state == SandboxState::Running);
        if !is_running {
            let id = self.session_id.clone();
            return BrowserError::Stopped { id };
        }
        let read = tokio::time::timeout(STATUS_PATIENCE, self.read_logs(FAILURE_LINES)).await;
        let log = read.ok().and_then(Result::ok).unwrap_or_default();
        BrowserError::Failed { reason, log }
    }

    /// Makes the browser reachable, for this user alone.
    async fn forward(&self, record: &BrowserRecord) -> Result<BrowserPorts, AccessError> {
        let to_owner = async |port| {
            let forward = self.sandbox.forward_to_owner(port, None).await?;
            Ok::<_, AccessError>(forward.host_port)
        };
        let is_live = launcher::is_live(record);
        Ok(BrowserPorts {
            cdp: to_owner(CDP_PORT).await?,
            viewer: match is_live {
                true => Some(to_owner(VIEWER_PORT).await?),
                false => None,
            },
            vnc: match is_live {
                true => Some(to_owner(VNC_PORT).await?),
                false => None,
            },
        })
    }

    /// Lets go of a session that runs: it goes on when this handle is dropped.
    ///
    /// # Errors
    ///
    /// When its supervisor cannot be told.
    pub async fn release(&self) -> Result<(), BrowserError> {
        Ok(self.sandbox.release().await?)
    }

    /// Ends the session: the browser writes its profile and the video is completed, what it leaves
    /// comes to the host, and its sandbox goes; the profile stays where it is a kept one.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NotFound`] when it has ended already, or its sandbox cannot be removed.
    pub async fn stop(&self) -> Result<(), BrowserError> {
        let record = self.record()?;
        if record.ports.is_some() {
            // The archive has them as well.
            if let Err(error) = self.downloads().await {
                tracing::debug!(error = %chain(&error), "downloads not copied");
            }
        }
        match self.sandbox.stop(STOP_GRACE).await {
            Ok(()) | Err(AccessError::Store(_)) => {}
            // The sandbox goes all the same.
            Err(error) => tracing::warn!(error = %chain(&error), "browser not ended in order"),
        }
        self.discard().await
    }

    /// Ends the session at once, in whatever state it is: the browser is killed, and what it
    /// leaves in the guest is lost.
    ///
    /// # Errors
    ///
    /// When its sandbox cannot be removed.
    pub async fn discard(&self) -> Result<(), BrowserError> {
        self.remove_sandbox().await?;
        self.records.remove(&self.session_id);
        Ok(())
    }

    /// Makes sure that the sandbox is gone, whatever it is doing.
    async fn remove_sandbox(&self) -> Result<(), AccessError> {
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        loop {
            match self.sandbox.delete().await {
                Ok(()) | Err(AccessError::Store(StoreError::NotFound { .. })) => return Ok(()),
                // Its supervisor holds the lock, for which was waited, and does not listen yet.
                Err(AccessError::Store(StoreError::Busy { .. })) if Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Copies the downloads that are finished to the host, and returns where all of them are.
    ///
    /// # Errors
    ///
    /// When the session does not run, or a file cannot be copied.
    pub async fn downloads(&self) -> Result<Vec<PathBuf>, BrowserError> {
        let record = self.record()?;
        let from = Path::new("/opt/smolvm-browser/downloads").join(self.session_id.as_str());
        let into = self.downloads_dir();
        let max_bytes = disk_bytes(&record);
        Ok(artifacts::copy_downloads(&self.sandbox, &from, &into, max_bytes).await?)
    }

    /// Packs what the session has left so far into one archive on the host, and returns where.
    ///
    /// # Errors
    ///
    /// When the session does not run, or the archive cannot be written.
    pub async fn collect_artifacts(&self) -> Result<PathBuf, BrowserError> {
        let record = self.record()?;
        let output = archive_in(&self.records.directory(&self.session_id));
        let pack = launcher::pack_command(&record);
        artifacts::collect(&self.sandbox, pack, &output, disk_bytes(&record)).await?;
        Ok(output)
    }

    /// Takes a picture of the page that was used last: what its window shows, or all of it.
    ///
    /// # Errors
    ///
    /// When the session does not run, or its browser does not draw.
    pub async fn screenshot(
        &self,
        is_full_page: bool,
        format: ImageFormat,
    ) -> Result<Vec<u8>, BrowserError> {
        Ok(screenshots::screenshot(&self.sandbox, is_full_page, format).await?)
    }

    /// Returns mouse and keyboard of the session.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NotFound`] when it has ended.
    pub fn computer(&self) -> Result<Computer<'_>, BrowserError> {
        let config = self.record()?.config;
        let viewport = Viewport {
            width: config.width,
            height: config.height,
        };
        Ok(Computer::new(&self.sandbox, &self.hand, viewport))
    }

    /// Returns the last `lines` lines of each log of the session's programs, made printable.
    ///
    /// # Errors
    ///
    /// When the session does not run.
    pub async fn logs(&self, lines: u32) -> Result<Vec<String>, BrowserError> {
        self.record()?;
        Ok(self.read_logs(lines).await?)
    }

    async fn read_logs(&self, lines: u32) -> Result<Vec<String>, ExecError> {
        let mut process = self.sandbox.exec(launcher::tail_command(lines)).await?;
        let mut tail = Tail::new(MAX_LOG_LINES);
        loop {
            match process.output.next().await? {
                Output::Stdout(bytes) | Output::Stderr(bytes) => tail.push(&bytes),
                Output::End(_) => return Ok(tail.lines()),
            }
        }
    }
}

/// Removes the records of sessions that have ended.
///
/// # Errors
///
/// When the records cannot be read.
pub fn reap_browsers(data_dir: &Path) -> Result<(), StoreError> {
    Records::open(data_dir)?.reap()
}

/// Returns the sandbox of a session.
fn spec(record: &BrowserRecord, directory: PathBuf) -> SandboxSpec {
    let config = &record.config;
    SandboxSpec {
        image: BROWSER_IMAGE.to_owned(),
        engine: config.engine,
        vcpus: config.vcpus,
        memory: config.memory,
        disk: config.disk,
        max_lifetime_ms: Some(lifetime_ms(config)),
        network: config.network.clone(),
        keeps_disk: config.profile_id.is_some(),
        at_end: Some(launcher::at_end(record, archive_in(&directory))),
        ..SandboxSpec::new(record.vm_id.clone(), Lifetime::Leased)
    }
}

fn archive_in(directory: &Path) -> PathBuf {
    directory.join("guest-artifacts.tar.gz")
}

fn lifetime_ms(config: &BrowserConfig) -> u64 {
    u64::from(config.timeout_minutes) * 60_000
}

fn expiry(config: &BrowserConfig) -> u64 {
    unix_time_ms().saturating_add(lifetime_ms(config))
}

fn disk_bytes(record: &BrowserRecord) -> u64 {
    u64::from(record.config.disk.get()) << 20
}

fn random_session_id() -> SandboxId {
    let name = SandboxId::random();
    format!("browser-{}", name.as_str().trim_start_matches("vm-"))
        .parse()
        .expect("a name with another beginning is legal, too")
}

/// Returns 128 random bits in hexadecimal digits.
fn token() -> String {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .expect("getrandom of 16 bytes neither blocks after boot nor fails (getrandom(2))");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says who has the profile, where that is why its sandbox could not be made.
fn in_use(
    error: CreateError,
    profile_id: Option<SandboxId>,
    vm_id: SandboxId,
    records: &Records,
) -> BrowserError {
    match (error, profile_id) {
        (CreateError::Store(StoreError::NameTaken { .. }), Some(profile_id)) => {
            let sessions = records.list().unwrap_or_default();
            let holder = sessions.into_iter().find(|record| record.vm_id == vm_id);
            BrowserError::ProfileInUse {
                profile_id,
                session: holder.map_or_else(|| vm_id.clone(), |record| record.session_id),
                vm_id,
            }
        }
        (error, _) => error.into(),
    }
}
