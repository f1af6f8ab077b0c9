//! What Python hands over, turned into the library's types; the library decides what is legal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;
use serde_bytes::ByteBuf;
use smolvm_sandbox::message::{Command, Exec, Limits};
use smolvm_sandbox::{CustomBoot, DiskMib, Lifetime, MemoryMib, SandboxId, SandboxSpec, VcpuCount};

use crate::failure::Failure;
use crate::installation::variable;

/// A sandbox as Python asks for it; absent values are the library's defaults.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct SpecArguments {
    vm_id: Option<String>,
    image: Option<String>,
    backend: Option<String>,
    vcpus: Option<u64>,
    memory: Option<u64>,
    disk: Option<u64>,
    labels: BTreeMap<String, String>,
    idle_timeout: Option<f64>,
    max_lifetime: Option<f64>,
    max_processes: Option<u32>,
    kernel_path: Option<PathBuf>,
    rootfs_path: Option<PathBuf>,
    initrd_path: Option<PathBuf>,
    extra_drives: Vec<PathBuf>,
    boot_args: Option<String>,
    is_shared: bool,
    keeps_disk: bool,
    /// Variables to set in the guest once it has booted.
    pub(crate) env_vars: BTreeMap<String, String>,
}

impl SpecArguments {
    /// Returns the legal specification.
    pub(crate) fn spec(&self) -> Result<SandboxSpec, Failure> {
        let (id, lifetime) = match &self.vm_id {
            Some(name) => (name.parse::<SandboxId>()?, Lifetime::Persistent),
            None => (SandboxId::random(), Lifetime::Leased),
        };
        let mut spec = SandboxSpec::new(id, lifetime);
        if let Some(image) = &self.image {
            spec.image.clone_from(image);
        }
        spec.engine = engine(self.backend.as_deref())?;
        if let Some(count) = self.vcpus {
            spec.vcpus = VcpuCount::try_from(count)?;
        }
        if let Some(mib) = self.memory {
            spec.memory = MemoryMib::try_from(mib)?;
        }
        if let Some(mib) = self.disk {
            spec.disk = DiskMib::try_from(mib)?;
        }
        spec.labels.clone_from(&self.labels);
        spec.idle_timeout_ms = milliseconds("idle_timeout", self.idle_timeout)?;
        spec.max_lifetime_ms = milliseconds("max_lifetime", self.max_lifetime)?;
        spec.max_processes = self.max_processes;
        spec.keeps_disk = self.keeps_disk;
        spec.custom = self.custom();
        Ok(spec)
    }

    fn custom(&self) -> Option<CustomBoot> {
        let custom = CustomBoot {
            kernel: self.kernel_path.clone(),
            root_image: self.rootfs_path.clone(),
            initramfs: self.initrd_path.clone(),
            extra_drives: self.extra_drives.clone(),
            boot_args: self.boot_args.clone(),
            is_shared: self.is_shared,
        };
        (custom != CustomBoot::default()).then_some(custom)
    }
}

/// Returns the engine a caller asks for, or the environment, or the default.
fn engine(name: Option<&str>) -> Result<smolvm_sandbox::EngineChoice, Failure> {
    let from_environment = variable("SMOLVM_BACKEND");
    let name = match (name, &from_environment) {
        (Some(name), _) => name,
        (None, Some(name)) => &name.to_string_lossy(),
        (None, None) => "auto",
    };
    // The names of other implementations' engines ask for hardware virtualisation, which is what
    // `auto` takes where the host has it.
    let name = match name {
        "firecracker" | "libkrun" | "kvm" => "auto",
        name => name,
    };
    Ok(name.parse()?)
}

