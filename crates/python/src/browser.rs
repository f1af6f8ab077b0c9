//! Browser sessions, as Python's two classes hold them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use smolvm_image::NoProgress;
use smolvm_sandbox::{
    AskedBrowser, BrowserConfig, BrowserInfo, BrowserSession as Library, BrowserStatus,
    ImageFormat, Installation, SandboxId,
};

use crate::arguments::{engine, sandbox_id};
use crate::command::patience;
use crate::computer::Computer;
use crate::core::Core;
use crate::failure::Failure;
use crate::installation::installation;
use crate::operation::Operation;
use crate::ownership;
use crate::unclaimed::{self, Claim};

/// A browser session as Python asks for it; absent values are the library's defaults.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct BrowserArguments {
    session_id: Option<String>,
    backend: Option<String>,
    browser: Option<String>,
    mode: Option<String>,
    profile_mode: Option<String>,
    profile_id: Option<String>,
    timeout_minutes: Option<u64>,
    viewport_width: Option<u64>,
    viewport_height: Option<u64>,
    viewport: Option<(u64, u64)>,
    record_video: bool,
    allow_downloads: bool,
    network_policy_id: Option<String>,
    env_vars: BTreeMap<String, String>,
    memory: Option<u64>,
    disk: Option<u64>,
    vcpus: Option<u64>,
    allowed_domains: Option<Vec<String>>,
}

impl BrowserArguments {
    fn config(&self) -> Result<BrowserConfig, Failure> {
        let asked = AskedBrowser {
            session_id: self.session_id.clone(),
            engine: engine(self.backend.as_deref())?,
            browser: self.browser.clone(),
            mode: self.mode.clone(),
            profile_mode: self.profile_mode.clone(),
            profile_id: self.profile_id.clone(),
            timeout_minutes: self.timeout_minutes,
            viewport_width: self.viewport_width,
            viewport_height: self.viewport_height,
            viewport: self.viewport,
            record_video: self.record_video,
            denies_downloads: !self.allow_downloads,
            network_policy_id: self.network_policy_id.clone(),
            env_vars: self.env_vars.clone(),
            memory_mib: self.memory,
            disk_mib: self.disk,
            vcpus: self.vcpus,
            allowed_domains: self.allowed_domains.clone(),
        };
        Ok(BrowserConfig::new(&asked)?)
    }
}

/// Checks a browser session, and returns width and height of its viewport.
#[pyfunction]
pub(crate) fn check_browser(py: Python<'_>, asked: BrowserArguments) -> PyResult<(u32, u32)> {
    match asked.config() {
        Ok(config) => Ok((config.width, config.height)),
        Err(failure) => Err(failure.into_py_err(py)),
    }
}

/// What Python's handles on one browser session share.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct BrowserSession {
    core: Arc<Core>,
    library: Arc<Library>,
}

/// Creates a browser session.
#[pyfunction]
pub(crate) fn create_browser(
    py: Python<'_>,
    asked: BrowserArguments,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
) -> PyResult<Operation> {
    let prepared = || -> Result<_, Failure> {
        let installation = Arc::new(installation(data_dir.as_deref(), &bundled)?);
        Ok((asked.config()?, installation))
    };
    let (config, installation) = prepared().map_err(|failure| failure.into_py_err(py))?;
    Ok(unclaimed::create(async move {
        let at = installation.clone();
        let library = Library::create(at, config, asked.env_vars, Arc::new(NoProgress)).await?;
        Ok(session(installation, library))
    }))
}

/// Returns the existing browser session `session_id`.
#[pyfunction]
pub(crate) fn open_browser(
    py: Python<'_>,
    session_id: &Bound<'_, PyAny>,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
) -> PyResult<BrowserSession> {
    let opened = || -> Result<BrowserSession, Failure> {
        let installation = Arc::new(installation(data_dir.as_deref(), &bundled)?);
        let library = Library::open(installation.clone(), sandbox_id(session_id)?)?;
        let key = (
            installation.data_dir.clone(),
            library.sandbox().id().clone(),
        );
        // Where this process owns the session, there is one handle on its sandbox.
        let library = match ownership::find(&key) {
            Some(core) => library.with_sandbox(core.access().clone()),
            None => library,
        };
        Ok(session(installation, library))
    };
    opened().map_err(|failure| failure.into_py_err(py))
}

/// Returns what is known of every browser session.
#[pyfunction]
pub(crate) fn list_browsers(
    py: Python<'_>,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
) -> PyResult<Operation> {
    let installation =
        installation(data_dir.as_deref(), &bundled).map_err(|failure| failure.into_py_err(py))?;
    let work = async move { Library::list(&Arc::new(installation)).await };
    Ok(Operation::new(work, |py, sessions| {
        let sessions: PyResult<Vec<_>> = sessions.iter().map(|known| info(py, known)).collect();
        sessions?.into_py_any(py)
    }))
}

