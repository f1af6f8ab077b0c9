//! Environment variables that stay in a sandbox: every login shell of its guest has them.
//!
//! They are kept in the guest, in one file that `/etc/profile` reads, as lines
//! `export NAME='value'`. What comes back from there is the guest's word: it is bounded, and only
//! lines of that form are believed. Two changes at the same time are not merged; the file is
//! whole after either, and the later one's.

use std::collections::BTreeMap;

use bytes::Bytes;
use smolvm_protocol::message::{RefusalCode, WriteFile};

use crate::access::AccessError;
use crate::{ErrorKind, Sandbox};

/// The guest's file. Debian's, Alpine's and most others' `/etc/profile` read all of the directory.
const FILE: &[u8] = b"/etc/profile.d/smolvm_env.sh";

/// First line of the file.
const HEADER: &str =
    "# Environment variables of this sandbox, kept by SmolVM. Change them with `smolvm env`.\n";

/// Everybody may read it: every user's login shell does.
const MODE: u32 = 0o644;

/// Most bytes that all variables take in the file: half of what the kernel gives a program for
/// arguments and environment together with the usual 8 MiB stack (execve(2), "Limits on size of
/// arguments and environment").
const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Most bytes of `NAME=value`: 32 pages with the NUL after it (execve(2), `MAX_ARG_STRLEN`). With
/// a longer one no program could be executed.
const MAX_VARIABLE_BYTES: usize = 128 * 1024 - 1;

/// Characters of an illegal name that an error repeats.
const MAX_QUOTED_CHARS: usize = 80;

/// Why the environment of a sandbox cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// A name that no shell takes.
    #[error(
        "environment variable {name:?} has an illegal name; it must be letters, digits and `_`, \
         and not begin with a digit"
    )]
    Name {
        /// The name, or its beginning.
        name: String,
    },
    /// A value that no process can have.
    #[error("environment variable {name:?} contains a NUL byte")]
    Value {
        /// Its name.
        name: String,
    },
    /// A variable with which no program could be executed.
    #[error("environment variable {name:?} has {bytes} bytes; it can have {MAX_VARIABLE_BYTES}")]
    TooLong {
        /// Its name.
        name: String,
        /// Bytes of name and value.
        bytes: usize,
    },
    /// More variables than a program can be given.
    #[error(
        "the environment variables have {bytes} bytes together; they can have {MAX_FILE_BYTES}"
    )]
    TooMany {
        /// Bytes they would take.
        bytes: usize,
    },
    /// The guest's file has been changed to something else.
    #[error(
        "read the guest's {}: it holds something other than lines `export NAME='value'`",
        String::from_utf8_lossy(FILE)
    )]
    Unreadable,
    /// The sandbox could not be reached, or the guest refused.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl EnvError {
    /// Returns the kind of this error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Name { .. }
            | Self::Value { .. }
            | Self::TooLong { .. }
            | Self::TooMany { .. } => ErrorKind::InvalidInput,
            Self::Unreadable => ErrorKind::GuestFailed,
            Self::Access(error) => error.kind(),
        }
    }
}

/// Checks that `key` can name an environment variable: `[A-Za-z_][A-Za-z0-9_]*`.
///
/// # Errors
///
/// [`EnvError::Name`].
pub fn check_env_key(key: &str) -> Result<(), EnvError> {
    let is_legal = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && key
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || one == '_');
    if is_legal {
        return Ok(());
    }
    Err(EnvError::Name {
        name: key.chars().take(MAX_QUOTED_CHARS).collect(),
    })
}

impl Sandbox {
    /// Sets environment variables for every login shell that starts from now on, and returns the
    /// names of all that are set. With `merge` those that were set before stay; otherwise
    /// `variables` are the only ones.
    ///
    /// # Errors
    ///
    /// When a name or value is not legal, or the guest's file cannot be read or written.
    pub async fn set_env(
        &self,
        variables: &BTreeMap<String, String>,
        merge: bool,
    ) -> Result<Vec<String>, EnvError> {
        for (name, value) in variables {
            check_variable(name, value)?;
        }
        let mut all = if merge {
            self.env().await?
        } else {
            BTreeMap::new()
        };
        all.extend(variables.clone());
        self.write_env(&all).await?;
        Ok(all.into_keys().collect())
    }

    /// Removes environment variables and returns those that were set, with their values.
    ///
    /// # Errors
    ///
    /// When a name is not legal, or the guest's file cannot be read or written.
    pub async fn unset_env(&self, names: &[String]) -> Result<BTreeMap<String, String>, EnvError> {
        for name in names {
            check_env_key(name)?;
        }
        let mut all = self.env().await?;
        let removed: BTreeMap<_, _> = names
            .iter()
            .filter_map(|name| all.remove_entry(name))
            .collect();
        if !removed.is_empty() {
            self.write_env(&all).await?;
        }
        Ok(removed)
    }

