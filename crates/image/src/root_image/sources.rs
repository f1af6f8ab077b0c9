//! Where packages come from: the host's own apt configuration.
//!
//! Only Debian's archive of the host's suite is taken over. What else the host installs from is
//! not the image's business, and neither are credentials.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::io_error;
use crate::command::{Invocation, Program};
use crate::root_image::RootImageError;

const APT_GET: Program = Program {
    name: "apt-get",
    package: "apt",
};
const APT_CONFIG: Program = Program {
    name: "apt-config",
    package: "apt",
};

/// Says which system the host is (os-release(5)).
const OS_RELEASE: &str = "/etc/os-release";

/// Debian's archive keys; the suffix changed with Debian 13.
const ARCHIVE_KEYS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];
const ARCHIVE_KEYS_PACKAGE: &str = "debian-archive-keyring";

/// What apt calls Debian's own archive, in signed Release files. Backports and debug symbols
/// have other origins.
const ORIGIN: &str = "Debian";

/// The component that every package of our recipes is in.
const COMPONENT: &str = "main";

/// Fields of an index target, separated by what no field contains (apt-get(8), indextargets).
const TARGET_FORMAT: &str = "$(CREATED_BY)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)";

/// Where the packages of an image come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) suite: String,
    archive_keys: PathBuf,
    /// (URI, suite with its suffix), such as (…/debian-security, bookworm-security).
    archives: Vec<(String, String)>,
    /// apt options that the download needs: the host's proxies.
    pub(crate) apt_options: Vec<String>,
}

/// Reads the host's suite, mirrors, keys and proxies.
pub(crate) fn of_host(directory: &Path) -> Result<Sources, RootImageError> {
    let path = Path::new(OS_RELEASE);
    let os_release = fs::read_to_string(path).map_err(|source| io_error("read", path, source))?;
    let suite = debian_suite(&os_release)?;
    let targets = Invocation::new(APT_GET, directory)?
        .args(["indextargets", "--format", TARGET_FORMAT])
        .output()?;
    let archives = archives_of(&String::from_utf8_lossy(&targets), &suite);
    if !archives
        .iter()
        .any(|(_, archive_suite)| *archive_suite == suite)
    {
        return Err(RootImageError::NoPackageLists { suite });
    }
    let archive_keys = ARCHIVE_KEYS
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists());
    let archive_keys = archive_keys.ok_or(RootImageError::NoArchiveKeys {
        package: ARCHIVE_KEYS_PACKAGE,
    })?;
    let options = Invocation::new(APT_CONFIG, directory)?
        .args(["dump", "--format", "%F \"%v\";%n", "Acquire"])
        .output()?;
    let apt_options = proxy_options(&String::from_utf8_lossy(&options));
    Ok(Sources {
        suite,
        archive_keys,
        archives,
        apt_options,
    })
}

impl Sources {
    /// Returns the source lines to build from (sources.list(5), one-line style).
    pub(crate) fn for_build(&self) -> Vec<String> {
        let keys = self.archive_keys.display();
        let line = |(uri, suite): &(String, String)| {
            format!("deb [signed-by={keys}] {uri} {suite} {COMPONENT}")
        };
        self.archives.iter().map(line).collect()
    }

    /// Returns the image's own sources.list: the same, without credentials.
    ///
    /// The keys lie at the same path there: apt depends on the package that brings them.
    pub(crate) fn for_image(&self) -> String {
        let clean = |(uri, suite): &(String, String)| (without_credentials(uri), suite.clone());
        let archives = self.archives.iter().map(clean).collect();
        let image = Self {
            archives,
            ..self.clone()
        };
        image
            .for_build()
            .into_iter()
            .map(|line| line + "\n")
            .collect()
    }
}

