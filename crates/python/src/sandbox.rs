//! `Sandbox`: what every Python handle on one sandbox shares.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::IntoPyObjectExt as _;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use smolvm_image::NoProgress;
use smolvm_sandbox::control::Forward;
use smolvm_sandbox::{Installation, Lifetime, Sandbox as Library, SandboxInfo, Store};
use tokio::sync::Mutex as AsyncMutex;

use crate::arguments::{SpecArguments, sandbox_id};
use crate::command::{CommandArguments, Timeout, patience, variables};
use crate::core::Core;
use crate::failure::Failure;
use crate::installation::installation;
use crate::operation::Operation;
use crate::unclaimed::{self, Claim};
use crate::{files, network, ownership, process, run};

/// What every Python handle on one sandbox shares.
#[pyclass(frozen, module = "smolvm._native")]
pub(crate) struct Sandbox {
    core: Arc<Core>,
}

impl Sandbox {
    pub(crate) const fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

/// Creates a sandbox.
#[pyfunction]
pub(crate) fn create(
    py: Python<'_>,
    spec: SpecArguments,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
) -> PyResult<Operation> {
    let prepared = || -> Result<_, Failure> {
        let installation = Arc::new(installation(data_dir.as_deref(), &bundled)?);
        Ok((spec.spec()?, spec.secrets()?, installation))
    };
    let (sandbox_spec, secrets, installation) =
        prepared().map_err(|failure| failure.into_py_err(py))?;
    let is_leased = sandbox_spec.lifetime == Lifetime::Leased;
    Ok(unclaimed::create(async move {
        reap_once(installation.clone()).await?;
        let (at, progress) = (installation.clone(), Arc::new(NoProgress));
        let library = Library::create_with_secrets(at, sandbox_spec, secrets, progress).await?;
        library.set_initial_env(spec.env_vars).await;
        let core = Arc::new(Core::new(installation, Arc::new(library)));
        Ok(New { core, is_leased })
    }))
}

/// A sandbox that has just been created.
struct New {
    core: Arc<Core>,
    is_leased: bool,
}

impl Claim for New {
    fn claim(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.is_leased {
            ownership::add(&self.core);
        }
        Sandbox { core: self.core }.into_py_any(py)
    }

    async fn discard(self) -> Result<(), Failure> {
        self.core.delete().await
    }
}

/// Returns the existing sandbox `vm_id`.
#[pyfunction]
pub(crate) fn open(
    py: Python<'_>,
    vm_id: &Bound<'_, PyAny>,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
) -> PyResult<Sandbox> {
    let opened = || -> Result<Arc<Core>, Failure> {
        let installation = installation(data_dir.as_deref(), &bundled)?;
        let key = (installation.data_dir.clone(), sandbox_id(vm_id)?);
        if let Some(core) = ownership::find(&key) {
            return Ok(core);
        }
        let installation = Arc::new(installation);
        let library = Library::open(installation.clone(), key.1)?;
        Ok(Arc::new(Core::new(installation, Arc::new(library))))
    };
    let core = opened().map_err(|failure| failure.into_py_err(py))?;
    Ok(Sandbox { core })
}

/// Returns what is known of every sandbox that has all of `labels`.
#[pyfunction]
pub(crate) fn list(
    py: Python<'_>,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
    labels: BTreeMap<String, String>,
) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let list = || -> Result<Vec<SandboxInfo>, Failure> {
        let store = Store::open(&installation(data_dir.as_deref(), &bundled)?.data_dir)?;
        store.reap()?;
        let mut sandboxes = store.list()?;
        sandboxes.retain(|known| {
            let has = |(key, value)| known.spec.labels.get(key) == Some(value);
            labels.iter().all(has)
        });
        Ok(sandboxes)
    };
    let sandboxes = py.detach(list).map_err(|failure| failure.into_py_err(py))?;
    sandboxes
        .iter()
        .map(|info| info_dict(py, info, None))
        .collect()
}

/// Removes what dead processes have left, and returns the names of the sandboxes it touched.
#[pyfunction]
pub(crate) fn reap(
    py: Python<'_>,
    data_dir: Option<PathBuf>,
    bundled: PathBuf,
) -> PyResult<Vec<String>> {
    let reap = || -> Result<Vec<String>, Failure> {
        let store = Store::open(&installation(data_dir.as_deref(), &bundled)?.data_dir)?;
        let reaped = store.reap()?;
        Ok([reaped.removed, reaped.failed].concat())
    };
    py.detach(reap).map_err(|failure| failure.into_py_err(py))
}

/// Removes what dead processes have left in a data directory, the first time this one uses it.
async fn reap_once(installation: Arc<Installation>) -> Result<(), Failure> {
    static REAPED: AsyncMutex<Option<HashSet<PathBuf>>> = AsyncMutex::const_new(None);

    let mut reaped = REAPED.lock().await;
    if reaped
        .get_or_insert_default()
        .insert(installation.data_dir.clone())
    {
        let reap = move || Store::open(&installation.data_dir)?.reap();
        tokio::task::spawn_blocking(reap)
            .await
            .expect("reaping does not panic and is never cancelled")?;
    }
    Ok(())
}

