//! Installing Debian packages with the host's own apt-get, from wherever it is configured to.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::command::{CommandError, run};

/// Where apt keeps its lists of packages, and the directory in it that every update touches.
const LISTS: &str = "/var/lib/apt/lists";
const LISTS_PARTIAL: &str = "/var/lib/apt/lists/partial";

/// How old the lists may be. Debian's archives keep a replaced version for about a day.
const MAX_LIST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Waits so many seconds for another apt to end instead of failing (apt.conf(5)).
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=120";

/// apt-get, run with the rights it takes to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Apt {
    uses_sudo: bool,
}

impl Apt {
    /// The user is root.
    pub(super) fn as_root() -> Self {
        Self { uses_sudo: false }
    }

    /// The user is not root and may use sudo.
    pub(super) fn through_sudo() -> Self {
        Self { uses_sudo: true }
    }

    /// Installs packages and what they depend on, and nothing that they only recommend.
    ///
    /// # Errors
    ///
    /// When dpkg or apt-get fails, even with new lists and every package configured.
    pub(super) fn install(self, packages: &[&str]) -> Result<(), CommandError> {
        if !has_fresh_lists(
            Path::new(LISTS),
            Path::new(LISTS_PARTIAL),
            SystemTime::now(),
        ) {
            self.update()?;
        }
        if self.install_now(packages).is_ok() {
            return Ok(());
        }
        eprintln!("trying again, after what an interrupted installation and old lists need");
        // Not before: an interrupted apt-get can go on for seconds, dpkg fails as long as it does,
        // and apt-get above has waited for its end.
        run(&mut self.command("dpkg", &["--configure", "-a"]))?;
        self.update()?;
        self.install_now(packages)
    }

    fn update(self) -> Result<(), CommandError> {
        run(&mut self.command("apt-get", &["update"]))
    }

    fn install_now(self, packages: &[&str]) -> Result<(), CommandError> {
        let arguments = [
            "-o",
            LOCK_TIMEOUT,
            "install",
            "--yes",
            "--no-install-recommends",
        ];
        run(self.command("apt-get", &arguments).args(packages))
    }

    /// Returns a command that asks no questions and has the rights it needs.
    fn command(self, program: &str, arguments: &[&str]) -> Command {
        // Through `env`, because sudo passes only some variables on.
        let words = ["env", "DEBIAN_FRONTEND=noninteractive", program];
        let mut command = if self.uses_sudo {
            let mut sudo = Command::new("sudo");
            sudo.args(words);
            sudo
        } else {
            let mut env = Command::new(words[0]);
            env.args(&words[1..]);
            env
        };
        command.args(arguments);
        command
    }
}

/// Tells whether apt has lists and has updated them lately.
///
/// The lists themselves carry the archive's time, hence the directory of downloads under way.
fn has_fresh_lists(lists: &Path, partial: &Path, now: SystemTime) -> bool {
    let has_lists = fs::read_dir(lists).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
        })
    });
    let updated = fs::metadata(partial).and_then(|metadata| metadata.modified());
    // A time in the future is an age of nothing.
    let is_recent =
        updated.is_ok_and(|updated| now.duration_since(updated).unwrap_or_default() < MAX_LIST_AGE);
    has_lists && is_recent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::line;
    use crate::packages::finder::FakeHost;

    const LIST: &str = "lists/archive_dists_stable_main_binary-amd64_Packages";

    #[test]
    fn ordinary_users_install_through_sudo_without_questions() {
        let command = Apt::through_sudo().command("apt-get", &["update"]);
        assert_eq!(
            line(&command),
            "sudo env DEBIAN_FRONTEND=noninteractive apt-get update"
        );
    }

    #[test]
    fn lists_updated_just_now_are_fresh() {
        let host = FakeHost::new("fresh-lists", &[LIST, "lists/partial/.keep"]);
        let lists = host.root().join("lists");
        assert!(has_fresh_lists(
            &lists,
            &lists.join("partial"),
            SystemTime::now()
        ));
    }

    #[test]
    fn lists_of_two_days_ago_are_old() {
        let host = FakeHost::new("old-lists", &[LIST, "lists/partial/.keep"]);
        let lists = host.root().join("lists");
        let in_two_days = SystemTime::now() + 2 * MAX_LIST_AGE;
        assert!(!has_fresh_lists(
            &lists,
            &lists.join("partial"),
            in_two_days
        ));
    }

    #[test]
    fn directory_without_lists_is_not_fresh() {
        let host = FakeHost::new("no-lists", &["lists/partial/.keep"]);
        let lists = host.root().join("lists");
        assert!(!has_fresh_lists(
            &lists,
            &lists.join("partial"),
            SystemTime::now()
        ));
    }
}
