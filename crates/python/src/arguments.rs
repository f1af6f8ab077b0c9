//! What Python hands over, turned into the library's types; the library decides what is legal.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pyo3::prelude::*;
use smolvm_sandbox::{
    AskedForward, CustomBoot, DiskMib, Lifetime, MemoryMib, PortForwards, SandboxId, SandboxSpec,
    SecretSpec, SpecError, VcpuCount,
};

use crate::failure::Failure;
use crate::installation::variable;
use crate::network::{PolicyArgument, networks, policy};
use crate::secrets::{SecretArgument, secret};

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
    cold: bool,
    kernel_path: Option<PathBuf>,
    rootfs_path: Option<PathBuf>,
    initrd_path: Option<PathBuf>,
    extra_drives: Vec<PathBuf>,
    boot_args: Option<String>,
    is_shared: bool,
    keeps_disk: bool,
    port_forwards: Vec<ForwardArgument>,
    network: Option<PolicyArgument>,
    networks: Vec<String>,
    network_rate_mbps: Option<u32>,
    secrets: Vec<SecretArgument>,
    http_rules: Vec<String>,
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
        spec.boots_cold = self.cold;
        spec.keeps_disk = self.keeps_disk;
        spec.port_forwards = port_forwards(&self.port_forwards)?;
        spec.custom = self.custom();
        if let Some(asked) = &self.network {
            spec.network = policy("network", asked)?;
        }
        spec.networks = networks("networks", &self.networks)?;
        spec.network_rate_mbps = self.network_rate_mbps;
        spec.http_rules.clone_from(&self.http_rules);
        Ok(spec)
    }

    /// Returns the secrets, with their values.
    pub(crate) fn secrets(&self) -> Result<Vec<SecretSpec>, Failure> {
        let secrets = self.secrets.iter();
        secrets
            .map(|asked| secret(&format!("secrets.{}", asked.0), asked))
            .collect()
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

/// A port to expose as Python asks for it: the host's address and port, and the guest's port.
type ForwardArgument = (String, u64, u64);

/// Returns the ports to expose, when all of them can be.
fn port_forwards(ports: &[ForwardArgument]) -> Result<PortForwards, Failure> {
    let asked = ports.iter().cloned();
    let asked = asked.map(|(host_address, host_port, guest_port)| AskedForward {
        host_address,
        host_port,
        guest_port,
    });
    let checked = PortForwards::new(&asked.collect::<Vec<_>>());
    checked.map_err(|error| {
        let field = match error.place() {
            Some((index, field)) => format!("port_forwards.{index}.{field}"),
            None => "port_forwards".to_owned(),
        };
        Failure::argument(&field, error.to_string())
    })
}

/// Returns the engine a caller asks for, or the environment, or the default.
pub(crate) fn engine(name: Option<&str>) -> Result<smolvm_sandbox::EngineChoice, Failure> {
    let from_environment = variable("SMOLVM_BACKEND");
    let name = match (name, &from_environment) {
        (Some(name), _) => name,
        (None, Some(name)) => &name.to_string_lossy(),
        (None, None) => "auto",
    };
    // The names of other implementations' engines ask for hardware virtualisation, which is what
    // `auto` takes where the host has it.
    let name = match name {
        "firecracker" | "libkrun" => "auto",
        name => name,
    };
    Ok(name.parse()?)
}

/// Returns a duration in seconds as milliseconds; those of centuries are as good as none.
pub(crate) fn milliseconds(field: &str, seconds: Option<f64>) -> Result<Option<u64>, Failure> {
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

/// Checks the name of a sandbox.
#[pyfunction]
pub(crate) fn check_vm_id(py: Python<'_>, vm_id: &Bound<'_, PyAny>) -> PyResult<()> {
    match sandbox_id(vm_id) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.into_py_err(py)),
    }
}

/// Takes the name of a sandbox.
pub(crate) fn sandbox_id(vm_id: &Bound<'_, PyAny>) -> Result<SandboxId, Failure> {
    let illegal = |message: String| Failure::argument("vm_id", message);
    let name: String = vm_id
        .extract()
        .map_err(|_| illegal(format!("{vm_id:?} is not a string")))?;
    name.parse()
        .map_err(|error: SpecError| illegal(error.to_string()))
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

/// Checks ports to expose.
#[pyfunction]
pub(crate) fn check_port_forwards(py: Python<'_>, ports: Vec<ForwardArgument>) -> PyResult<()> {
    let checked = port_forwards(&ports).map(|_| ());
    checked.map_err(|failure| failure.into_py_err(py))
}

/// Checks how long a sandbox may idle and live, in seconds.
#[pyfunction]
#[pyo3(signature = (idle_timeout, max_lifetime))]
pub(crate) fn check_vm_times(
    py: Python<'_>,
    idle_timeout: Option<f64>,
    max_lifetime: Option<f64>,
) -> PyResult<()> {
    let checked = milliseconds("idle_timeout", idle_timeout)
        .and_then(|_| milliseconds("max_lifetime", max_lifetime));
    checked
        .map(|_| ())
        .map_err(|failure| failure.into_py_err(py))
}

/// Checks the name of an engine.
#[pyfunction]
pub(crate) fn check_backend(py: Python<'_>, backend: &str) -> PyResult<()> {
    match engine(Some(backend)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::argument("backend", error.to_string()).into_py_err(py)),
    }
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