fn info_dict<'py>(
    py: Python<'py>,
    info: &SandboxInfo,
    pid: Option<u32>,
) -> PyResult<Bound<'py, PyDict>> {
    let seconds = |ms: Option<u64>| ms.map(|ms| Duration::from_millis(ms).as_secs_f64());
    let known = PyDict::new(py);
    known.set_item("vm_id", info.spec.id.as_str())?;
    known.set_item("status", info.state.as_str())?;
    known.set_item("reason", &info.reason)?;
    known.set_item("image", &info.spec.image)?;
    known.set_item("engine", &info.engine)?;
    known.set_item("backend", info.spec.engine.as_str())?;
    known.set_item("vcpus", info.spec.vcpus.get())?;
    known.set_item("memory", info.spec.memory.get())?;
    known.set_item("disk", info.spec.disk.get())?;
    known.set_item("is_named", info.spec.lifetime == Lifetime::Persistent)?;
    known.set_item("labels", &info.spec.labels)?;
    known.set_item("idle_timeout", seconds(info.spec.idle_timeout_ms))?;
    known.set_item("max_lifetime", seconds(info.spec.max_lifetime_ms))?;
    known.set_item("max_processes", info.spec.max_processes)?;
    known.set_item("cold", info.spec.boots_cold)?;
    let forwards = info.spec.port_forwards.as_slice().iter();
    let ports = forwards.map(|forward| (forward.host_port, forward.guest_port));
    known.set_item("port_forwards", ports.collect::<Vec<_>>())?;
    known.set_item("network", network::parts(&info.spec.network))?;
    known.set_item("networks", network::network_names(&info.spec.networks))?;
    known.set_item("network_rate_mbps", info.spec.network_rate_mbps)?;
    known.set_item("http_rules", &info.spec.http_rules)?;
    known.set_item("addresses", network::addresses(py, info)?)?;
    known.set_item("pid", pid)?;
    known.set_item("disk_used_bytes", info.disk_used_bytes)?;
    known.set_item("created_unix_ms", info.created_unix_ms)?;
    known.set_item("directory", info.directory.as_os_str())?;
    Ok(known)
}

#[pymethods]
impl Sandbox {
    #[getter]
    fn vm_id(&self) -> &str {
        self.core.access().id().as_str()
    }

    #[getter]
    fn data_dir(&self) -> PathBuf {
        self.core.installation().data_dir.clone()
    }

