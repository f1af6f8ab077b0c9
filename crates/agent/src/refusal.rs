//! Turns the guest kernel's errors into the protocol's refusals.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use smolvm_protocol::message::{Refusal, RefusalCode};

/// Longest piece of a path that a message quotes, in characters; a path can have 4095 bytes.
const MAX_QUOTED_CHARACTERS: usize = 200;

/// Returns the refusal for an operation on `path` that failed with `error`.
pub(crate) fn at_path(path: &Path, error: &io::Error) -> Refusal {
    about(&quoted(path), error)
}

/// Returns `path` as one short line of printable characters.
pub(crate) fn quoted(path: &Path) -> String {
    path.to_string_lossy()
        .chars()
        .take(MAX_QUOTED_CHARACTERS)
        .flat_map(char::escape_debug)
        .collect()
}

/// Returns the refusal for something that failed with `error` and is named by `subject`.
pub(crate) fn about(subject: &str, error: &io::Error) -> Refusal {
    let (code, words) = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(errno) => of_errno(errno),
        None => (code_of_kind(error.kind()), None),
    };
    let message = match words {
        Some(words) => format!("{subject}: {words}"),
        None => format!("{subject}: {error}"),
    };
    Refusal { code, message }
}

/// Returns the refusal for a value of a request that is not legal.
pub(crate) fn invalid(message: &str) -> Refusal {
    refused(RefusalCode::InvalidInput, message)
}

/// Returns the refusal for frames that break the protocol.
pub(crate) fn malformed(message: &str) -> Refusal {
    refused(RefusalCode::Malformed, message)
}

/// Returns a refusal.
pub(crate) fn refused(code: RefusalCode, message: &str) -> Refusal {
    Refusal {
        code,
        message: message.to_owned(),
    }
}

/// Returns the code for `errno`, and words where the C library's are not used.
pub(crate) fn of_errno(errno: Errno) -> (RefusalCode, Option<&'static str>) {
    let (code, words) = match errno {
        Errno::NOENT => (RefusalCode::NotFound, "no such file or directory"),
        Errno::ACCESS => (RefusalCode::PermissionDenied, "permission denied"),
        Errno::PERM => (RefusalCode::PermissionDenied, "operation not permitted"),
        Errno::ROFS => (RefusalCode::PermissionDenied, "read-only file system"),
        Errno::EXIST => (RefusalCode::AlreadyExists, "exists already"),
        Errno::NOTDIR => (RefusalCode::NotADirectory, "not a directory"),
        Errno::ISDIR => (RefusalCode::IsADirectory, "is a directory"),
        Errno::NOTEMPTY => (RefusalCode::NotEmpty, "directory not empty"),
        Errno::NOSPC | Errno::DQUOT => (RefusalCode::NoSpace, "no space left on the disk"),
        Errno::INVAL => (RefusalCode::InvalidInput, "invalid value"),
        Errno::NAMETOOLONG => (RefusalCode::InvalidInput, "name too long"),
        Errno::LOOP => (RefusalCode::InvalidInput, "too many symbolic links"),
        Errno::XDEV => (RefusalCode::InvalidInput, "leads outside the directory"),
        Errno::TOOBIG => (RefusalCode::ArgumentsTooLong, "arguments too long"),
        Errno::NOMEM => (RefusalCode::ResourcesExhausted, "out of memory"),
        Errno::AGAIN => (RefusalCode::ResourcesExhausted, "out of processes"),
        Errno::MFILE | Errno::NFILE => (RefusalCode::ResourcesExhausted, "too many open files"),
        Errno::CONNREFUSED => (RefusalCode::ConnectionRefused, "nothing listens there"),
        _ => return (RefusalCode::Io, None),
    };
    (code, Some(words))
}

fn code_of_kind(kind: io::ErrorKind) -> RefusalCode {
    match kind {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => RefusalCode::InvalidInput,
        io::ErrorKind::UnexpectedEof => RefusalCode::Malformed,
        _ => RefusalCode::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_file_is_one_readable_line() {
        let error = io::Error::from(Errno::NOENT);
        let refusal = at_path(Path::new("/etc/x"), &error);
        assert_eq!(refusal.code, RefusalCode::NotFound);
        assert_eq!(refusal.message, "/etc/x: no such file or directory");
    }

    #[test]
    fn control_characters_of_a_path_do_not_reach_the_message() {
        let error = io::Error::from(Errno::NOENT);
        let refusal = at_path(Path::new("/a\u{1b}[2Jb\n"), &error);
        assert_eq!(
            refusal.message,
            "/a\\u{1b}[2Jb\\n: no such file or directory"
        );
    }
}
