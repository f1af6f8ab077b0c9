//! Root file systems with an SSH server from Debian packages: the default image, and sshd.

use std::path::Path;

use super::{Login, SshImage, SshImageError, SshImages, check_package};
use crate::ext4::write_ext4;
use crate::progress::step;
use crate::root_image::bootstrap::{self, Wishes};
use crate::root_image::recipe::{DEBIAN_SSH, SSH_SERVER};
use crate::root_image::rewrite::{ExtraFile, rewrite};
use crate::root_image::{RootImageError, sources};

/// Where Debian's sshd looks for settings before its own (sshd_config(5), Debian's `Include`).
const SSHD_CONFIG: &str = "etc/ssh/sshd_config.d/00-smolvm.conf";

/// A root file system to build from Debian packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DebianSsh {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_mib: u32,
    /// Who gets in.
    pub login: Login,
    /// Packages besides those of the default image and sshd.
    pub packages: Vec<String>,
}

impl SshImages<'_> {
    /// Returns the image that `request` describes, building it when there is none like it.
    ///
    /// # Errors
    ///
    /// When the request is unusable, or the image cannot be built.
    pub fn debian(&self, request: &DebianSsh) -> Result<SshImage, SshImageError> {
        for package in &request.packages {
            check_package(package)?;
        }
        // Before the minutes that the rest takes.
        request.login.files()?;
        let inputs = format!(
            "debian {DEBIAN_SSH:?} {:?} {}",
            request.packages,
            request.login.inputs()
        );
        self.obtain(&request.name, request.size_mib, &inputs, |image, work| {
            self.cache.require_space(DEBIAN_SSH.needed_bytes)?;
            self.build_debian(request, image, work)
        })
    }

    fn build_debian(
        &self,
        request: &DebianSsh,
        image: &Path,
        work: &Path,
    ) -> Result<(), SshImageError> {
        let login = request.login.files()?;
        let sources = step(self.progress, "reading apt's sources", None, || {
            sources::of_host(work)
        })?;
        let sources_list = sources.for_image();
        let mut extra = vec![ExtraFile {
            path: "etc/apt/sources.list",
            mode: 0o644,
            content: Some(&sources_list),
        }];
        extra.extend(login.extra(SSHD_CONFIG));
        let server = [SSH_SERVER.to_owned()];
        let packages = [&server, request.packages.as_slice()].concat();
        let wishes = Wishes {
            packages: &packages,
            password_hash: login.password_hash.as_deref(),
        };
        bootstrap::run(
            &DEBIAN_SSH,
            &wishes,
            &sources,
            work,
            self.progress,
            |tree| {
                write_ext4(image, request.size_mib, work, |output| {
                    rewrite(tree, output, &DEBIAN_SSH, &extra, self.progress)?;
                    Ok::<_, RootImageError>(())
                })
            },
        )?;
        Ok(())
    }
}
