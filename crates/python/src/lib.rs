//! `smolvm._native`: the sandbox library as the Python package calls it. Private to that package.
//!
//! ```text
//!   smolvm (Python)  ->  [`sandbox::Sandbox`].run(...)  ->  [`operation::Operation`]
//!                                                             .wait()       blocks, without the GIL
//!                                                             __await__()   an asyncio future
//! ```
//!
//! There is one implementation of everything, and it is asynchronous: a method makes an
//! [`operation::Operation`], and the caller chooses how to wait for it. [`runtime`] owns the
//! threads behind it, [`ownership`] what ends with this process, [`unclaimed`] what is deleted when
//! nobody wants it any more, [`failure`] the one table from
//! errors to Python classes, [`installation`] where the programs and files are.

#![forbid(unsafe_code)]

mod arguments;
mod browser;
mod command;
mod computer;
mod core;
mod failure;
mod files;
mod host;
mod images;
mod installation;
mod jobs;
mod network;
mod operation;
mod ownership;
mod process;
mod run;
mod runtime;
mod sandbox;
mod secrets;
mod unclaimed;

use pyo3::prelude::*;

/// The extension module.
#[pymodule(gil_used = true)]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::arguments::{
        check_backend, check_env_key, check_port_forwards, check_vm_id, check_vm_sizes,
        check_vm_times, known_images,
    };
    #[pymodule_export]
    use crate::browser::{
        BrowserSession, check_browser, create_browser, list_browsers, open_browser,
    };
    #[pymodule_export]
    use crate::computer::Computer;
    #[pymodule_export]
    use crate::host::{host_report, image_files};
    #[pymodule_export]
    use crate::images::{build_image, ensure_key_pair};
    #[pymodule_export]
    use crate::jobs::{AttachedJob, attach_job, list_jobs, remove_job, start_job, wait_job};
    #[pymodule_export]
    use crate::network::{
        NetworkLog, change_network, check_network, check_networks, internet_policy, network_log,
        network_policy, policy_of_text,
    };
    #[pymodule_export]
    use crate::operation::Operation;
    #[pymodule_export]
    use crate::ownership::{after_fork, at_exit};
    #[pymodule_export]
    use crate::process::Process;
    #[pymodule_export]
    use crate::sandbox::{Sandbox, create, list, open, reap};
    #[pymodule_export]
    use crate::secrets::{check_http_rules, check_secret};
    #[pymodule_export]
    use crate::unclaimed::Created;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