    /// Returns the environment variables that every login shell has.
    ///
    /// # Errors
    ///
    /// When the guest's file cannot be read, or somebody wrote something else to it.
    pub async fn env(&self) -> Result<BTreeMap<String, String>, EnvError> {
        let mut content = Vec::new();
        let mut file = match self.read_file(FILE).await {
            Ok((_, file)) => file,
            Err(AccessError::Refused(refusal)) if refusal.code == RefusalCode::NotFound => {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(error.into()),
        };
        while let Some(piece) = file.next().await? {
            if content.len() + piece.len() > MAX_FILE_BYTES {
                return Err(EnvError::Unreadable);
            }
            content.extend_from_slice(&piece);
        }
        parse(&content).ok_or(EnvError::Unreadable)
    }

    async fn write_env(&self, variables: &BTreeMap<String, String>) -> Result<(), EnvError> {
        let content = render(variables)?;
        let mut file = self
            .write_file(WriteFile {
                path: FILE.to_vec().into(),
                mode: MODE,
                parents: true,
            })
            .await?;
        file.write(Bytes::from(content)).await?;
        Ok(file.finish().await?)
    }
}

fn check_variable(name: &str, value: &str) -> Result<(), EnvError> {
    check_env_key(name)?;
    if value.contains('\0') {
        return Err(EnvError::Value {
            name: name.to_owned(),
        });
    }
    let bytes = name.len() + 1 + value.len();
    if bytes > MAX_VARIABLE_BYTES {
        return Err(EnvError::TooLong {
            name: name.chars().take(MAX_QUOTED_CHARS).collect(),
            bytes,
        });
    }
    Ok(())
}

/// Returns the content of the file that sets `variables`.
fn render(variables: &BTreeMap<String, String>) -> Result<String, EnvError> {
    let mut content = HEADER.to_owned();
    for (name, value) in variables {
        let value = shlex::try_quote(value).map_err(|_| EnvError::Value { name: name.clone() })?;
        content.push_str("export ");
        content.push_str(name);
        content.push('=');
        content.push_str(&value);
        content.push('\n');
    }
    if content.len() > MAX_FILE_BYTES {
        return Err(EnvError::TooMany {
            bytes: content.len(),
        });
    }
    Ok(content)
}

/// Returns the variables that the file sets, unless something of it is not of [`render`]'s form.
fn parse(content: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut words = shlex::Shlex::new(std::str::from_utf8(content).ok()?);
    let mut variables = BTreeMap::new();
    while let Some(word) = words.next() {
        if word != "export" {
            return None;
        }
        let assignment = words.next()?;
        let (name, value) = assignment.split_once('=')?;
        check_variable(name, value).ok()?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    (!words.had_error).then_some(variables)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn one(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn names_that_a_shell_takes_are_legal() {
        for name in ["A", "_", "API_KEY", "a1", "__x9"] {
            assert!(check_env_key(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn other_names_are_refused_by_name() {
        for name in ["", "1A", "A-B", "A=B", "A B", "Ä", "A\n", "A\0"] {
            let error = check_env_key(name).expect_err("illegal");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn value_that_would_keep_programs_from_being_executed_is_refused() {
        let longest = "x".repeat(MAX_VARIABLE_BYTES - 2);
        assert!(check_variable("A", &longest).is_ok());
        let error = check_variable("A", &format!("{longest}x")).expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = check_variable("A", "a\0b").expect_err("NUL");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn file_that_somebody_else_has_written_is_not_guessed_at() {
        for content in [
            &b"export A=1\nrm -rf /\n"[..],
            b"A=1\n",
            b"export A\n",
            b"export A='1\n",
            b"export 1A=1\n",
            b"export A=\xff\n",
        ] {
            assert_eq!(parse(content), None, "{}", content.escape_ascii());
        }
    }

    #[test]
    fn empty_file_and_comments_set_nothing() {
        assert_eq!(parse(b""), Some(BTreeMap::new()));
        assert_eq!(parse(HEADER.as_bytes()), Some(BTreeMap::new()));
    }

    proptest! {
        #[test]
        fn variables_survive_the_file(
            variables in proptest::collection::btree_map("[A-Za-z_][A-Za-z0-9_]{0,8}", "[^\0]{0,40}", 0..6),
        ) {
            let content = render(&variables).expect("small");
            prop_assert_eq!(parse(content.as_bytes()), Some(variables));
        }

        #[test]
        fn arbitrary_files_never_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _variables = parse(&content);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shell_reads_the_value_that_was_set(value in "[^\0]{0,40}") {
            let script = render(&one("VALUE", &value)).expect("small") + "printf %s \"$VALUE\"";
            let output = Command::new("sh").arg("-c").arg(script).output().expect("sh runs");
            prop_assert_eq!(String::from_utf8(output.stdout).expect("UTF-8"), value);
        }
    }
}
