//! How somebody gets into an image: a key, a password, and an sshd that takes them.

use sha_crypt::{PasswordHasher as _, ShaCrypt};

use super::PublicKey;
use crate::root_image::rewrite::ExtraFile;

/// Longest password; sshd takes no more than 1024 bytes (OpenSSH, auth2-passwd.c).
const MAX_PASSWORD_BYTES: usize = 1024;

/// Bytes of the salt, which crypt(5) writes as 16 characters.
const SALT_BYTES: usize = 12;

/// Run at the boot of the guest: makes a host key of the guest's own, then starts sshd.
///
/// One key, of the kind that takes the least time: an RSA key takes half a minute under
/// emulation.
const START_SCRIPT: &str = r#"#!/bin/sh
# Starts the SSH server; SmolVM's agent runs this at each boot.
set -e
mkdir -p -m 0755 /run/sshd
key=/etc/ssh/ssh_host_ed25519_key
[ -s "$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$key"
exec "$(command -v sshd || echo /usr/sbin/sshd)"
"#;

/// Who may log in as root, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// A key that is let in.
    pub key: Option<PublicKey>,
    /// Root's password; without one nobody logs in by password.
    pub password: Option<String>,
}

/// Text that cannot be a password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It is empty, too long, or has characters that a terminal does not send in a password.
    #[error("a password has 1 to {MAX_PASSWORD_BYTES} bytes and no control characters")]
    Unusable,
    /// It could not be hashed.
    #[error("cannot hash the password: {reason}")]
    Hash {
        /// What the hash said.
        reason: String,
    },
}

/// The contents of the files that let somebody in.
#[derive(Debug)]
pub(super) struct LoginFiles {
    authorized_keys: String,
    sshd_config: String,
    /// Hash of the password as crypt(5) writes it.
    pub(super) password_hash: Option<String>,
}

impl Login {
    /// Returns the files that let this login in.
    pub(super) fn files(&self) -> Result<LoginFiles, PasswordError> {
        let password_hash = self.password.as_deref().map(hash).transpose()?;
        let (root, passwords) = match password_hash {
            Some(_) => ("yes", "yes"),
            None => ("prohibit-password", "no"),
        };
        let sshd_config = format!(
            "# Written by SmolVM.\nPort 22\nListenAddress 0.0.0.0\n\
             HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin {root}\n\
             PasswordAuthentication {passwords}\nKbdInteractiveAuthentication no\n\
             UseDNS no\n"
        );
        let key = self.key.as_ref().map(|key| format!("{}\n", key.as_str()));
        Ok(LoginFiles {
            authorized_keys: key.unwrap_or_default(),
            sshd_config,
            password_hash,
        })
    }

    /// Returns a description for the fingerprint of an image.
    pub(super) fn inputs(&self) -> String {
        format!("{:?} {:?} {START_SCRIPT:?}", self.key, self.password)
    }
}

impl LoginFiles {
    /// Returns the files to put into a tree, with sshd's settings at the path `sshd_config`.
    pub(super) fn extra<'a>(&'a self, sshd_config: &'a str) -> [ExtraFile<'a>; 5] {
        let directory = |path, mode| ExtraFile {
            path,
            mode,
            content: None,
        };
        let file = |path, mode, content| ExtraFile {
            path,
            mode,
            content: Some(content),
        };
        [
            directory("root/.ssh", 0o700),
            file("root/.ssh/authorized_keys", 0o600, &self.authorized_keys),
            file(sshd_config, 0o600, &self.sshd_config),
            directory("etc/smolvm", 0o755),
            file("etc/smolvm/start", 0o755, START_SCRIPT),
        ]
    }
}

fn hash(password: &str) -> Result<String, PasswordError> {
    let is_usable = !password.is_empty()
        && password.len() <= MAX_PASSWORD_BYTES
        && !password.chars().any(char::is_control);
    if !is_usable {
        return Err(PasswordError::Unusable);
    }
    let mut salt = [0_u8; SALT_BYTES];
    let failed = |reason: String| PasswordError::Hash { reason };
    rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed(errno.to_string()))?;
    ShaCrypt::default()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use sha_crypt::PasswordVerifier as _;

    use super::*;

    #[test]
    fn a_password_is_stored_as_a_hash_of_crypt() {
        let login = Login {
            password: Some("pass word".to_owned()),
            key: None,
        };
        let hash = login.files().unwrap().password_hash.unwrap();
        assert!(hash.starts_with("$6$"), "{hash}");
        assert!(
            ShaCrypt::default()
                .verify_password(b"pass word", hash.as_str())
                .is_ok()
        );
        assert_ne!(
            login.files().unwrap().password_hash.unwrap(),
            hash,
            "salted"
        );
    }

    #[test]
    fn passwords_are_off_without_one() {
        let files = Login::default().files().unwrap();
        assert!(
            files
                .sshd_config
                .contains("PermitRootLogin prohibit-password\n")
        );
        assert!(files.sshd_config.contains("PasswordAuthentication no\n"));
        for password in ["", "a\nroot::", &"x".repeat(2000)] {
            let login = Login {
                password: Some(password.to_owned()),
                key: None,
            };
            assert!(login.files().is_err(), "{password:?}");
        }
    }
}
