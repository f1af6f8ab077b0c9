//! The images SmolVM can build, as data.
//!
//! Adding an image means adding a constant here and naming it in [`ALL`]. A changed recipe is a
//! new image: its text is part of the cache key.

mod browser;

pub use browser::BROWSER_IMAGE;

/// What goes into an image, and what does not.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// Packages besides the essential ones and apt.
    pub(crate) packages: &'static [&'static str],
    /// Paths that dpkg never unpacks, at build time or later in the guest (dpkg(1),
    /// `--path-exclude`).
    pub(crate) excluded_paths: &'static [&'static str],
    /// Exceptions to `excluded_paths`.
    pub(crate) included_paths: &'static [&'static str],
    /// Directories that lose their files, because only the build needed them.
    pub(crate) emptied: &'static [&'static str],
    /// Single files that only the build needed.
    pub(crate) removed: &'static [&'static str],
    /// Directories to add.
    pub(crate) directories: &'static [&'static str],
    /// Files to add or replace.
    pub(crate) files: &'static [AddedFile],
    /// Commands for a shell, run outside the tree when all packages are in it: `$1` is the tree
    /// (mmdebstrap(1), `--customize-hook`).
    pub(crate) hooks: &'static [&'static str],
    /// Free space that building needs: the unpacked tree with its downloads, and the image.
    pub(crate) needed_bytes: u64,
}

/// A file that no package brings.
#[derive(Debug)]
pub(crate) struct AddedFile {
    pub(crate) path: &'static str,
    pub(crate) mode: u32,
    pub(crate) content: &'static str,
}

/// Every image there is.
pub(super) const ALL: &[&Recipe] = &[&DEBIAN, &browser::BROWSER];

/// The package with sshd.
pub(crate) const SSH_SERVER: &str = "openssh-server";

/// What is built into a root file system of its own for SSH: the default image, to which
/// [`SSH_SERVER`] is added. It is no image that sandboxes name, so it is not in [`ALL`].
pub(crate) const DEBIAN_SSH: Recipe = Recipe {
    name: "debian-ssh",
    // Each guest makes keys of its own.
    removed: &[
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/machine-id",
        "var/lib/dbus/machine-id",
        "etc/ssh/ssh_host_ecdsa_key",
        "etc/ssh/ssh_host_ecdsa_key.pub",
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/ssh_host_rsa_key.pub",
    ],
    // 600 MB unpacked, twice for a moment.
    needed_bytes: 2 << 30,
    ..DEBIAN
};

/// The default image: what a person or a program expects of a development shell.
const DEBIAN: Recipe = Recipe {
    name: super::DEFAULT_IMAGE,
    packages: &[
        "ca-certificates",
        "curl",
        "file",
        "git",
        "iproute2",
        "iputils-ping",
        "less",
        "nano",
        "procps",
        "psmisc",
        "python-is-python3",
        "python3",
        "python3-pip",
        "python3-venv",
        // Everything runs as root, yet programs and people type it out of habit.
        "sudo",
        "unzip",
        "xz-utils",
    ],
    excluded_paths: &[
        "/usr/share/doc/*",
        "/usr/share/info/*",
        "/usr/share/lintian/*",
        // C.UTF-8 is part of libc-bin and lies elsewhere.
        "/usr/share/locale/*",
        "/usr/share/man/*",
        // PEP 668 protects a system that someone maintains. This one is thrown away: `pip
        // install` shall just work.
        "/usr/lib/python3*/EXTERNALLY-MANAGED",
    ],
    included_paths: &[
        "/usr/share/doc/*/copyright",
        "/usr/share/locale/locale.alias",
    ],
    emptied: &[
        "dev",
        "proc",
        "run",
        "sys",
        "tmp",
        "var/cache",
        "var/lib/apt/lists",
        "var/log",
        "var/tmp",
    ],
    removed: &[
        // mmdebstrap's options for apt, which can name the host's proxy.
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/machine-id",
        "var/lib/dbus/machine-id",
    ],
    directories: &[
        // Where sandboxed programs work; the current directory of commands.
        "workspace",
        // Packages that register manual pages as alternatives fail without it.
        "usr/share/man/man1",
    ],
    files: &[
        HOSTNAME,
        HOSTS,
        RESOLV_CONF,
        AddedFile {
            path: "etc/pip.conf",
            mode: 0o644,
            content: "[global]\nroot-user-action = ignore\ndisable-pip-version-check = true\n",
        },
        APT_CONF,
        DPKG_CONF,
    ],
    hooks: &[],
    // 500 MB unpacked with downloads, 120 MB as an image, and room to grow.
    needed_bytes: 1 << 30,
};

const HOSTNAME: AddedFile = AddedFile {
    path: "etc/hostname",
    mode: 0o644,
    content: "sandbox\n",
};

const HOSTS: AddedFile = AddedFile {
    path: "etc/hosts",
    mode: 0o644,
    content: "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n",
};

/// Without a name server, look-ups fail at once instead of waiting for a timeout.
const RESOLV_CONF: AddedFile = AddedFile {
    path: "etc/resolv.conf",
    mode: 0o644,
    content: "# Filled in when the sandbox has a network.\n",
};

const APT_CONF: AddedFile = AddedFile {
    path: "etc/apt/apt.conf.d/90smolvm",
    mode: 0o644,
    content: "Acquire::Languages \"none\";\nAPT::Install-Recommends \"false\";\n",
};

/// The disk is thrown away with the sandbox; syncing every file only costs time.
const DPKG_CONF: AddedFile = AddedFile {
    path: "etc/dpkg/dpkg.cfg.d/90smolvm",
    mode: 0o644,
    content: "force-unsafe-io\n",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_recipes_are_relative_and_plain() {
        let recipes = ALL.iter().copied().chain([&DEBIAN_SSH]);
        let paths = recipes.flat_map(|recipe| {
            let files = recipe.files.iter().map(|file| file.path);
            let lists = [recipe.emptied, recipe.removed, recipe.directories];
            files.chain(lists.into_iter().flatten().copied())
        });
        for path in paths {
            assert!(
                !path.starts_with(['/', '.']) && !path.ends_with('/'),
                "{path}"
            );
        }
    }

    #[test]
    fn the_default_image_has_a_recipe() {
        assert!(
            ALL.iter()
                .any(|recipe| recipe.name == super::super::DEFAULT_IMAGE)
        );
    }
}
