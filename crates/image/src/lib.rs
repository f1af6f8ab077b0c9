//! Everything a guest boots from, prepared on the host and kept in one cache.
//!
//! ```text
//!  apt-get download ──> kernel package ──> [`kernel`]      vmlinux + modules ──┐
//!                  └──> its source ── make vmlinux ──> [`build_kernel`]        ┤
//!                                          agent binary ───────────────────────┴─> [`initramfs`]
//!  mmdebstrap ──tar──> cleaned tar ──────> [`root_image`]  read-only squashfs
//!  mkfs.ext4 ────────────────────────────> [`overlay_template`], copied by [`copy_sparse`]
//! ```
//!
//! Every artefact lives in a [`Cache`] the caller names. A function of this crate returns what is
//! prepared already, or prepares it: at most one process does so at a time, what is published is
//! complete, and nothing else is ever visible. The `prepared_…` functions only look.
//!
//! Nothing here reads the environment or needs root, and nothing is installed on the host. Calls
//! block the calling thread; [`Progress`] hears what they are doing.
//!
//! Modules: `cache` (and `cache::manifest`) owns the directory; `command` runs host programs;
//! `kernel`, `initramfs`, `root_image` and `overlay` each make one kind of artefact; `template`
//! keeps machines that somebody else records.

#![forbid(unsafe_code)]

mod cache;
mod command;
mod digest;
mod ext4;
mod host;
mod initramfs;
mod kernel;
mod overlay;
mod progress;
mod root_image;
mod sparse;
mod ssh_image;
mod template;

pub use cache::{ArtefactKind, Cache, CacheError, Corruption, ManifestError, VerifyReport};
pub use command::CommandError;
pub use digest::{Digest, DigestParseError};
pub use host::{HostProgram, host_programs};
pub use initramfs::{Initramfs, InitramfsError, check_agent, initramfs, join_initramfs};
pub use kernel::{
    BootImageError, ElfKernelError, Kernel, KernelChoice, KernelChoiceError, KernelError,
    KernelFlavour, ModuleError, PreparedKernel, build_kernel, foreign_kernel, kernel,
    kernel_choice, kernel_from_package, kernels, prepared_kernel, update_kernel, use_kernel,
};
pub use overlay::{MIN_OVERLAY_MIB, OverlayError, overlay_template};
pub use progress::{NoProgress, Progress};
pub use root_image::{
    BROWSER_IMAGE, DEFAULT_IMAGE, ImageName, ImageNameError, RewriteError, RootImage,
    RootImageError, known_images, prepared_root_image, prepared_root_images, rebuild_root_image,
    root_image,
};
pub use sparse::{CopyError, CopyMethod, copy_sparse};
pub use ssh_image::{
    AlpineError, AlpineSource, AlpineSsh, DebianSsh, KeyPair, KeyPairError, Login, PasswordError,
    PublicKey, PublicKeyError, SshImage, SshImageError, SshImages, ensure_key_pair,
};
pub use template::{
    CachedTemplate, Template, TemplateRecipe, prune_templates, template, templates,
};
