//! SSH keys: the public key that an image lets in, and the pair of keys of this user.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::command::{CommandError, Invocation, Program};

const SSH_KEYGEN: Program = Program {
    name: "ssh-keygen",
    package: "openssh-client",
};

/// File names of the pair.
const PRIVATE_FILE: &str = "id_ed25519";
const PUBLIC_FILE: &str = "id_ed25519.pub";

/// Comment of the key, which says where it came from.
const COMMENT: &str = "smolvm-auto";

/// Longest line that is taken for a public key: an RSA key of 16,384 bits has some 2,800 bytes.
const MAX_KEY_BYTES: u64 = 16 * 1024;

/// A public key as it stands in `authorized_keys`: one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(String);

/// Text or a file that is no public key.
#[derive(Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// It is not one line that begins as a public key does.
    #[error(
        "an SSH public key is one line that begins with ssh-, such as ssh-ed25519; this is {found:?}"
    )]
    NotAKey {
        /// Its first characters.
        found: String,
    },
    /// The file cannot be read.
    #[error("cannot read the SSH public key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Why there is no pair of keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyPairError {
    /// ssh-keygen is missing or failed.
    #[error("cannot make an SSH key")]
    Command(#[from] CommandError),
    /// A file or directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    Files {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A pair of SSH keys in two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The private key, not encrypted, readable by its owner alone.
    pub private: PathBuf,
    /// The public key.
    pub public: PathBuf,
}

impl PublicKey {
    /// Returns the key in `text`.
    ///
    /// # Errors
    ///
    /// When it is not one line that begins with `ssh-`.
    pub fn from_text(text: &str) -> Result<Self, PublicKeyError> {
        let line = text.trim();
        let has_material = line.split_whitespace().nth(1).is_some();
        let is_line = !line.chars().any(char::is_control);
        if line.starts_with("ssh-") && is_line && has_material {
            Ok(Self(line.to_owned()))
        } else {
            Err(PublicKeyError::NotAKey {
                // Not more: it could be a private key.
                found: line.chars().take(20).collect(),
            })
        }
    }

    /// Returns the key in the file `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or has no public key in it.
    pub fn from_file(path: &Path) -> Result<Self, PublicKeyError> {
        use io::Read as _;

        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_KEY_BYTES).read_to_string(&mut text))
            .map_err(|source| PublicKeyError::Read {
                path: path.to_owned(),
                source,
            })?;
        Self::from_text(&text)
    }

    /// Returns the key that `argument` is or names: text that begins with `ssh-`, or a file.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn from_text_or_file(argument: &str) -> Result<Self, PublicKeyError> {
        let path = Path::new(argument);
        if !argument.trim_start().starts_with("ssh-") && !argument.contains('\n') && path.is_file()
        {
            Self::from_file(path)
        } else {
            Self::from_text(argument)
        }
    }

    /// Returns the line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the pair of ed25519 keys in `directory`, making it when either file is missing.
///
/// `owner` is who the directory and the files belong to, when that is another user than the one
/// of this process, as under sudo: its user and group ID.
///
/// # Errors
///
/// When ssh-keygen is missing or fails, or a file cannot be written.
pub fn ensure_key_pair(
    directory: &Path,
    owner: Option<(u32, u32)>,
) -> Result<KeyPair, KeyPairError> {
    let files_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| KeyPairError::Files {
            action,
            path,
            source,
        }
    };
    let pair = KeyPair {
        private: directory.join(PRIVATE_FILE),
        public: directory.join(PUBLIC_FILE),
    };
    if pair.private.is_file() && pair.public.is_file() {
        return Ok(pair);
    }
    let is_new_directory = !directory.is_dir();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(files_error("create", directory))?;
    // Made aside: two processes must not leave the halves of two pairs.
    let staging = directory.join(format!(".new-{}", std::process::id()));
    let _absent = fs::remove_dir_all(&staging);
    DirBuilder::new()
        .mode(0o700)
        .create(&staging)
        .map_err(files_error("create", &staging))?;
    let outcome = make_pair(&staging, &pair, owner);
    let _gone = fs::remove_dir_all(&staging);
    outcome?;
    if let (true, Some((user, group))) = (is_new_directory, owner) {
        chown(directory, Some(user), Some(group)).map_err(files_error("give away", directory))?;
    }
    Ok(pair)
}

fn make_pair(
    staging: &Path,
    pair: &KeyPair,
    owner: Option<(u32, u32)>,
) -> Result<(), KeyPairError> {
    let files_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| KeyPairError::Files {
            action,
            path,
            source,
        }
    };
    let made = staging.join(PRIVATE_FILE);
    Invocation::new(SSH_KEYGEN, staging)?
        .args(["-q", "-t", "ed25519", "-N", "", "-C", COMMENT, "-f"])
        .args([made.as_os_str()])
        .output()?;
    let files = [
        (PUBLIC_FILE, 0o644, &pair.public),
        (PRIVATE_FILE, 0o600, &pair.private),
    ];
    for (name, mode, target) in files {
        let made = staging.join(name);
        fs::set_permissions(&made, fs::Permissions::from_mode(mode))
            .map_err(files_error("protect", &made))?;
        if let Some((user, group)) = owner {
            chown(&made, Some(user), Some(group)).map_err(files_error("give away", &made))?;
        }
        fs::rename(&made, target).map_err(files_error("place", target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ someone@host";

    #[test]
    fn a_key_is_text_or_a_file_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pub");
        fs::write(&path, format!("{KEY}\n")).unwrap();
        let from_file = PublicKey::from_text_or_file(path.to_str().unwrap()).unwrap();
        assert_eq!(from_file.as_str(), KEY);
        assert_eq!(PublicKey::from_text_or_file(KEY).unwrap(), from_file);
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        for text in [
            "",
            "ssh-ed25519",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            "/no/such/file.pub",
            "ssh-ed25519 AAAA\ncommand=\"sh\" ssh-rsa BBBB",
        ] {
            assert!(PublicKey::from_text_or_file(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pair_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("a/keys");
        let pair = ensure_key_pair(&keys, None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode(&keys), mode(&pair.private), mode(&pair.public)),
            (0o700, 0o600, 0o644)
        );
        let public = PublicKey::from_file(&pair.public).unwrap();
        assert!(public.as_str().ends_with(" smolvm-auto"), "{public:?}");
        let before = fs::read(&pair.private).unwrap();
        assert_eq!(ensure_key_pair(&keys, None).unwrap(), pair);
        assert_eq!(fs::read(&pair.private).unwrap(), before);
        assert_eq!(
            fs::read_dir(&keys).unwrap().count(),
            2,
            "nothing else is left"
        );

        fs::remove_file(&pair.public).unwrap();
        ensure_key_pair(&keys, None).unwrap();
        assert_ne!(fs::read(&pair.private).unwrap(), before, "a new pair");
    }
}