    /// Returns what is known of it, without asking it anything.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let known = py.detach(|| self.core.access().info());
        let known = known.map_err(|error| Failure::from(error).into_py_err(py))?;
        info_dict(py, &known, None)
    }

    /// Returns what is known of it, with the process ID of the VMM while there is one.
    fn full_info(&self) -> Operation {
        let core = self.core.clone();
        Operation::new(async move { core.full_info().await }, |py, (known, pid)| {
            info_dict(py, &known, pid)?.into_py_any(py)
        })
    }

    fn start(&self, boot_timeout: Option<Bound<'_, PyAny>>) -> PyResult<Operation> {
        let limit = boot_timeout.map(|limit| patience("boot_timeout", &limit));
        let limit = limit.transpose()?;
        let core = self.core.clone();
        Ok(Operation::silent(async move { core.start(limit).await }))
    }

    fn stop(&self, timeout: &Bound<'_, PyAny>) -> PyResult<Operation> {
        let (_, grace) = patience("timeout", timeout)?;
        let core = self.core.clone();
        Ok(Operation::silent(async move { core.stop(grace).await }))
    }

    fn pause(&self) -> Operation {
        let core = self.core.clone();
        Operation::silent(async move { Ok::<_, Failure>(core.access().pause().await?) })
    }

    fn resume(&self) -> Operation {
        let core = self.core.clone();
        Operation::silent(async move { Ok::<_, Failure>(core.access().resume().await?) })
    }

    /// Exposes a port of the guest; returns the host's port.
    fn forward(&self, guest_port: u16, host_port: Option<u16>) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            Ok::<_, Failure>(core.access().forward(guest_port, host_port).await?)
        };
        Operation::new(work, |py, forward| forward.host_port.into_py_any(py))
    }

    fn unforward(&self, host_port: u16, guest_port: u16) -> Operation {
        let core = self.core.clone();
        let forward = Forward {
            host_port,
            guest_port,
        };
        Operation::silent(async move { Ok::<_, Failure>(core.access().unforward(forward).await?) })
    }

    fn close(&self) -> Operation {
        let core = self.core.clone();
        let closed = self.core.clone();
        Operation::new(async move { core.close().await }, move |py, is_let_go| {
            if is_let_go {
                ownership::remove(&closed);
            }
            Ok(py.None())
        })
    }

    fn delete(&self) -> Operation {
        let core = self.core.clone();
        let deleted = self.core.clone();
        Operation::new(async move { core.delete().await }, move |py, ()| {
            ownership::remove(&deleted);
            Ok(py.None())
        })
    }

    fn run(&self, py: Python<'_>, command: CommandArguments<'_>) -> PyResult<Operation> {
        let timeout = command.timeout()?.ok_or_else(Timeout::missing)?;
        let work = run::run(self.core.clone(), command.exec(py)?, timeout);
        Ok(Operation::new(work, |py, finished| {
            run::result(py, &finished)
        }))
    }

    /// Starts a command.
    fn exec(
        &self,
        py: Python<'_>,
        command: CommandArguments<'_>,
        is_text: bool,
    ) -> PyResult<Operation> {
        let work = process::start(self.core.clone(), command.exec(py)?, is_text);
        Ok(Operation::new(work, |py, started| started.into_py_any(py)))
    }

    fn set_env(&self, env_vars: &Bound<'_, PyAny>, merge: bool) -> PyResult<Operation> {
        let variables = variables("env_vars", env_vars)?;
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            Ok::<_, Failure>(core.access().set_env(&variables, merge).await?)
        };
        Ok(Operation::new(work, |py, names| names.into_py_any(py)))
    }

    fn unset_env(&self, names: Vec<String>) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            Ok::<_, Failure>(core.access().unset_env(&names).await?)
        };
        Operation::new(work, |py, removed| removed.into_py_any(py))
    }

    fn list_env(&self) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            Ok::<_, Failure>(core.access().env().await?)
        };
        Operation::new(work, |py, variables| variables.into_py_any(py))
    }

    fn read_file(&self, path: PathBuf, max_bytes: usize) -> Operation {
        let work = files::read(self.core.clone(), path, max_bytes);
        Operation::new(work, |py, content| {
            Ok(PyBytes::new(py, &content).into_any().unbind())
        })
    }

    fn write_file(&self, path: PathBuf, content: Vec<u8>, mode: u32, parents: bool) -> Operation {
        Operation::silent(files::write(
            self.core.clone(),
            path,
            content,
            mode,
            parents,
        ))
    }

    fn upload_file(&self, local: PathBuf, remote: PathBuf, parents: bool) -> Operation {
        let work = files::upload_file(self.core.clone(), local, remote, parents);
        Operation::new(work, |py, copied| copied.into_py_any(py))
    }

    fn download_file(&self, remote: PathBuf, local: PathBuf) -> Operation {
        let work = files::download_file(self.core.clone(), remote, local);
        Operation::new(work, |py, copied| copied.into_py_any(py))
    }

    fn copy_in(&self, local: PathBuf, remote: PathBuf) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            Ok::<_, Failure>(core.access().copy_in(&local, &remote).await?)
        };
        Operation::new(work, |py, copied| copied.into_py_any(py))
    }

    fn copy_out(&self, remote: PathBuf, local: PathBuf) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            Ok::<_, Failure>(core.access().copy_out(&remote, &local).await?)
        };
        Operation::new(work, |py, copied| copied.into_py_any(py))
    }

    fn stat(&self, path: PathBuf, follow: bool) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            let path = path.as_os_str().as_bytes();
            Ok::<_, Failure>(core.access().stat(path, follow).await?)
        };
        Operation::new(work, |py, found| {
            files::attributes(py, None, &found)?.into_py_any(py)
        })
    }

    fn exists(&self, path: PathBuf) -> Operation {
        let work = files::exists(self.core.clone(), path);
        Operation::new(work, |py, does| does.into_py_any(py))
    }

    fn list_directory(&self, path: PathBuf) -> Operation {
        let core = self.core.clone();
        let work = async move {
            core.ensure_started().await?;
            let path = path.as_os_str().as_bytes();
            Ok::<_, Failure>(core.access().list_directory(path).await?)
        };
        Operation::new(work, |py, entries| {
            let entries: PyResult<Vec<_>> = entries
                .iter()
                .map(|entry| files::attributes(py, Some(&entry.name), &entry.attributes))
                .collect();
            entries?.into_py_any(py)
        })
    }

    fn make_directory(&self, path: PathBuf, mode: u32, parents: bool) -> Operation {
        let core = self.core.clone();
        Operation::silent(async move {
            core.ensure_started().await?;
            let path = path.as_os_str().as_bytes();
            Ok::<_, Failure>(core.access().make_directory(path, mode, parents).await?)
        })
    }

    fn remove_file(&self, path: PathBuf, recursive: bool) -> Operation {
        let core = self.core.clone();
        Operation::silent(async move {
            core.ensure_started().await?;
            let path = path.as_os_str().as_bytes();
            Ok::<_, Failure>(core.access().remove_file(path, recursive).await?)
        })
    }

    fn move_file(&self, source: PathBuf, destination: PathBuf, replace: bool) -> Operation {
        let core = self.core.clone();
        Operation::silent(async move {
            core.ensure_started().await?;
            let source = source.as_os_str().as_bytes();
            let destination = destination.as_os_str().as_bytes();
            let moved = core.access().move_file(source, destination, replace);
            Ok::<_, Failure>(moved.await?)
        })
    }
}
