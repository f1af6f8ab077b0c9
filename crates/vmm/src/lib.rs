//! SmolVM's virtual machine monitor: the process that emulates one machine on KVM.
//!
//! Today it holds the first thing a host is asked, whether its KVM can be believed:
//!
//! ```text
//!   probe     what to ask, the time limit, and the verdict      start reading here
//!   kvm       everything that talks to /dev/kvm                 `unsafe` lives here
//!   sys       clocks and instructions of the host's processor   and here
//! ```
//!
//! The monitor is always a process of its own (`smolvm-vmm`), never linked into its user: a
//! guest, or a broken KVM, can take down this process and nothing else. Its only dependency
//! inside the workspace is [`smolvm_protocol`].

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("smolvm-vmm runs on x86-64 Linux only");

mod kvm;
pub mod probe;
mod sys;
