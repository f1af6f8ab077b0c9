//! Unpacks a tar archive into a directory and never writes outside it.
//!
//! The directory is the root of every lookup: the kernel resolves each parent with
//! `RESOLVE_BENEATH` (openat2(2)), so neither `..`, nor an absolute name, nor a symbolic link,
//! whether it was there before or came with the archive, leads out. The last component is made
//! new and never followed.
//!
//! What is made belongs to root; modes and modification times are the archive's.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;
use serde_bytes::ByteBuf;
use smolvm_protocol::message::{Event, Refusal};
use tar::{Archive, Entry, EntryType};

use super::make_directory::make_parents;
use super::path::{PERMISSION_BITS, absolute};
use crate::conversation::{Conversation, Failure, InputReader};
use crate::refusal;

pub(super) async fn run(host: &mut Conversation, path: ByteBuf) -> Result<(), Failure> {
    let path = absolute(path)?;
    host.feed_input(move |input| unpack(&path, input)).await?;
    host.outgoing.send_event(&Event::Done).await
}

fn unpack(path: &Path, mut input: InputReader) -> Result<(), Refusal> {
    let at = |error: io::Error| refusal::at_path(path, &error);
    let mut destination = Destination::open(path).map_err(at)?;
    let mut archive = Archive::new(&mut input);
    for entry in archive.entries().map_err(at)? {
        let mut entry = entry.map_err(|error| refusal::invalid(&format!("archive: {error}")))?;
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        destination
            .unpack_entry(&mut entry, &name)
            .map_err(|error| refusal::at_path(&path.join(&name), &error))?;
    }
    // The archive may be padded; the host is heard out.
    io::copy(&mut input, &mut io::sink()).map_err(at)?;
    destination.finish().map_err(at)
}

/// A directory that an archive is unpacked into.
struct Destination {
    directory: OwnedFd,
    /// Directories to be given their mode and time once their content is complete.
    directories: Vec<(PathBuf, Stamp)>,
}

/// What an entry says of its file besides content.
#[derive(Clone, Copy)]
struct Stamp {
    mode: Mode,
    modified: Timespec,
}

impl Stamp {
    fn of<R: Read>(entry: &Entry<'_, R>) -> io::Result<Self> {
        let header = entry.header();
        Ok(Self {
            mode: Mode::from_raw_mode(header.mode()? & PERMISSION_BITS),
            modified: Timespec {
                tv_sec: i64::try_from(header.mtime()?).unwrap_or(i64::MAX),
                tv_nsec: 0,
            },
        })
    }

    fn times(&self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: self.modified,
        }
    }

    fn apply(&self, file: impl AsFd) -> io::Result<()> {
        rustix::fs::fchmod(&file, self.mode)?;
        Ok(rustix::fs::futimens(&file, &self.times())?)
    }
}

impl Destination {
    fn open(path: &Path) -> io::Result<Self> {
        make_parents(path)?;
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            directory: rustix::fs::openat(CWD, path, flags, Mode::empty())?,
            directories: Vec::new(),
        })
    }

    fn unpack_entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, name: &Path) -> io::Result<()> {
        let name = inner_path(name)?;
        let Some(last) = name.file_name() else {
            return Ok(());
        };
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let stamp = Stamp::of(entry)?;
        let parent = self.parent_of(&name)?;
        if kind == EntryType::Directory {
            make_directory(&parent, last)?;
            self.directories.push((name, stamp));
            return Ok(());
        }
        remove_existing(&parent, last)?;
        match kind {
            EntryType::Symlink => {
                let target = link_target(entry)?;
                rustix::fs::symlinkat(&target, &parent, last)?;
                let times = stamp.times();
                rustix::fs::utimensat(&parent, last, &times, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(())
            }
            EntryType::Link => {
                let target = inner_path(&link_target(entry)?)?;
                let target_name = target.file_name().ok_or(Errno::INVAL)?;
                let target_parent = self.parent_of(&target)?;
                let flags = AtFlags::empty();
                Ok(rustix::fs::linkat(
                    &target_parent,
                    target_name,
                    &parent,
                    last,
                    flags,
                )?)
            }
            EntryType::Fifo | EntryType::Char | EntryType::Block => {
                make_special(&parent, last, entry, stamp)
            }
            _ => write_regular(&parent, last, entry, stamp),
        }
    }

    /// Gives the directories their modes and times, the innermost first.
    fn finish(self) -> io::Result<()> {
        for (path, stamp) in self.directories.iter().rev() {
            match self.open_directory(path, OFlags::RDONLY) {
                Ok(directory) => stamp.apply(&directory)?,
                // A later entry of the archive replaced it.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Returns the directory that holds `path`, made where it is missing.
    fn parent_of(&self, path: &Path) -> io::Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match self.open_directory(parent, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            result => return Ok(result?),
        }
        let mut made = PathBuf::new();
        let mut directory = self.open_directory(&made, OFlags::PATH)?;
        for component in parent.components() {
            make_directory(&directory, component.as_os_str())?;
            made.push(component);
            directory = self.open_directory(&made, OFlags::PATH)?;
        }
        Ok(directory)
    }

    fn open_directory(&self, path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        rustix::fs::openat2(
            &self.directory,
            path,
            access | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
    }
}

/// Returns `name` relative to the destination, without the `/` and `.` that lead nowhere.
fn inner_path(name: &Path) -> io::Result<PathBuf> {
    let mut inner = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => inner.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::XDEV.into()),
        }
    }
    Ok(inner)
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> io::Result<PathBuf> {
    let target = entry.link_name_bytes().ok_or(Errno::INVAL)?;
    Ok(PathBuf::from(OsStr::from_bytes(&target)))
}

/// Makes a directory; one that exists, or a link to one, is kept.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let existing = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(existing.st_mode) {
                FileType::Directory | FileType::Symlink => Ok(()),
                _ => Err(Errno::NOTDIR.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn remove_existing(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn write_regular<R: Read>(
    parent: &OwnedFd,
    name: &OsStr,
    entry: &mut Entry<'_, R>,
    stamp: Stamp,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let owner_only = Mode::RUSR | Mode::WUSR;
    let mut file = File::from(rustix::fs::openat(parent, name, flags, owner_only)?);
    let expected = entry.size();
    if io::copy(entry, &mut file)? != expected {
        let message = "the archive is cut off";
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    stamp.apply(&file)
}

fn make_special<R: Read>(
    parent: &OwnedFd,
    name: &OsStr,
    entry: &Entry<'_, R>,
    stamp: Stamp,
) -> io::Result<()> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => FileType::CharacterDevice,
        EntryType::Block => FileType::BlockDevice,
        _ => FileType::Fifo,
    };
    let major = header.device_major()?.unwrap_or(0);
    let minor = header.device_minor()?.unwrap_or(0);
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(parent, name, kind, stamp.mode, device)?;
    // The kernel took the agent's file mode creation mask off.
    rustix::fs::chmodat(parent, name, stamp.mode, AtFlags::empty())?;
    Ok(rustix::fs::utimensat(
        parent,
        name,
        &stamp.times(),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}