fn debian_suite(os_release: &str) -> Result<String, RootImageError> {
    let value = |name: &str| {
        let value = |line: &str| {
            let value = line.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_matches(['"', '\'']).to_owned())
        };
        os_release.lines().find_map(value).unwrap_or_default()
    };
    let (id, codename) = (value("ID"), value("VERSION_CODENAME"));
    let is_word = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    if id != "debian" || !is_word(&codename) {
        let reason = format!("{OS_RELEASE} says ID={id:?}, VERSION_CODENAME={codename:?}");
        return Err(RootImageError::HostNotDebian { reason });
    }
    Ok(codename)
}

/// Picks Debian's archives of `suite` and its additions (`-updates`, `-security`) from the
/// output of `apt-get indextargets`.
fn archives_of(targets: &str, suite: &str) -> Vec<(String, String)> {
    let mut archives = Vec::new();
    for line in targets.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [created_by, origin, codename, component, uri] = fields[..] else {
            continue;
        };
        let rest = codename.strip_prefix(suite);
        let is_of_suite = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        // A URI with spaces or brackets would end its field in a source line.
        let is_plain = !uri.is_empty() && !uri.contains(|c: char| c.is_whitespace() || c == '[');
        if created_by != "Packages" || origin != ORIGIN || component != COMPONENT {
            continue;
        }
        let archive = (uri.to_owned(), codename.to_owned());
        if is_of_suite && is_plain && !archives.contains(&archive) {
            archives.push(archive);
        }
    }
    archives
}

/// Picks the proxies from the output of `apt-config dump`.
fn proxy_options(options: &str) -> Vec<String> {
    let is_proxy = |line: &&str| {
        let name = line
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let is_set = !line.contains("\"\"");
        is_set && (name.starts_with("acquire::http") && name.contains("proxy"))
    };
    options
        .lines()
        .filter(is_proxy)
        .map(str::to_owned)
        .collect()
}

/// Returns `uri` without what stands between `//` and `@` of its authority.
fn without_credentials(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return uri.to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "\
DEP-11|Debian|bookworm|main|http://deb.example/debian/
Packages|Debian|bookworm|main|http://deb.example/debian/
Packages|Debian|bookworm|contrib|http://deb.example/debian/
Packages|Debian|bookworm-security|main|http://user:word@sec.example/debian-security/
Packages|Debian Backports|bookworm-backports|main|http://deb.example/debian/
Packages|. nodistro|nodistro|main|https://third.example/node/
Packages|Debian|trixie|main|http://deb.example/debian/
";

    fn sources() -> Sources {
        Sources {
            suite: "bookworm".to_owned(),
            archive_keys: PathBuf::from(ARCHIVE_KEYS[0]),
            archives: archives_of(TARGETS, "bookworm"),
            apt_options: Vec::new(),
        }
    }

    #[test]
    fn only_the_archives_of_the_suite_are_taken() {
        let suites: Vec<_> = sources()
            .archives
            .into_iter()
            .map(|(_, suite)| suite)
            .collect();
        assert_eq!(suites, ["bookworm", "bookworm-security"]);
    }

    #[test]
    fn credentials_stay_out_of_the_image() {
        assert!(sources().for_build()[1].contains("user:word@"));
        assert!(!sources().for_image().contains("word"));
        assert!(
            sources()
                .for_image()
                .contains("http://sec.example/debian-security/ ")
        );
    }

    #[test]
    fn the_suite_comes_from_os_release() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        assert_eq!(debian_suite(debian).unwrap(), "bookworm");
        let other = "ID=\"fedora\"\nVERSION_ID=40\n";
        assert!(matches!(
            debian_suite(other),
            Err(RootImageError::HostNotDebian { .. })
        ));
    }

    #[test]
    fn only_proxies_that_are_set_are_taken_over() {
        let options = "Acquire::http::Proxy \"http://proxy.example:3128\";\n\
                       Acquire::https::Proxy \"\";\nAcquire::Retries \"3\";\n";
        let expected = ["Acquire::http::Proxy \"http://proxy.example:3128\";"];
        assert_eq!(proxy_options(options), expected);
    }
}