/// Returns a duration in seconds as milliseconds; those of centuries are as good as none.
fn milliseconds(field: &str, seconds: Option<f64>) -> Result<Option<u64>, Failure> {
    seconds
        .map(
            |seconds| match std::time::Duration::try_from_secs_f64(seconds) {
                Ok(duration) if !duration.is_zero() => {
                    let milliseconds = duration.as_millis().max(1);
                    Ok(u64::try_from(milliseconds).unwrap_or(u64::MAX))
                }
                Err(_) if seconds > 0.0 && seconds.is_finite() => Ok(u64::MAX),
                _ => Err(Failure::argument(
                    field,
                    format!("{seconds} is not a number of seconds greater than 0"),
                )),
            },
        )
        .transpose()
}

/// A command's timeout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout {
    pub(crate) seconds: f64,
    milliseconds: u64,
}

impl Timeout {
    /// Takes Python's `int` or `float` of seconds.
    pub(crate) fn new(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyBool>() {
            return Err(PyTypeError::new_err(
                "timeout must be a number of seconds, not a bool",
            ));
        }
        let seconds = match value.extract::<f64>() {
            // An integer too large for a float.
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(value.py()) => {
                if value.lt(0)? {
                    -1.0
                } else {
                    f64::MAX
                }
            }
            seconds => seconds.map_err(|_| {
                PyTypeError::new_err("timeout must be a number of seconds: an int or a float")
            })?,
        };
        match milliseconds("timeout", Some(seconds)) {
            Ok(milliseconds) => Ok(Self {
                seconds,
                milliseconds: milliseconds.unwrap_or(u64::MAX),
            }),
            Err(failure) => Err(failure.into_py_err(value.py())),
        }
    }
}

/// Returns the request to run `command` by the guest's shell.
pub(crate) fn shell_command(command: &str, timeout: Timeout, shell: &str) -> Result<Exec, Failure> {
    if command.trim().is_empty() {
        return Err(Failure::argument("command", "it is empty"));
    }
    if command.contains('\0') {
        return Err(Failure::argument("command", "it contains a NUL character"));
    }
    let login = match shell {
        "login" => true,
        "raw" => false,
        _ => return Err(Failure::argument("shell", "use 'login' or 'raw'")),
    };
    Ok(Exec {
        command: Command::Shell {
            script: ByteBuf::from(command),
            login,
        },
        environment: Vec::new(),
        working_directory: None,
        user: None,
        stdin: false,
        terminal: None,
        timeout_ms: Some(timeout.milliseconds),
        limits: Limits::default(),
    })
}

/// Checks the name of a sandbox.
#[pyfunction]
pub(crate) fn check_vm_id(py: Python<'_>, vm_id: &str) -> PyResult<()> {
    match vm_id.parse::<SandboxId>() {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::argument("vm_id", error.to_string()).into_py_err(py)),
    }
}

/// Checks the sizes of a sandbox.
#[pyfunction]
#[pyo3(signature = (vcpus, memory, disk))]
pub(crate) fn check_vm_sizes(
    py: Python<'_>,
    vcpus: Option<u64>,
    memory: Option<u64>,
    disk: Option<u64>,
) -> PyResult<()> {
    let checks = [
        ("vcpu_count", vcpus.map(|n| VcpuCount::try_from(n).err())),
        ("mem_size_mib", memory.map(|n| MemoryMib::try_from(n).err())),
        ("disk_size_mib", disk.map(|n| DiskMib::try_from(n).err())),
    ];
    for (field, error) in checks {
        if let Some(Some(error)) = error {
            return Err(Failure::argument(field, error.to_string()).into_py_err(py));
        }
    }
    Ok(())
}

/// Checks the name of an environment variable.
#[pyfunction]
pub(crate) fn check_env_key(py: Python<'_>, key: &str) -> PyResult<()> {
    smolvm_sandbox::check_env_key(key).map_err(|error| Failure::from(error).into_py_err(py))
}

/// Returns the names of the images that sandboxes can be made of.
#[pyfunction]
pub(crate) fn known_images() -> Vec<&'static str> {
    smolvm_image::known_images()
}
