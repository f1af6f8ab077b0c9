//! The image of browser sessions: Chromium, a display that people can look at, and the launcher.
//!
//! Docs: docs/browser.md says what is in it and how large it is; `browser/session.py`, the
//! launcher, how the parts are run, `browser/guard.py` how denials are shown,
//! `browser/dialogs.py` how dialogs are known that opened before anybody looked,
//! `browser/downloads.py` how downloads come to where the host looks.

use super::{APT_CONF, AddedFile, DPKG_CONF, HOSTNAME, HOSTS, RESOLV_CONF, Recipe};

/// The image that browser sessions run.
pub const BROWSER_IMAGE: &str = "browser";

pub(super) const BROWSER: Recipe = Recipe {
    name: BROWSER_IMAGE,
    packages: &[
        "ca-certificates",
        "chromium",
        "curl",
        "ffmpeg",
        // The metrics of Arial, Times and Courier, which pages are laid out for.
        "fonts-liberation",
        "fonts-noto-color-emoji",
        // Every living script but Chinese, Japanese and Korean,
        "fonts-noto-core",
        // which are here: 5 MB, where fonts-noto-cjk has 91.
        "fonts-wqy-microhei",
        "iproute2",
        "less",
        // Gives every window the whole display, and has no decorations: the page is as large as
        // was asked for. Openbox needs Ghostscript's library, 50 MB with its fonts.
        "matchbox-window-manager",
        "procps",
        "python3",
        // An X server that speaks VNC itself: with Xvfb, a second process would search the
        // picture for changes.
        "tigervnc-standalone-server",
        // Writes the password file.
        "tigervnc-tools",
        // Keyboard and mouse of the display, for programs.
        "xdotool",
    ],
    excluded_paths: &[
        "/usr/share/doc/*",
        "/usr/share/info/*",
        "/usr/share/lintian/*",
        "/usr/share/locale/*",
        "/usr/share/man/*",
        // Mesa's drivers and the compiler they need: there is no graphics card to drive.
        "/usr/lib/*/dri/*",
        "/usr/lib/*/libLLVM*",
        // Tools for developers of graphics drivers, 24 MB.
        "/usr/lib/chromium/libVkLayer_*",
        "/usr/lib/chromium/libVkICD_mock*",
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
        "var/lib/apt/lists",
        // var/cache/fontconfig stays: reading all fonts takes an emulated guest half a minute.
        "var/cache/apt",
        "var/cache/debconf",
        "var/cache/ldconfig",
        "var/log",
        "var/tmp",
    ],
    removed: &[
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/machine-id",
        "var/lib/dbus/machine-id",
    ],
    directories: &[
        "opt/smolvm-browser",
        "opt/smolvm-browser/artifacts",
        "opt/smolvm-browser/downloads",
        "opt/smolvm-browser/profiles",
        "usr/lib/smolvm",
        "usr/share/man/man1",
        "var/log/smolvm-browser",
        "workspace",
    ],
    files: &[
        HOSTNAME,
        HOSTS,
        RESOLV_CONF,
        APT_CONF,
        DPKG_CONF,
        AddedFile {
            path: "usr/lib/smolvm/browser-session",
            mode: 0o755,
            content: include_str!("../browser/session.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_chromium.py",
            mode: 0o644,
            content: include_str!("../browser/chromium.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_dialogs.py",
            mode: 0o644,
            content: include_str!("../browser/dialogs.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_downloads.py",
            mode: 0o644,
            content: include_str!("../browser/downloads.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_guard.py",
            mode: 0o644,
            content: include_str!("../browser/guard.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_kernel.py",
            mode: 0o644,
            content: include_str!("../browser/kernel.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_pages.py",
            mode: 0o644,
            content: include_str!("../browser/pages.py"),
        },
        AddedFile {
            path: "usr/lib/smolvm/browser_process.py",
            mode: 0o644,
            content: include_str!("../browser/process.py"),
        },
    ],
    hooks: &[
        // Chromium's sandbox is worth something only when what it confines is not root.
        "chroot \"$1\" useradd --create-home --shell /bin/bash browser",
        // Of these packages only their files are wanted: a page and a Python module. As packages
        // they would bring Node.js and NumPy, 200 MB that neither needs to serve one display.
        "cd \"$1/tmp\" && APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get download novnc \
         python3-websockify && for package in *.deb; do dpkg-deb --extract \"$package\" \"$1\"; done",
    ],
    // 1.3 GB unpacked with downloads, 600 MB as an image, and room to grow.
    needed_bytes: 4 << 30,
};
