//! Writes a file atomically: the content goes to a temporary file beside it, which then takes
//! its place.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use smolvm_protocol::message::{Event, WriteFile};

use super::make_directory::make_parents;
use super::path::{PERMISSION_BITS, absolute, permissions};
use crate::conversation::{Conversation, Failure, InputReader};
use crate::refusal;

pub(super) async fn run(host: &mut Conversation, request: WriteFile) -> Result<(), Failure> {
    let path = absolute(request.path)?;
    let mode = permissions(request.mode)?;
    let parents = request.parents;
    host.feed_input(move |input| {
        write(&path, mode, parents, input).map_err(|error| refusal::at_path(&path, &error))
    })
    .await?;
    host.outgoing.send_event(&Event::Done).await
}

fn write(path: &Path, mode: u32, parents: bool, mut input: InputReader) -> io::Result<()> {
    let existing = match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(rustix::io::Errno::ISDIR.into()),
        Ok(metadata) if !metadata.is_file() => {
            let message = "not a regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // What a symbolic link points to is replaced, never the link.
    let path = match existing {
        Some(_) => fs::canonicalize(path)?,
        None => path.to_owned(),
    };
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(rustix::io::Errno::ISDIR.into());
    }
    if parents {
        make_parents(directory)?;
    }
    let temporary = TemporaryFile::create(directory)?;
    io::copy(&mut input, &mut &temporary.file)?;
    if let Some(existing) = &existing {
        fchown(&temporary.file, Some(existing.uid()), Some(existing.gid()))?;
    }
    // After the owner: changing that clears the set-user-ID bits (chown(2)).
    let mode = existing.map_or(mode, |existing| existing.mode() & PERMISSION_BITS);
    temporary
        .file
        .set_permissions(Permissions::from_mode(mode))?;
    temporary.take_place_of(&path)
}

/// A file that goes away unless it takes the place of another.
struct TemporaryFile {
    path: PathBuf,
    file: File,
    is_placed: bool,
}

impl TemporaryFile {
    fn create(directory: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".smolvm-{}-{number}", std::process::id()));
            let result = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match result {
                Ok(file) => {
                    return Ok(Self {
                        path,
                        file,
                        is_placed: false,
                    });
                }
                // Left over from an agent that was switched off while it wrote.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_place_of(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // Nobody is left to tell when even that fails.
            let _ = fs::remove_file(&self.path);
        }
    }
}