fn session(installation: Arc<Installation>, library: Library) -> BrowserSession {
    BrowserSession {
        core: Arc::new(Core::new(installation, library.sandbox().clone())),
        library: Arc::new(library),
    }
}

impl Claim for BrowserSession {
    fn claim(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        ownership::add(&self.core);
        self.into_py_any(py)
    }

    async fn discard(self) -> Result<(), Failure> {
        Ok(self.library.discard().await?)
    }
}

#[pymethods]
impl BrowserSession {
    #[getter]
    fn session_id(&self) -> &str {
        self.library.id().as_str()
    }

    #[getter]
    fn vm_id(&self) -> &str {
        self.library.sandbox().id().as_str()
    }

    #[getter]
    fn data_dir(&self) -> PathBuf {
        self.core.installation().data_dir.clone()
    }

    fn info(&self) -> Operation {
        let library = self.library.clone();
        Operation::new(async move { library.info().await }, |py, known| {
            info(py, &known)?.into_py_any(py)
        })
    }

    fn start(&self, boot_timeout: Option<Bound<'_, PyAny>>) -> PyResult<Operation> {
        let limit = boot_timeout.map(|limit| patience("boot_timeout", &limit));
        let limit = limit.transpose()?.map(|(_, duration)| duration);
        let library = self.library.clone();
        let work = async move { library.start(Arc::new(NoProgress), limit).await };
        Ok(Operation::new(work, |py, known| {
            info(py, &known)?.into_py_any(py)
        }))
    }

    fn stop(&self) -> Operation {
        let (library, core) = (self.library.clone(), self.core.clone());
        Operation::new(async move { library.stop().await }, move |py, ()| {
            ownership::remove(&core);
            Ok(py.None())
        })
    }

    fn close(&self) -> Operation {
        let (core, closed) = (self.core.clone(), self.core.clone());
        Operation::new(async move { core.close().await }, move |py, is_let_go| {
            if is_let_go {
                ownership::remove(&closed);
            }
            Ok(py.None())
        })
    }

    fn downloads(&self) -> Operation {
        let library = self.library.clone();
        Operation::new(async move { library.downloads().await }, |py, paths| {
            paths.into_py_any(py)
        })
    }

    fn collect_artifacts(&self) -> Operation {
        let library = self.library.clone();
        let work = async move { library.collect_artifacts().await };
        Operation::new(work, |py, path| path.into_py_any(py))
    }

    /// Takes a picture of the page, encoded as the end of the file's name says.
    fn screenshot(&self, path: PathBuf, full_page: bool) -> Operation {
        let library = self.library.clone();
        let format = ImageFormat::of_path(&path);
        let work = async move { library.screenshot(full_page, format).await };
        Operation::new(work, |py, image| {
            Ok(PyBytes::new(py, &image).into_any().unbind())
        })
    }

    fn computer(&self) -> Computer {
        Computer::new(self.library.clone())
    }

    fn logs(&self, tail: u32) -> Operation {
        let library = self.library.clone();
        Operation::new(async move { library.logs(tail).await }, |py, lines| {
            lines.join("\n").into_py_any(py)
        })
    }
}

fn info<'py>(py: Python<'py>, known: &BrowserInfo) -> PyResult<Bound<'py, PyDict>> {
    let text = |id: &SandboxId| id.to_string();
    let info = PyDict::new(py);
    info.set_item("session_id", text(&known.session_id))?;
    info.set_item("vm_id", text(&known.vm_id))?;
    info.set_item("status", known.status.as_str())?;
    info.set_item("reason", &known.reason)?;
    // What does not run is reached nowhere.
    let is_ready = known.status == BrowserStatus::Ready;
    let url = |url: Option<String>| url.filter(|_| is_ready);
    info.set_item("cdp_url", url(known.cdp_url()))?;
    info.set_item("viewer_url", url(known.viewer_url()))?;
    info.set_item("display_url", url(known.display_url()))?;
    let port = known.ports.filter(|_| is_ready).map(|ports| ports.cdp);
    info.set_item("debug_port", port)?;
    info.set_item("mode", known.config.mode.as_str())?;
    info.set_item("profile_id", known.config.profile_id.as_ref().map(text))?;
    info.set_item("timeout_minutes", known.config.timeout_minutes)?;
    info.set_item("viewport", (known.config.width, known.config.height))?;
    info.set_item("record_video", known.config.record_video)?;
    info.set_item("allow_downloads", known.config.allow_downloads)?;
    info.set_item("memory", known.config.memory.get())?;
    info.set_item("disk", known.config.disk.get())?;
    info.set_item("vcpus", known.config.vcpus.get())?;
    info.set_item("expires_at_unix_ms", known.expires_at_unix_ms)?;
    info.set_item("artifacts_dir", &known.artifacts_dir)?;
    Ok(info)
}
