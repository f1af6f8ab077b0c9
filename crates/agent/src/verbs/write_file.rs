//! Writes a file atomically: the content goes to a temporary file beside it, which then takes
//! its place.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::Path;

use smolvm_protocol::message::{Event, WriteFile};

use super::make_directory::make_parents;
use super::path::{PERMISSION_BITS, absolute, permissions};
use crate::conversation::{Conversation, Failure, InputReader};
use crate::refusal;
use crate::temporary_file::TemporaryFile;

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
