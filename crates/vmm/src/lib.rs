//! SmolVM's virtual machine monitor: the process that emulates one machine on KVM.
//!
//! ```text
//!   machine   one machine from its description to its end; its threads      start reading here
//!   boot      what the guest finds in memory when it starts
//!   devices   what its processors find at ports and registers
//!   memory    the guest's memory                                            `unsafe` lives here,
//!   kvm       everything that talks to /dev/kvm                             here
//!   sys       clocks and instructions of the host's processor               and here
//!   jail      what is left to a monitor that its guest has taken over
//!   probe     whether this host's KVM can be believed
//!   fuzzing   the parts that take what a guest or a file says, for fuzz targets to drive
//! ```
//!
//! The monitor is always a process of its own (`smolvm-vmm`), never linked into its user: a
//! guest, or a broken KVM, can take down this process and nothing else. Only its fuzz targets
//! link it. Inside the workspace it depends on [`smolvm_protocol`], and on `smolvm_jail`, which its
//! program enters first.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("smolvm-vmm runs on x86-64 Linux only");

mod boot;
mod devices;
pub mod fuzzing;
mod jail;
mod kvm;
pub mod machine;
mod memory;
pub mod probe;
mod sys;
